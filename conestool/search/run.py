"""Stepping a method to its end: progress, saving, resuming, and stopping between two steps."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from conestool.errors import UsageError
from conestool.search.events import Note, Progress, Report
from conestool.search.methods import Method
from conestool.search.saved import SavedRun

__all__ = ["run"]

SAVE_SECONDS = 30.0


def run(method: Method, saved: SavedRun | None, resume: bool, progress: Report) -> None:
    """Step `method` to its end.

    With `saved`, its state is written every half minute, at the end of a run longer than that, and on Ctrl-C, which
    waits for the step to end (a second one does not wait, and leaves the last written state).
    """
    done = restored(method, saved, progress) if saved and resume else 0
    last = begun = time.monotonic()
    with interrupts() as wanted:
        while done < method.steps:
            loss = method.step(done)
            done += 1
            progress(Progress("search", done, method.steps, loss))
            stop = wanted()
            if saved and (stop or time.monotonic() - last > SAVE_SECONDS):
                keep(saved, done, method, progress)
                last = time.monotonic()
            if stop:
                raise KeyboardInterrupt
    if saved and time.monotonic() - begun > SAVE_SECONDS:
        keep(saved, done, method, progress)


def keep(saved: SavedRun, done: int, method: Method, progress: Report) -> None:
    """Save the search; if that fails, for instance on a full disk, warn and let it go on."""
    try:
        saved.save(done, method.state())
    except UsageError as error:
        progress(Note(f"the search goes on unsaved: {error}", True))


def restored(method: Method, saved: SavedRun, progress: Report) -> int:
    """Bring `method` to where a saved run stopped; returns the number of finished steps."""
    found = saved.load()
    if found is None:
        progress(Note(f"{saved.path.name} is not there: starting from the beginning"))
        return 0
    steps, state = found
    method.restore(state)
    progress(Note(f"resumed after step {steps} of {method.steps}"))
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
