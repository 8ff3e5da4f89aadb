"""What is shown where no program of ours runs: concepts in notebooks, progress in notebooks and terminals.

Every text in HTML is escaped, and every picture is inside the page.
"""

from __future__ import annotations

import base64
import html
import io
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conestool import _layers
from conestool._text import clean

if TYPE_CHECKING:
    from PIL.Image import Image


def data_uri(image: Image, most: int = 512) -> str:
    """The picture as the address that an `img` needs, at most `most` pixels wide and high: PNG, JPEG where large."""
    kept, out = image.convert("RGB"), io.BytesIO()
    kept.thumbnail((most, most))
    kind = "PNG" if max(kept.size) <= 256 else "JPEG"
    kept.save(out, kind, quality=90)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def concept_html(title: str, rows: Mapping[str, str], counts: Mapping[str, int], sizes: Mapping[str, int]) -> str:
    """A table under a title, empty rows left out, and a bar for each layer, for a notebook in any colours."""
    shares = _layers.shares(counts, sizes, _layers.choose_detail(sizes))
    most = max(shares.values(), default=0.0) or 1.0
    cells = "".join(f"<tr><td>{_text(key)}</td><td>{_text(value)}</td></tr>" for key, value in rows.items() if value)
    bars = "".join(
        f"<span title='{_text(name)}: {share:.2%}' style='display:inline-block;width:9px;margin-right:2px;"
        f"vertical-align:bottom;background:#d9730d;height:{max(1, round(36 * share / most))}px'></span>"
        for name, share in shares.items()
    )
    foot = f"<small>share of each layer's weights, {_text(next(iter(shares), ''))} first; highest {most:.2%}</small>"
    return f"<div><b>{_text(title)}</b><table>{cells}</table><div>{bars}</div>{foot}</div>"


def _text(value: str) -> str:
    """Text that stays text."""
    return html.escape(clean(value), quote=True)


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
        text = _text(f"{title}: {done} of {total}{', ' * bool(note)}{note}")
        self.line = f"<div><progress max='{total}' value='{done}'></progress> {text}</div>"
        if done >= total or time.monotonic() - self.last > 0.25:
            self.refresh()

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.notes.append(f"<div>{_text(text)}</div>")
        self.refresh()

    def show(self, title: str, images: Sequence[Image]) -> None:
        """Pictures behind those that are there."""
        label = _text(title)
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
