"""Progress where a person watches and no program shows its own: bars in terminals and notebooks."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["Bars", "bars"]


class Bars:
    """One bar at a time, on stderr or in a notebook's cell."""

    def __init__(self) -> None:
        self.title: str | None = None
        self.bar: Any = None

    def update(self, title: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` steps of `title` are finished; the bar before it and a full one are closed."""
        from tqdm.auto import tqdm

        if title != self.title:
            self.close()
            self.title, self.bar = title, tqdm(total=total, desc=title, initial=done)
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(done - self.bar.n)
        if done >= total:
            self.close()

    def say(self, text: str) -> None:
        """A line above the bar."""
        from tqdm.auto import tqdm

        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
        self.title = self.bar = None


def bars() -> Bars | None:
    """Bars if somebody sees them: in a notebook, or where stderr is a terminal."""
    notebook = "ipykernel" in sys.modules
    return Bars() if notebook or (sys.stderr is not None and sys.stderr.isatty()) else None
