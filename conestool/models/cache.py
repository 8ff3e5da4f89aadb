"""Where things computed once are kept: the user's cache folder, or $CONES_CACHE. Losing it costs only time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from platformdirs import user_cache_dir

from conestool._atomic import write_atomic
from conestool.errors import UsageError

_NO_CACHE = Path(os.devnull) / "conestool"


def cache_dir() -> Path:
    """$CONES_CACHE, else the folder that the system keeps for caches; it may not exist yet.

    Where nobody has a home there is none: a folder that never exists and cannot be made.
    """
    if given := os.environ.get("CONES_CACHE"):
        return Path(given)
    try:
        folder = Path(user_cache_dir("conestool"))
    except RuntimeError:  # some versions of platformdirs raise, others give ~ as it is
        return _NO_CACHE
    return folder if folder.is_absolute() else _NO_CACHE


def cache_get(kind: str, key: str) -> Any:
    """The JSON value remembered under `kind` and `key`, or None if there is none that can be read."""
    try:
        return json.loads((cache_dir() / kind / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def cache_set(kind: str, key: str, value: Any) -> None:
    """Keep a JSON value; a cache that cannot be written is passed over."""
    write_cache_file(cache_dir() / kind / f"{key}.json", json.dumps(value, sort_keys=True).encode())


def write_cache_file(path: Path, data: bytes) -> bool:
    """Write a cache file whole or not at all; False if the cache cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data, overwrite=True)
    except (OSError, UsageError):
        return False
    return True
