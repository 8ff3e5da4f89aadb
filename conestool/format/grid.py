"""Codec 2, "grid": rows and columns are put into classes of like density, and each block of classes is coded apart.

Gradients of a linear layer are sums of outer products, so the densities of found sets differ strongly by row and by
column. Cells are renumbered block by block (row class, then column class), row-major inside a block; each block has its
own count and, derived from that, its own Rice parameter. Blocks follow each other by falling parameter, so that the
gaps which have a bit in a plane are always the first ones.

Raw piece: number of row classes A, of column classes B (bytes), A x B counts (little-endian, as many bytes each as
`k` needs), then bits: the low bits of the gaps in planes, lowest first, each over the gaps that have it, then
the quotients in unary (zeros, ended by a one). Coded piece: the class of each row if A > 1, of each column if B > 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from conestool.concept import Indices
from conestool.errors import FormatError
from conestool.format.bits import Bytes, count, ones, pack, span
from conestool.format.entries import sides

__all__ = [
    "CLASSES",
    "Blocks",
    "Grid",
    "decode",
    "encode",
    "estimate",
    "plan",
    "rice",
]

CLASSES = 32
CHUNK = 1 << 20


@dataclass(frozen=True)
class Grid:
    """The class of each row and column (nothing where there is one class alone), and how many classes there are."""

    rows: Bytes
    columns: Bytes
    a: int
    b: int
    shape: tuple[int, int]

    @cached_property
    def sides(self) -> tuple[Indices, Indices]:
        """Number of rows in each row class, of columns in each column class."""
        return sizes(self.rows, self.a, self.shape[0]), sizes(self.columns, self.b, self.shape[1])


@dataclass(frozen=True)
class Blocks:
    """The blocks in the order in which the stream holds them: falling Rice parameter, then row and column class."""

    order: Indices
    cells: Indices
    counts: Indices
    m: Indices

    @classmethod
    def of(cls, grid: Grid, counts: Indices) -> Blocks:
        """From the counts in the order of the classes."""
        height, breadth = grid.sides
        cells = np.outer(height, breadth).ravel()
        m = rice(cells, counts)
        order = np.argsort(-m, kind="stable")
        return cls(order, cells[order], counts[order], m[order])

    def planes(self) -> list[int]:
        """Number of gaps that have a bit in plane 0, 1 and so on; they are the first ones."""
        ends = np.cumsum(self.counts)
        return [int(ends[np.count_nonzero(self.m > p) - 1]) for p in range(int(self.m[0]))]


def sizes(side: Bytes, number: int, length: int) -> Indices:
    """How many of `length` rows (or columns) are in each of `number` classes; a piece at a time, since it counts in
    64 bits."""
    if number == 1:
        return np.array([length])
    parts = (np.bincount(side[at : at + CHUNK], minlength=number) for at in range(0, length, CHUNK))
    total: Indices = np.sum(list(parts), axis=0)
    return total


def rice(cells: Indices, counts: Indices) -> Indices:
    """Rice parameter of each block: bit length of floor(77 (cells - count // 2) / (160 count)), 0 for an empty one.

    Kiely, "Selecting the Golomb parameter in Rice coding" (2004), equation 8, for a geometric source with mean gap
    (cells - count) / count; 77 / 160 is -ln((sqrt(5) - 1) / 2) to three digits. Integers only, so that it is exact.
    """
    quotient = 77 * (cells - counts // 2) // (160 * np.maximum(counts, 1))
    return np.where(counts > 0, np.frexp(quotient.astype(np.float64))[1], 0).astype(np.int64)


def width(k: int) -> int:
    """Bytes of a stored count: as many as `k` needs."""
    return (k.bit_length() + 7) // 8


def classes(counts: Indices) -> tuple[Bytes, int]:
    """Class of each row or column: the bit length of its count, renumbered without holes; and their number."""
    length = np.frexp(counts.astype(np.float64))[1]
    present = np.flatnonzero(np.bincount(length))
    lookup = np.zeros(int(present[-1]) + 1, np.uint8)
    lookup[present] = np.arange(len(present))
    return lookup[length], len(present)


def plan(values: Indices, shape: list[int]) -> tuple[Grid, float]:
    """The cheapest of rows and columns, rows alone or columns alone in classes, and its estimated size in bytes."""
    height, breadth = sides(shape)
    row, column = np.divmod(values.astype(np.uint32), np.uint32(breadth))
    rows, a = classes(np.bincount(row, minlength=height))
    columns, b = classes(np.bincount(column, minlength=breadth))
    table = np.bincount(rows[row].astype(np.int64) * b + columns[column], minlength=a * b).reshape(a, b)
    one_row, one_column = np.zeros(height, np.uint8), np.zeros(breadth, np.uint8)
    size = (height, breadth)
    options = [
        (Grid(rows, columns, a, b, size), table),
        (Grid(rows, one_column, a, 1, size), table.sum(axis=1, keepdims=True)),
        (Grid(one_row, columns, 1, b, size), table.sum(axis=0, keepdims=True)),
    ]
    costs = [estimate(grid, counts) for grid, counts in options]
    best = int(np.argmin(costs))
    return options[best][0], costs[best]


def estimate(grid: Grid, counts: Indices) -> float:
    """Bytes that `grid` will take, from entropies (2 % on top for Rice codes)."""
    height, breadth = grid.sides
    cells = np.outer(height, breadth)
    p = np.clip(counts / np.maximum(cells, 1), 1e-12, 1 - 1e-12)
    bits = float((cells * -(p * np.log2(p) + (1 - p) * np.log2(1 - p))).sum()) * 1.02
    for side in (height, breadth):
        share = side / side.sum()
        if len(side) > 1:
            bits += float(side.sum()) * max(1.0, float(-(share * np.log2(np.maximum(share, 1e-12))).sum()))
    return bits / 8 + 2 + counts.size * width(int(counts.sum()))


def encode(values: Indices, shape: list[int], grid: Grid) -> tuple[Bytes, Bytes]:
    """Raw and coded piece of `values`, sorted unique positions, at least one."""
    counts, blocks, gaps = renumber(values, shape, grid)
    m = np.repeat(blocks.m, blocks.counts)
    bits = [((gaps[:size] >> p) & 1).astype(np.uint8) for p, size in enumerate(blocks.planes())]
    ends = np.cumsum((gaps >> m) + 1)
    unary = np.zeros(int(ends[-1]), np.uint8)
    unary[ends - 1] = 1
    table = counts.astype("<u8").view(np.uint8).reshape(-1, 8)[:, : width(len(values))].ravel()
    raw = np.concatenate([np.array([grid.a, grid.b], np.uint8), table, pack(np.concatenate([*bits, unary]))])
    lists = [grid.rows] * (grid.a > 1) + [grid.columns] * (grid.b > 1)
    return raw, np.concatenate(lists) if lists else np.empty(0, np.uint8)


def renumber(values: Indices, shape: list[int], grid: Grid) -> tuple[Indices, Blocks, Indices]:
    """Count of each block, the blocks in stream order, and the gaps, starting again in each block."""
    row, column = np.divmod(values.astype(np.uint32), np.uint32(sides(shape)[1]))
    breadth = grid.sides[1]
    block = grid.rows[row].astype(np.int64) * grid.b + grid.columns[column]
    counts = np.bincount(block, minlength=grid.a * grid.b)
    blocks = Blocks.of(grid, counts)
    starts = np.empty(len(counts), np.int64)
    starts[blocks.order] = np.cumsum(blocks.cells) - blocks.cells
    inside = ranks(grid.rows)[row] * breadth[block % grid.b] + ranks(grid.columns)[column]
    keys = np.sort(starts[block] + inside)
    gaps = np.diff(keys, prepend=-1) - 1
    some = blocks.counts > 0
    first = (np.cumsum(blocks.counts) - blocks.counts)[some]
    gaps[first] = keys[first] - starts[blocks.order][some]
    return counts, blocks, gaps


def ranks(side: Bytes) -> Indices:
    """The rank of each row (or column) among those of its class."""
    rank = np.empty(len(side), np.int64)
    rank[np.argsort(side, kind="stable")] = np.arange(len(side))
    starts = np.cumsum(np.bincount(side)) - np.bincount(side)
    return rank - starts[side]


def decode(raw: Bytes, coded: Bytes, shape: list[int], k: int) -> Indices:
    """The `k` positions; FormatError unless the pieces are exactly those of `k` positions."""
    grid, counts, rest = read_tables(raw, coded, shape, k)
    blocks = Blocks.of(grid, counts)
    if (blocks.counts > blocks.cells).any() or int(counts.sum()) != k:
        raise FormatError(f"block counts do not fit their blocks or do not add up to {k}")
    positions = read_positions(rest, blocks, k).astype(np.uint32)
    height, breadth = grid.sides
    a, b = np.divmod(blocks.order, grid.b)
    row, column = np.divmod(positions, np.repeat(breadth.astype(np.uint32)[b], blocks.counts))
    row_at = np.repeat((np.cumsum(height) - height)[a], blocks.counts) + row
    column_at = np.repeat((np.cumsum(breadth) - breadth)[b], blocks.counts) + column
    values = members(grid.rows, row_at) * np.uint32(grid.shape[1]) + members(grid.columns, column_at)
    values.sort()  # as 32 bits, in half the time of 64
    return values.astype(np.int64)


def members(side: Bytes, ranks: Indices) -> NDArray[np.uint32]:
    """The rows (or columns) at these ranks, when they are ordered by class; in one class they are as they were."""
    order = np.argsort(side, kind="stable")[ranks] if len(side) else ranks
    return order.astype(np.uint32)


def read_tables(raw: Bytes, coded: Bytes, shape: list[int], k: int) -> tuple[Grid, Indices, Bytes]:
    """Classes, block counts, and what is left of `raw`."""
    a, b = (int(raw[0]), int(raw[1])) if len(raw) >= 2 else (0, 0)
    end = 2 + a * b * width(k)
    if not (1 <= a <= CLASSES and 1 <= b <= CLASSES and end <= len(raw)):
        raise FormatError(f"{a} x {b} classes, expected 1 to {CLASSES} and their counts")
    height, breadth = sides(shape)
    if len(coded) != height * (a > 1) + breadth * (b > 1):
        raise FormatError(f"{len(coded)} bytes of classes for {a} x {b} classes")
    rows, columns = np.split(coded, [height * (a > 1)])
    if int(rows.max(initial=0)) >= a or int(columns.max(initial=0)) >= b:
        raise FormatError(f"a class is not below {a} (rows) or {b} (columns)")
    table = np.zeros((a * b, 8), np.uint8)
    table[:, : width(k)] = raw[2:end].reshape(a * b, -1)
    return Grid(rows, columns, a, b, (height, breadth)), table.view("<u8").ravel().astype(np.int64), raw[end:]


def read_positions(data: Bytes, blocks: Blocks, k: int) -> Indices:
    """Positions inside the blocks, one block after another, from planes and unary quotients."""
    planes = blocks.planes()
    low = sum(planes)
    if low > 8 * len(data):
        raise FormatError(f"{len(data)} bytes cannot hold {low} low bits")
    gaps = unary(data, low, k)
    gaps <<= np.repeat(blocks.m, blocks.counts)
    at = 0
    for p, size in enumerate(planes):
        gaps[:size] |= span(data, at, size).astype(np.int64) << p
        at += size
    gaps += 1
    total = np.cumsum(gaps, out=gaps)
    last = np.cumsum(blocks.counts)
    before = np.concatenate([[0], total])[last - blocks.counts]
    if (total[last - 1] - before > blocks.cells)[blocks.counts > 0].any():
        raise FormatError("an index lies outside its block")
    total -= np.repeat(before + 1, blocks.counts)
    return total


def unary(data: Bytes, start: int, k: int) -> Indices:
    """The `k` quotients from bit `start` on; the bits end with the last one and less than a byte of zeros."""
    found = count(data, start)
    if found != k:
        raise FormatError(f"{found} quotients, expected {k}")
    ends = ones(data, start)
    if 8 * len(data) - start - 1 - int(ends[-1]) >= 8:
        raise FormatError("bytes left over after the last quotient")
    gaps = np.diff(ends, prepend=-1)
    gaps -= 1
    return gaps
