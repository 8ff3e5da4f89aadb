"""Logs of a search, for TensorBoard, Weights & Biases, or as JSON lines, through the trackers of accelerate."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from conestool.errors import UsageError
from conestool.search.events import Event, Progress, Samples

__all__ = ["TRACKERS", "SearchLog"]

TRACKERS = ("tensorboard", "wandb", "jsonl")


class _JsonLines(GeneralTracker):  # type: ignore[misc]
    """One JSON object a line in `log.jsonl`, and pictures as PNG files beside it."""

    name, requires_logging_directory = "jsonl", True

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    @property
    def tracker(self) -> Path:
        """Where the lines go."""
        return self.folder / "log.jsonl"

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Append one line; `time` is in seconds since 1970."""
        with self.tracker.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")

    def log_images(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Write the pictures, and a line with their names."""
        from PIL import Image

        names = {key: f"step-{step:06}-{number}.png" for number, key in enumerate(values, 1)}
        for key, name in names.items():
            Image.fromarray(values[key][0]).save(self.folder / name)
        self.log({"samples": names}, step)


class SearchLog:
    """A callback of `find` and `tune` that logs loss, density and samples into `folder`, which is made.

    `kind` is one of `TRACKERS`. UsageError for another one, for one that is not installed, and if it cannot start.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        if kind not in TRACKERS:
            raise UsageError(f"unknown tracker {kind!r}", f"choose one of: {', '.join(TRACKERS)}")
        self.kind = kind
        try:
            PartialState()  # which trackers ask whether they are the first process
            folder.mkdir(parents=True, exist_ok=True)
            makers = {"tensorboard": TensorBoardTracker, "wandb": WandBTracker}
            options: dict[str, Any] = {"dir": str(folder)} if kind == "wandb" else {"logging_dir": str(folder)}
            name = "conestool" if kind == "wandb" else "."
            self.tracker = _JsonLines(folder) if kind == "jsonl" else makers[kind](name, **options)
            self.tracker.start()
        except ImportError as error:
            raise UsageError(f"--track {kind}: not installed", f"pip install {kind}") from error
        except Exception as error:  # a tracker's own errors have no class in common
            raise UsageError(f"--track {kind}: {error}".splitlines()[0], "choose --track jsonl, or none") from error

    def __call__(self, event: Event) -> None:
        """Log one event of the search."""
        if isinstance(event, Samples):
            pictures = zip(event.prompts, event.images, strict=True)
            values = {prompt: np.asarray(image.convert("RGB"))[None] for prompt, image in pictures}
            self.tracker.log_images(values, step=event.done, **self._layout)
        elif isinstance(event, Progress) and event.stage == "search":
            numbers = {"loss": event.loss, "density": event.density}
            self.tracker.log({key: value for key, value in numbers.items() if value is not None}, step=event.done)

    @property
    def _layout(self) -> dict[str, str]:
        """TensorBoard must be told that channels come last."""
        return {"dataformats": "NHWC"} if self.kind == "tensorboard" else {}
