"""The .cone format: bytes to Cone and back, after spec/cone-1.md.

What reads index sets is imported when first used, so that headers are read without numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conestool.format.header import ConceptHeader, Header
from conestool.format.preamble import read_header

if TYPE_CHECKING:
    from conestool.format.container import dumps, load, loads, save

__all__ = ["ConceptHeader", "Header", "dumps", "load", "loads", "read_header", "save"]


def __getattr__(name: str) -> Any:
    if name in ("dumps", "load", "loads", "save"):
        from conestool.format import container

        return getattr(container, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
