"""Shows the events of a running search: one bar per stage, notes and warnings between them."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from conestool.cli import _progress, _show

if TYPE_CHECKING:
    from conestool.search.events import Event

__all__ = ["Stages"]

WORTH_SAYING = 20.0
"""Seconds from which on a stage says beforehand what it will take, where no bar shows it."""


class Stages:
    """A progress callback; use it as a context manager, so that no bar is left behind."""

    def __init__(self) -> None:
        self.stage: str | None = None
        self.view: AbstractContextManager[_progress.Ticker] | None = None
        self.ticker: _progress.Ticker | None = None
        self.began = 0.0
        self.start = 0

    def __enter__(self) -> Stages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        from conestool.search.events import Note

        if isinstance(event, Note):
            (_show.warn if event.warning else _show.say)(event.text)
            return
        if event.stage != self.stage:
            self.open(event.stage, event.done, event.total)
        if self.ticker:
            self.ticker(event.done, f"loss {event.loss:.4f}" if event.loss is not None else "")
        self.estimate(event.done, event.total)
        if event.done >= event.total:
            took = time.monotonic() - self.began
            self.close()
            _show.say(f"{event.stage}: {event.total}" + (f" in {_show.duration(took)}" if took >= 1 else ""))

    def open(self, stage: str, done: int, total: int) -> None:
        """Begin a stage, `done` steps of which are finished when it is first heard of; the one before it is closed."""
        self.close()
        self.stage, self.began, self.start = stage, time.monotonic(), done
        self.view = _progress.progress(stage, total, done)
        self.ticker = self.view.__enter__()

    def estimate(self, done: int, total: int) -> None:
        """Say once, after the first step seen, what the stage will take."""
        ahead = (time.monotonic() - self.began) * (total - done)
        if done == self.start + 1 and ahead > WORTH_SAYING and _show.plain():
            _show.say(f"{self.stage}: about {_show.duration(ahead)}")

    def close(self) -> None:
        """Take the bar away."""
        if self.view:
            self.view.__exit__(None, None, None)
        self.view = self.ticker = self.stage = None
