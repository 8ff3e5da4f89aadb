"""What people see, all of it on stderr: notes, tables and bars."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from conestool._text import clean as clean
from conestool._text import quoted

if TYPE_CHECKING:
    from rich.console import Console

QUIET, NORMAL, VERBOSE = -1, 0, 1
KEY = 11
"""Cells of the keys before facts, so that those of several tables line up."""
CELL = 100
"""Characters of one table cell that are shown."""
ROWS = 5000
"""Rows of one table that are shown."""

state: dict[str, Any] = {"level": NORMAL, "console": None, "mute": False, "report": True}


def configure(level: int, report: bool = True) -> None:
    """Set how much is said: -1 warnings and errors alone, 0 normal, 1 everything. Looks at stderr anew.

    Without `report` there are no notes and tables for people, because the same goes to stdout as JSON; bars stay.
    """
    state.update(level=level, console=None, report=report)


def mute(silent: bool) -> None:
    """Say nothing at all from now on, or speak again: for a process that another one speaks for."""
    state["mute"] = silent


def level() -> int:
    """How much is said."""
    return int(state["level"])


def verbose() -> bool:
    """Whether `-v` was given."""
    return bool(state["level"] >= VERBOSE)


def quiet() -> bool:
    """Whether `-q` was given, or another process speaks."""
    return bool(state["level"] < NORMAL or state["mute"])


def reports() -> bool:
    """Whether notes and tables are for people to read: not with `-q`, and with `--json` only if there is `-v` too."""
    return verbose() or (level() >= NORMAL and bool(state["report"]))


def plain() -> bool:
    """Whether to do without colour and movement: stderr is no terminal, is a dumb one, or NO_COLOR is set."""
    dumb = os.environ.get("TERM") == "dumb"
    return dumb or bool(os.environ.get("NO_COLOR")) or not on_terminal()


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


def on_terminal() -> bool:
    """Whether somebody reads this as it comes."""
    return bool(sys.stderr and sys.stderr.isatty())


def width() -> int:
    """Columns to lay tables out in: the terminal's, or 80 in a file."""
    return min(console().width, 100) if on_terminal() else 80


def put(text: str, style: str | None = None, *, copied: bool = False) -> None:
    """One line to stderr, which a terminal shows broken between words unless it is to be `copied`.

    A stderr that takes no more, such as a log on a full disk, loses the line; it does not stop the work.
    """
    if state["mute"]:
        return
    with contextlib.suppress(OSError):
        for line in [text] if copied or not on_terminal() else fold(text, console().width):
            if plain():
                print(line, file=sys.stderr, flush=True)
            else:
                console().print(line, style=style, soft_wrap=True)


def say(text: str, style: str | None = None) -> None:
    """A note, unless `-q` or `--json`."""
    if reports():
        put(clean(text), style)


def tell(text: str) -> None:
    """Something that even `-q` must not hide."""
    put(clean(text))


def command(text: str, *words: str) -> None:
    """What to do, as a command line to copy: quoted for a shell and never cut; even `-q` must not hide it."""
    put(f"{clean(text)} {quoted(*words)}", copied=True)


def page(text: str) -> None:
    """Several lines, such as a help page or a traceback, each cleaned; even `-q` must not hide it."""
    for line in text.splitlines():
        put(clean(line), copied=True)


def detail(text: str) -> None:
    """A note for `-v` alone."""
    if verbose():
        put(clean(text), "dim")


def warn(text: str) -> None:
    """A warning; `-q` does not silence it."""
    put(f"warning: {clean(text)}", "yellow")


def fail(message: str, hint: str | None = None) -> None:
    """Why the command stopped, and what to do about it."""
    put(f"error: {clean(message)}", "bold red")
    if hint:
        put(f"  {clean(hint)}")


def size(count: float) -> str:
    """Bytes for people, in decimal units: 812 B, 41.2 kB, 3.1 MB."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5 or unit == "GB":
            break
    return f"{count:.1f} {unit}" if count < 99.95 else f"{count:.0f} {unit}"


def amount(count: int, noun: str) -> str:
    """A number with its noun: 1 photo, 2,048 neurons."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


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


def facts(rows: Sequence[Sequence[str]]) -> None:
    """Rows of key and value; values that are too long for the terminal go on below where they began."""
    wide = max((columns(clean(key, CELL)) for key, _ in rows), default=0)
    for key, value in rows:
        lead = "  " + pad(clean(key, CELL), max(wide, KEY), right=False) + "  "
        lines = fold(clean(value), max(16, width() - columns(lead))) if on_terminal() else [clean(value)]
        for number, line in enumerate(lines):
            say(((lead if number == 0 else " " * columns(lead)) + line).rstrip())


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), head: bool = True, stack: bool = False) -> None:
    """Rows in aligned columns (those in `right` flush right), each line cut at the terminal's edge, never wrapped.

    With `stack` nothing but a long cell is cut: where a line would not fit, the first cell stands above the others.
    """
    if not reports() or not rows:
        return
    cells = [[clean(cell, CELL) for cell in row] for row in rows[:ROWS]]
    lines = [f"  {line}".rstrip() for line in aligned(cells, right)]
    heads = [head and number == 0 for number in range(len(lines))]
    if stack and on_terminal() and max(map(columns, lines)) > width():
        lines, heads = stacked(cells, right, head)
    for line, is_head in zip(lines, heads, strict=True):
        put(cut(line, width()) if on_terminal() else line, "dim" if is_head else None)
    if len(rows) > ROWS:
        put(f"  and {len(rows) - ROWS:,} rows more")


def aligned(cells: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    """Each row as a line, its cells padded to their columns."""
    widths = [max(columns(row[index]) for row in cells if index < len(row)) for index in range(max(map(len, cells)))]
    return ["  ".join(pad(cell, widths[index], index in right) for index, cell in enumerate(row)) for row in cells]


def stacked(cells: Sequence[Sequence[str]], right: Sequence[int], head: bool) -> tuple[list[str], list[bool]]:
    """The lines of a table that is too wide, and which are its head: first cells, and the others indented below them.

    The others stand side by side where that fits, else each on its own line after its column's name.
    """
    below = [f"  {line}".rstrip() for line in aligned([row[1:] for row in cells], [index - 1 for index in right])]
    names = cells[0]
    lines, heads = [], []
    for number, row in enumerate(cells):
        beside = [below[number]]
        if max(map(columns, below)) > width():
            beside = [f"  {name}  {cell}" for name, cell in zip(names[1:], row[1:], strict=False)] if number else []
        lines += [row[0], *beside]
        heads += [head and number == 0] * (1 + len(beside))
    return lines, heads


def fold(text: str, room: int) -> list[str]:
    """`text` in lines of at most `room` cells, broken between words and indented alike."""
    if columns(text) <= room:
        return [text]
    from rich.text import Text

    words = text.lstrip(" ")
    lead = text[: len(text) - len(words)][: room // 2]
    return [lead + line.plain.rstrip() for line in Text(words).wrap(console(), max(1, room - len(lead)))]


def cut(text: str, room: int) -> str:
    """The beginning of `text` that fits into `room` cells."""
    if columns(text) <= room:
        return text
    from rich.cells import set_cell_size

    return set_cell_size(text, room).rstrip()


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


PLAIN_INTERVAL = 10.0
"""Seconds between two lines where nothing can move."""


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """Show that something takes its time and has no steps: a spinner, or with -v a line where plain."""
    if plain() or quiet():
        detail(title)
        yield
    else:
        from rich.text import Text  # which is not parsed as markup

        with console().status(Text(clean(title), no_wrap=True, overflow="ellipsis"), spinner="line"):
            yield


class Ticker(Protocol):
    """Progress of one piece of work: call it with the steps done and a short note, such as the current loss."""

    def __call__(self, done: int, note: str = "") -> None: ...


def after(tick: Ticker, before: int) -> Callable[[int, int], None]:
    """A library's progress callback that counts on from `before` pictures."""
    return lambda done, total: tick(before + done)


@contextmanager
def progress(title: str, total: int, start: int = 0) -> Iterator[Ticker]:
    """Show work of `total` steps, `start` of them done: a bar with time left and a note, or now and then a line."""
    if quiet():
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
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Left(ProgressColumn):
        """Time left, in words."""

        def render(self, task: Task) -> Text:
            return Text("" if task.time_remaining is None else f"{duration(task.time_remaining)} left")

    wide = width() >= 60
    parts = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30 if wide else 6),
        MofNCompleteColumn(),
    ]
    if wide:
        parts.append(TextColumn("{task.fields[note]}", markup=False))
    parts.append(Left())
    with Progress(*parts, console=console(), transient=True, expand=False) as view:
        task = view.add_task(clean(title), total=total, completed=start, note="")

        def tick(done: int, note: str = "") -> None:
            view.update(task, completed=done, note=clean(note))

        yield tick
