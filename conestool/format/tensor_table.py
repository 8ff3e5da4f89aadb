"""Rows of the tensor tables, and the lengths they allow: a header is checked with these, without numpy."""

from __future__ import annotations

from typing import NamedTuple

from conestool.errors import FormatError

CONTINUATION = 255
"""The byte of a gap's quotient that goes on in the next byte."""


class Row(NamedTuple):
    """A row of a concept's tensor table: number of the tensor in its base, k, bytes of the coded piece."""

    tensor: int
    k: int
    coded: int


def check_row(row: Row, n: int) -> None:
    """Refuse a row that cannot be right for a tensor of `n` weights, before anything is read or allocated for it."""
    if not 1 <= row.k <= n:
        raise FormatError(f"{row.k} indices in a tensor of {n} weights")
    longest = row.k + ((n - row.k) >> num_low_bits(n, row.k)) // CONTINUATION
    if not row.k <= row.coded <= longest:
        raise FormatError(f"{row.coded} bytes for {row.k} quotients, expected {row.k} to {longest}")


def num_low_bits(n: int, k: int) -> int:
    """Number of bits of each gap that stay in planes; leaves quotients of 16 to 32 on average."""
    return max(0, (n // k).bit_length() - 5)


def raw_length(n: int, k: int) -> int:
    """Bytes of the raw piece: whole planes of `k` bits."""
    return num_low_bits(n, k) * ((k + 7) // 8)
