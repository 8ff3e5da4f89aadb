"""What people see, all of it on stderr: notes, tables, bars and progress.

With rich on a terminal; plain lines without colour, bars that move or wrapping when stderr is no terminal or `NO_COLOR`
is set. Text is never parsed as rich markup, and text that may come from a file goes through `clean`.
"""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Ticker",
    "amount",
    "bar",
    "clean",
    "configure",
    "detail",
    "duration",
    "fail",
    "percent",
    "plain",
    "progress",
    "say",
    "size",
    "table",
    "verbose",
    "warn",
    "width",
]

QUIET, NORMAL, VERBOSE = -1, 0, 1
PLAIN_INTERVAL = 10.0
"""Seconds between two progress lines where nothing can move."""

state: dict[str, Any] = {"level": NORMAL, "console": None}


def configure(level: int) -> None:
    """Set how much is said: -1 warnings and errors alone, 0 normal, 1 everything. Looks at stderr anew."""
    state.update(level=level, console=None)


def verbose() -> bool:
    """Whether `-v` was given."""
    return bool(state["level"] >= VERBOSE)


def plain() -> bool:
    """Whether to do without colour and movement: stderr is no terminal, is a dumb one, or NO_COLOR is set."""
    dumb = os.environ.get("TERM") == "dumb"
    return dumb or bool(os.environ.get("NO_COLOR")) or not (sys.stderr and sys.stderr.isatty())


def console() -> Console:
    """The one rich console, on stderr."""
    if state["console"] is None:
        from rich.console import Console

        moving = not plain()
        state["console"] = Console(
            stderr=True, markup=False, highlight=False, emoji=False, no_color=not moving, force_terminal=moving
        )
    out: Console = state["console"]
    return out


def width() -> int:
    """Columns to lay tables out in: the terminal's, or 80 in a file."""
    return min(console().width, 100) if sys.stderr and sys.stderr.isatty() else 80


def clean(text: object) -> str:
    """`text` on one line, without control, formatting (bidi, zero-width) and undecodable characters."""
    kept = (" " if char in "\t\n\r\u2028\u2029" else char for char in str(text))
    return "".join(char for char in kept if unicodedata.category(char) not in {"Cc", "Cf", "Cs"})


def put(text: str, style: str | None = None) -> None:
    """One line to stderr, wrapped by the terminal alone, so that it copies and greps as one line."""
    if plain():
        print(text, file=sys.stderr, flush=True)
    else:
        console().print(text, style=style, soft_wrap=True)


def say(text: str, style: str | None = None) -> None:
    """A note, unless `-q`."""
    if state["level"] >= NORMAL:
        put(clean_lines(text), style)


def detail(text: str) -> None:
    """A note for `-v` alone."""
    if verbose():
        put(clean_lines(text), "dim")


def warn(text: str) -> None:
    """A warning; `-q` does not silence it."""
    put(f"warning: {clean_lines(text)}", "yellow")


def fail(message: str, hint: str | None = None) -> None:
    """Why the command stopped, and what to do about it."""
    put(f"error: {clean_lines(message)}", "bold red")
    if hint:
        put(f"  {clean_lines(hint)}")


def clean_lines(text: str) -> str:
    """`text` with every line cleaned and the line breaks kept."""
    return "\n".join(clean(line) for line in text.split("\n"))


def size(count: float) -> str:
    """Bytes for people, in decimal units: 812 B, 41.2 kB, 3.1 MB."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5 or unit == "GB":
            break
    return f"{count:.1f} {unit}" if count < 99.95 else f"{count:.0f} {unit}"


def amount(count: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: 1 photo, 2,048 neurons."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def percent(fraction: float, *, signed: bool = False) -> str:
    """A fraction as a percentage with three significant places at most: 0.65 %, -18.4 %."""
    value = 100 * fraction
    digits = 1 if abs(value) >= 9.995 or signed else 2 if abs(value) >= 0.0995 else 3
    return f"{value:+.{digits}f} %" if signed else f"{value:.{digits}f} %" if value else "0 %"


def duration(seconds: float) -> str:
    """Seconds for people: 48 s, 3 min 20 s, 1 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def bar(fraction: float, columns: int) -> str:
    """A bar of `fraction` (0 to 1) in `columns` cells, in eighths of a cell; never empty for a fraction above 0.

    Of `#` where stderr cannot show blocks.
    """
    if not blocks():
        return "#" * (max(1, round(min(1.0, fraction) * columns)) if fraction > 0 else 0)
    eighths = round(max(0.0, min(1.0, fraction)) * columns * 8)
    if fraction > 0:
        eighths = max(1, eighths)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def blocks() -> bool:
    """Whether stderr's encoding has the block characters."""
    try:
        "█▏".encode(sys.stderr.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), head: bool = True, indent: int = 2) -> None:
    """Rows in aligned columns (those in `right` flush right), each line cut at the terminal's edge, never wrapped."""
    if state["level"] < NORMAL or not rows:
        return
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(columns(row[index]) for row in cells if index < len(row)) for index in range(max(map(len, cells)))]
    for number, row in enumerate(cells):
        padded = [pad(cell, widths[index], index in right) for index, cell in enumerate(row)]
        line = (" " * indent + "  ".join(padded)).rstrip()
        put(line[: width()] if sys.stderr.isatty() else line, "dim" if head and number == 0 else None)


def columns(text: str) -> int:
    """Terminal cells that `text` takes: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def pad(text: str, wanted: int, right: bool) -> str:
    """`text` filled with spaces to `wanted` cells."""
    filling = " " * max(0, wanted - columns(text))
    return filling + text if right else text + filling


class Ticker(Protocol):
    """Progress of one piece of work: call it with the steps done and a short note, such as the current loss."""

    def __call__(self, done: int, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int, start: int = 0) -> Iterator[Ticker]:
    """Show work of `total` steps, `start` of them done: a bar with time left and a note, or now and then a line."""
    if state["level"] < NORMAL:
        yield lambda done, note="": None
    elif plain():
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
        put(", ".join(part for part in parts if part))

    return tick


@contextmanager
def rich_ticker(title: str, total: int, start: int) -> Iterator[Ticker]:
    """A ticker that moves a bar; it fits 40 columns."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    wide = width() >= 60
    parts = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None if wide else 8),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    ]
    if wide:
        parts.append(TextColumn("{task.fields[note]}", markup=False))
    with Progress(*parts, console=console(), transient=True, expand=False) as view:
        task = view.add_task(clean(title), total=total, completed=start, note="")

        def tick(done: int, note: str = "") -> None:
            view.update(task, completed=done, note=clean(note))

        yield tick
