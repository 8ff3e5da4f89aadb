"""Logs of a search, for TensorBoard, Weights & Biases, or as JSON lines, through the trackers of accelerate."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from PIL import Image

from conestool.errors import UsageError
from conestool.search.events import Event, Progress, Samples


class _JsonLines(GeneralTracker):  # type: ignore[misc]
    """One JSON object a line in `log.jsonl`, with the step and the time in seconds since 1970; pictures beside it."""

    name, requires_logging_directory, tracker = "jsonl", True, None

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Append one line."""
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")

    def log_images(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Write the pictures as PNG files, and a line with their names."""
        names = {key: f"step-{step:06}-{number}.png" for number, key in enumerate(values, 1)}
        for key, name in names.items():
            Image.fromarray(values[key][0]).save(self.folder / name)
        self.log({"samples": names}, step)


TRACKERS = {
    "tensorboard": lambda folder: TensorBoardTracker(".", logging_dir=str(folder)),
    "wandb": lambda folder: WandBTracker("conestool", dir=str(folder)),
    "jsonl": _JsonLines,
}


class SearchLog:
    """A callback of `find` and `tune` that logs loss, density and samples into `folder`, which is made.

    `kind` is one of `TRACKERS`. UsageError for another one, for one that is not installed, and if it cannot start.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        if kind not in TRACKERS:
            raise UsageError(f"unknown tracker {kind!r}", f"choose one of: {', '.join(TRACKERS)}")
        try:
            PartialState()  # which trackers ask whether they are the first process
            folder.mkdir(parents=True, exist_ok=True)
            self.tracker = TRACKERS[kind](folder)
            self.tracker.start()
        except ImportError as error:
            raise UsageError(f"--track {kind}: not installed", f"pip install {kind}") from error
        except Exception as error:  # trackers' own errors have no class in common
            raise UsageError(f"--track {kind}: {error}".splitlines()[0], "choose --track jsonl, or none") from error
        self.layout = {"dataformats": "NHWC"} if kind == "tensorboard" else {}

    def __call__(self, event: Event) -> None:
        """Log one event of the search."""
        if isinstance(event, Samples):
            pictures = zip(event.prompts, event.images, strict=True)
            values = {prompt: np.asarray(image.convert("RGB"))[None] for prompt, image in pictures}
            self.tracker.log_images(values, step=event.done, **self.layout)
        elif isinstance(event, Progress) and event.stage == "search":
            numbers = {"loss": event.loss, "density": event.density}
            self.tracker.log({key: value for key, value in numbers.items() if value is not None}, step=event.done)
