"""From a prompt to labelled, repeatable pictures; only drawing itself needs torch, which loads when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conestool._names import rewrite
from conestool.rendering.grid import grid
from conestool.rendering.library import Selection, find_ids, search_folders
from conestool.rendering.png import png_bytes, read_record, read_sheet

if TYPE_CHECKING:
    from conestool.rendering.drawing import Rendering, render, replay, sheet_bytes, without_effect

__all__ = [
    "Rendering",
    "Selection",
    "find_ids",
    "grid",
    "png_bytes",
    "read_record",
    "read_sheet",
    "render",
    "replay",
    "rewrite",
    "search_folders",
    "sheet_bytes",
    "without_effect",
]

DRAWING = ("Rendering", "render", "replay", "sheet_bytes", "without_effect")
"""What needs torch."""


def __getattr__(name: str) -> Any:
    if name in DRAWING:
        from conestool.rendering import drawing

        return getattr(drawing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
