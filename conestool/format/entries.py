"""Rows of the tensor tables, and the lengths that each codec allows: a header is checked with these, without numpy."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from conestool.errors import FormatError
from conestool.records import size_of

__all__ = [
    "BITMAP",
    "CODECS",
    "GAPS",
    "GRID",
    "MORE",
    "Entry",
    "bitmap_allowed",
    "check",
    "grid_allowed",
    "low_bits",
    "sides",
    "total",
]

BITMAP, GAPS, GRID = 0, 1, 2
CODECS = {BITMAP: "bitmap", GAPS: "gaps", GRID: "grid"}

DENSE = 8
"""A bitmap has at most this many weights for each index."""
MORE = 255
"""The byte of a gap's quotient that goes on in the next byte."""
SIDE = 16
"""Rows plus columns of a grid are at most this many times k, so that the classes do not outgrow the indices."""
SIDES = 1 << 20
"""Rows plus columns of a grid are at most this many, so that a reader can order them by class in a few milliseconds."""


class Entry(NamedTuple):
    """A row of a concept's tensor table: number of the tensor in its base, codec, k, bytes of raw and coded piece."""

    tensor: int
    codec: int
    k: int
    raw: int
    coded: int


def check(entry: Entry, shape: list[int]) -> None:
    """Refuse an entry that cannot be right, before anything is read or allocated for it."""
    n = size_of(shape)
    if not 1 <= entry.k <= n:
        raise FormatError(f"{entry.k} indices in a tensor of {n} weights")
    if entry.codec == BITMAP:
        fits = bitmap_allowed(n, entry.k) and entry.raw == 0 and entry.coded == (n + 7) // 8
    elif entry.codec == GAPS:
        fits = gaps_fit(entry, n)
    elif entry.codec == GRID:
        fits = grid_fits(entry, shape)
    else:
        raise FormatError(f"unknown codec {entry.codec}")
    if not fits:
        raise FormatError(f"codec {CODECS[entry.codec]} cannot have these lengths for {entry.k} of {n} weights")


def total(entries: Sequence[Entry]) -> tuple[int, int]:
    """Bytes of all raw and of all coded pieces."""
    return sum(entry.raw for entry in entries), sum(entry.coded for entry in entries)


def bitmap_allowed(n: int, k: int) -> bool:
    """Whether a bitmap may be used: at least one weight in eight, so that what is read stays in proportion to k."""
    return n <= DENSE * k


def low_bits(n: int, k: int) -> int:
    """Number of bits of each gap that stay in planes; leaves quotients of 16 to 32 on average."""
    return max(0, (n // k).bit_length() - 5)


def gaps_fit(entry: Entry, n: int) -> bool:
    """Whether gaps can have these lengths: whole planes, and from one to as many bytes as the quotients can take."""
    k, b = entry.k, low_bits(n, entry.k)
    return entry.raw == b * ((k + 7) // 8) and k <= entry.coded <= k + ((n - k) >> b) // MORE


def sides(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a grid: the first dimension, and all others together."""
    return shape[0], prod(shape[1:])


def grid_allowed(shape: Sequence[int], k: int) -> bool:
    """Whether a grid may be used: two dimensions or more, and at most 2^20 rows and columns, and 16 k."""
    return len(shape) >= 2 and sum(sides(shape)) <= min(SIDE * k, SIDES)


def grid_fits(entry: Entry, shape: Sequence[int]) -> bool:
    """Whether a grid can have these lengths: classes of rows, of columns, of both or of neither.

    No raw piece has more than two bytes for A and B, 1,024 counts of 4 bytes and one to fill up; and m <= 30 bits and a
    quotient of at most 3.08 bits on average for each gap, since the zeros of a block's quotients are at most
    160 c / 77.
    """
    if not grid_allowed(shape, entry.k):
        return False
    rows, columns = sides(shape)
    return entry.coded in (0, rows, columns, rows + columns) and entry.raw <= 4099 + 5 * entry.k
