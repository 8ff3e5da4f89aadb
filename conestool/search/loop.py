"""Stepping a method to its end: progress, saving, resuming, and stopping between two steps."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from conestool._atomic import write_atomic
from conestool.errors import UsageError
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.events import Note, Progress, Report
from conestool.search.methods.base import Method
from conestool.search.objective import LossScale, Objective

__all__ = ["SavedRun", "run", "run_key"]

SAVE_SECONDS = 30.0


def run(
    method: Method,
    objectives: Sequence[Objective],
    saved: SavedRun | None,
    resume: bool,
    progress: Report,
    processes: DistributedState = SINGLE_PROCESS,
) -> None:
    """Step `method`, which works on `objectives`, to its end.

    With `saved`, its state is written every half minute, at the end of a run longer than that, and on Ctrl-C, which
    waits for the step to end (a second one does not wait, and leaves the last written state). Of several `processes`
    all stop after the same step, and the first alone reads and writes the state.
    """
    search = Search(method, [objective.scale for objective in objectives])
    files = saved if processes.is_main_process else None
    begun = time.monotonic()
    with interrupts() as wanted:
        done = restored(search, files, progress, processes) if saved and resume else 0
        last = time.monotonic()
        while done < method.steps:
            loss = method.step(done)
            done += 1
            progress(Progress("search", done, method.steps, loss))
            stop = processes.any(wanted())
            if files and (stop or time.monotonic() - last > SAVE_SECONDS):
                keep(files, done, search, progress)
                last = time.monotonic()
            if stop:
                raise KeyboardInterrupt
    if files and time.monotonic() - begun > SAVE_SECONDS:
        keep(files, done, search, progress)


@dataclass(frozen=True)
class Search:
    """A method with the loss scales of its objectives: all that a search is between two steps."""

    method: Method
    scales: Sequence[LossScale]

    def state(self) -> dict[str, Tensor]:
        """The tensors that `restore` needs to go on from here."""
        named = (
            (f"{name}.{number}", value)
            for number, scale in enumerate(self.scales)
            for name, value in scale.state().items()
        )
        return {**self.method.state(), **dict(named)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.method.restore(state)
        for number, scale in enumerate(self.scales):
            scale.restore({name.removesuffix(f".{number}"): value for name, value in state.items()})


def keep(saved: SavedRun, done: int, search: Search, progress: Report) -> None:
    """Save the search; if that fails, for instance on a full disk, warn and let it go on."""
    try:
        saved.save(done, search.state())
    except UsageError as error:
        progress(Note(f"the search goes on unsaved: {error}", True))


def restored(search: Search, saved: SavedRun | None, progress: Report, processes: DistributedState) -> int:
    """Bring `search` to where a saved run stopped; returns the number of finished steps.

    The first process reads the file and the others have it from there.
    """
    found = saved.load() if saved else None
    steps = int(processes.sum(float(found[0]) if found else 0.0))
    if not steps:
        name = saved.path.name if saved else ""
        progress(Note(f"{name} is not there: starting from the beginning"))
        return 0
    if found:
        search.restore(found[1])
    if processes.num_processes > 1:
        state = sorted(search.state().items())
        search.restore({name: processes.broadcast(value.contiguous().clone()) for name, value in state})
    progress(Note(f"resumed after step {steps} of {search.method.steps}"))
    return steps


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C; yields whether there was one. The second raises KeyboardInterrupt at once.

    Outside the main thread, where signals cannot be caught, it yields a constant False.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)


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
        write_atomic(self.path, save(tensors, {"key": self.key, "steps": str(steps)}), overwrite=True)

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
