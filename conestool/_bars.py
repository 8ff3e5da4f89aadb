"""Progress where a person watches and no program shows its own: bars in terminals, one cell output in notebooks."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from conestool._html import data_uri
from conestool._text import clean

if TYPE_CHECKING:
    from PIL.Image import Image


class Bars:
    """One bar at a time, on stderr."""

    def __init__(self) -> None:
        self.title: str | None = None
        self.bar: Any = None

    def update(self, title: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` steps of `title` are finished; the bar before it and a full one are closed."""
        from tqdm import tqdm

        if title != self.title:
            self.close()
            self.title, self.bar = title, tqdm(total=total, desc=title, initial=done)
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(done - self.bar.n)
        if done >= total:
            self.close()

    def say(self, text: str) -> None:
        """A line above the bar."""
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)

    def show(self, title: str, images: Sequence[Image]) -> None:
        """Pictures, which a terminal has no place for."""

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
        self.title = self.bar = None


class NotebookBars(Bars):
    """The same in one output of a notebook's cell that changes in place: notes, the bar, and a strip of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []
        self.line = self.strip = ""
        self.handle: Any = None
        self.last = 0.0

    def update(self, title: str, done: int, total: int, note: str = "") -> None:
        """Move the bar, at most four times a second, and to its end."""
        text = html.escape(clean(f"{title}: {done} of {total}{', ' * bool(note)}{note}"))
        self.line = f"<div><progress max='{total}' value='{done}'></progress> {text}</div>"
        if done >= total or time.monotonic() - self.last > 0.25:
            self.refresh()

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.notes.append(f"<div>{html.escape(clean(text))}</div>")
        self.refresh()

    def show(self, title: str, images: Sequence[Image]) -> None:
        """Pictures behind those that are there."""
        label = html.escape(clean(title))
        for image in images:
            self.strip += f"<img src='{data_uri(image, 128)}' alt='{label}' title='{label}' width='96'> "
        self.refresh()

    def html(self) -> str:
        """All of it."""
        return f"{''.join(self.notes)}{self.line}<div>{self.strip}</div>"

    def refresh(self) -> None:
        """Put it in the place of what was there."""
        from IPython.display import HTML, display  # type: ignore[import-not-found, unused-ignore]

        self.last, content = time.monotonic(), HTML(self.html())
        if self.handle is None:
            self.handle = display(content, display_id=True)
        else:
            self.handle.update(content)


def bars() -> Bars | None:
    """Bars if somebody sees them: in a notebook, or where stderr is a terminal."""
    if "ipykernel" in sys.modules:
        return NotebookBars()
    return Bars() if sys.stderr is not None and sys.stderr.isatty() else None
