"""How long work takes: a moving bar with time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from conestool.cli import _show
from conestool.cli._show import clean, duration

__all__ = ["Ticker", "progress", "waiting"]

PLAIN_INTERVAL = 10.0
"""Seconds between two lines where nothing can move."""


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """Show that something takes its time and has no steps: a spinner, or with -v a line where plain."""
    if _show.plain() or _show.quiet():
        _show.detail(title)
        yield
    else:
        from rich.text import Text  # which is not parsed as markup

        with _show.console().status(Text(clean(title), no_wrap=True, overflow="ellipsis"), spinner="line"):
            yield


class Ticker(Protocol):
    """Progress of one piece of work: call it with the steps done and a short note, such as the current loss."""

    def __call__(self, done: int, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int, start: int = 0) -> Iterator[Ticker]:
    """Show work of `total` steps, `start` of them done: a bar with time left and a note, or now and then a line."""
    if _show.quiet():
        yield lambda done, note="": None
    elif _show.plain():
        yield plain_ticker(title, total, start)
    else:
        with rich_ticker(title, total, start) as ticker:
            yield ticker


def plain_ticker(title: str, total: int, start: int) -> Ticker:
    """A ticker that prints a line now and then, with the time left."""
    began = last = time.monotonic()

    def tick(done: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < PLAIN_INTERVAL or done >= total:
            return
        last = now
        ahead = (now - began) / max(done - start, 1) * (total - done)
        parts = (f"{clean(title)}: {done}/{total}", clean(note), f"{duration(ahead)} left")
        _show.put(", ".join(part for part in parts if part))

    return tick


@contextmanager
def rich_ticker(title: str, total: int, start: int) -> Iterator[Ticker]:
    """A ticker that moves a bar; it fits 40 columns."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Left(ProgressColumn):
        """Time left, in words."""

        def render(self, task: Task) -> Text:
            return Text("" if task.time_remaining is None else f"{duration(task.time_remaining)} left")

    wide = _show.width() >= 60
    parts = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30 if wide else 6),
        MofNCompleteColumn(),
    ]
    if wide:
        parts.append(TextColumn("{task.fields[note]}", markup=False))
    parts.append(Left())
    with Progress(*parts, console=_show.console(), transient=True, expand=False) as view:
        task = view.add_task(clean(title), total=total, completed=start, note="")

        def tick(done: int, note: str = "") -> None:
            view.update(task, completed=done, note=clean(note))

        yield tick
