"""Codec 1, "gaps": each distance between neighbours is a quotient byte and a few bits kept in planes.

With `g0 = i0`, `gj = ij - i(j-1) - 1` and `b = max(0, bit_length(n // k) - 5)`, the raw piece holds the low `b` bits
of the gaps as bit planes (lowest first), the coded piece the quotients `g >> b` as bytes, 255 meaning "add 255 and go
on". Subtracting one makes duplicates and disorder unrepresentable. Elias and Fano split at the same place; unary
quotients are replaced by bytes because a Huffman coder (zstd) packs them as well and numpy reads them faster.
"""

from __future__ import annotations

import numpy as np

from conestool.concept import Indices
from conestool.errors import FormatError
from conestool.format.bits import Bytes, pack, unpack
from conestool.format.entries import MORE, low_bits

__all__ = ["decode", "encode"]


def encode(values: Indices, n: int) -> tuple[Bytes, Bytes]:
    """Raw and coded piece of `values`, sorted unique positions below `n`, at least one."""
    gaps = np.diff(values, prepend=-1) - 1
    b = low_bits(n, len(values))
    small = gaps.astype(np.uint32)
    planes = [pack((small >> np.uint32(p)).astype(np.uint8) & np.uint8(1)) for p in range(b)]
    return np.concatenate(planes) if planes else np.empty(0, np.uint8), to_bytes(gaps >> b)


def to_bytes(quotients: Indices) -> Bytes:
    """Quotients as bytes; one of 255 or more takes several."""
    if int(quotients.max()) < MORE:
        return quotients.astype(np.uint8)
    more = quotients // MORE
    out = np.full(len(quotients) + int(more.sum()), MORE, np.uint8)
    out[np.cumsum(more + 1) - 1] = quotients % MORE
    return out


def decode(raw: Bytes, coded: Bytes, n: int, k: int) -> Indices:
    """The `k` positions; FormatError unless the pieces are exactly those of `k` positions below `n`."""
    b = low_bits(n, k)
    gaps = from_bytes(coded, k)
    if b:
        gaps <<= b
        step = (k + 7) // 8
        low = np.zeros(k, np.uint32)
        for p in range(b):
            low |= unpack(raw[p * step : (p + 1) * step], k).astype(np.uint32) << np.uint32(p)
        gaps |= low
    gaps += 1
    values = np.cumsum(gaps, out=gaps)
    values -= 1
    return values


def from_bytes(coded: Bytes, k: int) -> Indices:
    """The `k` quotients that `to_bytes` wrote."""
    ends = coded != MORE
    found = int(np.count_nonzero(ends))
    if found != k or not ends[-1]:
        raise FormatError(f"{found} quotients, expected {k}, the last one complete")
    if len(coded) == k:
        return coded.astype(np.int64)
    total = np.cumsum(coded, dtype=np.int64)[ends]
    quotients: Indices = np.diff(total, prepend=0)
    return quotients
