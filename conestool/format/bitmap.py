"""Codec 0, "bitmap": one bit for each weight, for dense sets."""

from __future__ import annotations

import numpy as np

from conestool.concept import Indices
from conestool.errors import FormatError
from conestool.format.bits import Bytes, count, ones, pack

__all__ = ["decode", "encode"]


def encode(values: Indices, n: int) -> Bytes:
    """Coded piece of `values` (there is no raw piece)."""
    bits = np.zeros(n, np.uint8)
    bits[values] = 1
    return pack(bits)


def decode(coded: Bytes, n: int, k: int) -> Indices:
    """The `k` positions; FormatError unless exactly `k` bits are set and the padding is zero."""
    if n % 8 and coded[-1] & (0xFF >> n % 8):
        raise FormatError("padding bits are not zero")
    found = count(coded)
    if found != k:
        raise FormatError(f"{found} bits are set, expected {k}")
    return ones(coded)
