"""Finding concept neurons: `find.py` from top to bottom, one file per method in `methods/`."""

from __future__ import annotations

from conestool.search.config import DEFAULT_METHOD, SearchConfig
from conestool.search.events import Event, LogEvent, Progress
from conestool.search.find import find
from conestool.search.methods import METHODS

__all__ = ["DEFAULT_METHOD", "METHODS", "Event", "LogEvent", "Progress", "SearchConfig", "find"]
