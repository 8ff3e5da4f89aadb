"""Bits to bytes and back, the first bit of a byte being its highest (most significant) one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from conestool.errors import FormatError

__all__ = ["Bytes", "count", "ones", "pack", "span", "unpack"]

Bytes = NDArray[np.uint8]
CHUNK = 1 << 23
"""Bits that are unpacked at once; a multiple of 8."""


def pack(bits: NDArray[np.bool_] | Bytes) -> Bytes:
    """Bytes of `bits`, the last byte filled up with zeros."""
    return np.packbits(bits)


def unpack(data: Bytes, count: int) -> Bytes:
    """The first `count` bits of `data` as 0 and 1; FormatError unless the rest of the last byte is zero."""
    if len(data) != (count + 7) // 8:
        raise FormatError(f"{len(data)} bytes cannot hold {count} bits")
    if count % 8 and data[-1] & (0xFF >> count % 8):
        raise FormatError("padding bits are not zero")
    return np.unpackbits(data, count=count)


def span(data: Bytes, start: int, count: int) -> Bytes:
    """The `count` bits of `data` from bit `start` on, as 0 and 1."""
    whole = np.unpackbits(data[start // 8 : (start + count + 7) // 8])
    return whole[start % 8 : start % 8 + count]


def count(data: Bytes, start: int = 0) -> int:
    """How many bits from bit `start` on are 1; takes a byte of memory for each byte at most."""
    first = span(data, start, -start % 8)
    return int(np.count_nonzero(first)) + int(np.bitwise_count(data[(start + 7) // 8 :]).sum(dtype=np.int64))


def ones(data: Bytes, start: int = 0) -> NDArray[np.int64]:
    """Where the bits from bit `start` on are 1, counted from there; unpacked a piece at a time."""
    parts = []
    for at in range(start, 8 * len(data), CHUNK):
        bits = span(data, at, min(CHUNK, 8 * len(data) - at))
        parts.append(np.flatnonzero(bits.view(np.bool_)) + (at - start))
    return np.concatenate(parts).astype(np.int64, copy=False) if parts else np.empty(0, np.int64)
