"""From a prompt to labelled, repeatable pictures; only drawing itself needs torch, which loads when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conestool.render.grid import grid
from conestool.render.library import Selection, find_cones, find_ids, search_folders
from conestool.render.png import png_bytes, read_record
from conestool.render.prompts import rewrite

if TYPE_CHECKING:
    from conestool.render.drawing import Rendering, render, replay

__all__ = [
    "Rendering",
    "Selection",
    "find_cones",
    "find_ids",
    "grid",
    "png_bytes",
    "read_record",
    "render",
    "replay",
    "rewrite",
    "search_folders",
]


def __getattr__(name: str) -> Any:
    if name in ("Rendering", "render", "replay"):
        from conestool.render import drawing

        return getattr(drawing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
