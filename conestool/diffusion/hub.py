"""Base models on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conestool.diffusion.quiet import quiet
from conestool.errors import HubError, ModelLoadError
from conestool.hub import hub_errors

__all__ = ["fetch", "model_errors"]


def fetch(model_id: str, revision: str | None, offline: bool, weights: bool = True) -> Path:
    """The local snapshot of a Hub repository, downloaded unless it is cached or `offline` is set."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"revision": revision, "local_files_only": offline}
    with model_errors(model_id, revision, offline), quiet():
        if weights:
            return Path(DiffusionPipeline.download(model_id, use_safetensors=True, safety_checker=None, **options))
        return Path(snapshot_download(model_id, allow_patterns=["*.json", "*.txt", "*.model"], **options))


@contextmanager
def model_errors(model_id: str, revision: str | None, offline: bool) -> Iterator[None]:
    """What goes wrong between here and the Hub as a ModelLoadError that says what to do."""
    try:
        with hub_errors(model_id, revision, offline, what="model"):
            yield
    except HubError as error:
        raise ModelLoadError(str(error), error.hint) from error
