"""Models on the Hugging Face Hub: fetching them, and saying in plain words why one cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conestool.diffusion.quiet import quiet
from conestool.diffusion.reading import causes, first_line
from conestool.errors import ModelLoadError

__all__ = ["fetch", "hub_errors"]


def fetch(model_id: str, revision: str | None, offline: bool, weights: bool = True) -> Path:
    """The local snapshot of a Hub repository, downloaded unless it is cached or `offline` is set."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"revision": revision, "local_files_only": offline}
    with hub_errors(model_id, revision, offline), quiet():
        if weights:
            return Path(DiffusionPipeline.download(model_id, use_safetensors=True, safety_checker=None, **options))
        return Path(snapshot_download(model_id, allow_patterns=["*.json", "*.txt", "*.model"], **options))


@contextmanager
def hub_errors(model_id: str, revision: str | None, offline: bool) -> Iterator[None]:
    """Turn what goes wrong between here and the Hub into a ModelLoadError that says what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ModelLoadError(*explain(model_id, revision, offline, error)) from error


def explain(model_id: str, revision: str | None, offline: bool, error: BaseException) -> tuple[str, str]:
    """Message and hint for a failed download; diffusers hides the Hub's answer behind errors of its own."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    chain = list(causes(error))
    if offline:
        return f"{model_id}: not on this machine", "run once without --offline"
    if any(isinstance(cause, GatedRepoError) for cause in chain):
        return f"{model_id}: gated on the Hub", "accept its terms there, then: hf auth login"
    if any(isinstance(cause, RevisionNotFoundError) for cause in chain):
        return f"{model_id}: the Hub has no revision {revision!r} of it", "see the branches and commits on its page"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in chain):
        return f"{model_id}: no such model here or on the Hub", "check the spelling; for a private one: hf auth login"
    hint = "check the connection; --offline uses the cache alone"
    return f"{model_id}: cannot be fetched: {first_line(chain[-1])[:200]}", hint
