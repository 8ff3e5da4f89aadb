"""The state of an interrupted search in one file beside the output, so that `--resume` goes on from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from conestool._atomic import write_atomic
from conestool.errors import UsageError

__all__ = ["SavedRun", "run_key"]


def run_key(facts: Any) -> str:
    """Sha256 hex of everything that a search depends on: equal keys, equal results."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class SavedRun:
    """A safetensors file with a method's tensors, the number of finished steps and the run's key."""

    path: Path
    key: str

    def save(self, steps: int, state: Mapping[str, Tensor]) -> None:
        """Write the state after `steps` steps, atomically."""
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        write_atomic(self.path, save(tensors, {"key": self.key, "steps": str(steps)}), force=True)

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        """Finished steps and state, or None if there is no file; UsageError if it belongs to another run."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                facts = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UsageError(
                f"{self.path}: not a saved search: {error}", "delete it, or run without --resume"
            ) from error
        if facts.get("key") != self.key:
            raise UsageError(
                f"{self.path}: saved by a search with other photos, settings or base model",
                "repeat the interrupted command as it was, or run without --resume",
            )
        return int(facts["steps"]), state
