"""Which base model a command works with, and concepts with strengths as typed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conestool.cli import _progress, _show

if TYPE_CHECKING:
    from conestool.concept import Cone
    from conestool.diffusion.models import Model

__all__ = ["POCKET", "Wanted", "Where", "note_fallback", "open_model", "parse_wanted", "strengths"]

POCKET = "pocket"
FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"


@dataclass(frozen=True)
class Wanted:
    """One `F[:strength]` of the command line."""

    path: Path
    strength: float = 1.0


def parse_wanted(text: str) -> Wanted:
    """Split `dog.cone:0.5` into file and strength; a file that has the whole name wins."""
    from conestool.errors import UsageError

    path, colon, tail = text.rpartition(":")
    if not colon or not path or Path(text).exists():
        return Wanted(Path(text))
    try:
        strength = float(tail)
    except ValueError:
        return Wanted(Path(text))
    if not 0 <= strength <= 1:
        raise UsageError(f"{text}: strength {tail} is out of range", "0 leaves the model as it is, 1 shuts fully")
    return Wanted(Path(path), strength)


def strengths(wanted: Sequence[Wanted], cones: Sequence[Cone]) -> dict[str, float]:
    """Strength per concept name: every concept of a file gets that of its file."""
    return {name: one.strength for one, cone in zip(wanted, cones, strict=True) for name in cone.names}


@dataclass(frozen=True)
class Where:
    """Which base model, and how to load it, as typed."""

    model: str | None
    device: str
    dtype: str
    revision: str | None = None
    config: str | None = None
    offline: bool = False


def open_model(where: Where, recorded: tuple[str, str | None] | None = None) -> Model:
    """Load the base model: `--model`, else CONES_MODEL, else the one `recorded` (id, revision), else pocket."""
    from conestool.errors import UsageError

    given = where.model or os.environ.get("CONES_MODEL")
    model_id, revision = (given, where.revision) if given else recorded or (POCKET, None)
    options: dict[str, Any] = {"config": where.config, "offline": where.offline}
    try:
        with _progress.waiting(f"loading {model_id}"):
            from conestool.diffusion.models import load_model

            model = load_model(
                model_id, device=where.device, dtype=where.dtype, revision=where.revision or revision, **options
            )
    except UsageError as error:
        if given or not recorded:
            raise
        raise UsageError(f"{error}, but the concept was found on it", "say where it is with --model") from error
    note_fallback(model.device.type)
    _show.detail(f"{model_id} on {model.device}, {str(model.dtype).removeprefix('torch.')}")
    return model


def note_fallback(device: str) -> None:
    """Say that PyTorch was told to let the CPU do what the Apple GPU cannot."""
    if device == "mps" and os.environ.get(FALLBACK) == "1":
        _show.say(f"note: {FALLBACK}=1: what the Apple GPU cannot do runs on the CPU, and takes long")
