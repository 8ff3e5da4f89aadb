"""Finding concept neurons: one file per method, the controls beside them."""

from __future__ import annotations

from conestool.search.events import Event, Note, Progress
from conestool.search.finding import find
from conestool.search.methods import METHODS
from conestool.search.settings import DEFAULT_METHOD, Settings

__all__ = ["DEFAULT_METHOD", "METHODS", "Event", "Note", "Progress", "Settings", "find"]
