"""The .cone format: bytes to Cone and back, after spec/cone-1.md."""

from __future__ import annotations

from conestool.format.container import dumps, load, loads, read_header, save
from conestool.format.header import ConceptHeader, Header

__all__ = ["ConceptHeader", "Header", "dumps", "load", "loads", "read_header", "save"]
