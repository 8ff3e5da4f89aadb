"""Bits to bytes and back, the first bit of a byte being its highest (most significant) one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from conestool.errors import FormatError

__all__ = ["Bytes", "pack", "unpack"]

Bytes = NDArray[np.uint8]


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
