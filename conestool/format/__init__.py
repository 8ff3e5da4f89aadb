"""The .cone format: bytes to Cone and back, after spec/cone-1.md.

What reads index sets is imported when first used, so that headers are read without numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conestool.format.reader import Header, load, loads, read_header

if TYPE_CHECKING:
    from conestool.format.writer import dumps, save

__all__ = ["Header", "dumps", "load", "loads", "read_header", "save"]


def __getattr__(name: str) -> Any:
    if name in ("dumps", "save"):
        from conestool.format import writer

        return getattr(writer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
