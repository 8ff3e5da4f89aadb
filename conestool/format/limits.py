"""What a .cone file may hold, see "Limits" in spec/cone-1.md; a header is checked with it, without numpy."""

from __future__ import annotations

from typing import NamedTuple

from conestool.errors import FormatError

MAX_HEADER_BYTES = 1 << 20
"""Bytes of the header."""
MAX_FILE_BYTES = 1 << 28
"""Bytes of a file, 256 MiB."""
MAX_CONCEPTS = 256
"""Concepts in a file."""
MAX_BASES = 256
"""Base model descriptions in a file."""
MAX_TENSORS = 4096
"""K/V tensors of a base model."""
MAX_DIMENSIONS = 8
"""Dimensions of a tensor."""
MAX_SECTIONS = 16
"""Sections of a concept."""
MAX_NEURONS = 1 << 26
"""Concept neurons in a file, over all its concepts (10 % of SDXL's K/V weights are 5.5e7); 256 MiB in memory."""
MAX_TABLE_ROWS = 1 << 14
"""Rows of all tensor tables of a file: each takes a reader some time, however few its neurons are."""
MAX_WINDOW_BYTES = 1 << 27
"""Bytes of the window that a zstd frame may ask for, 128 MiB: what zstd's own decoders allow by default."""
MAX_DEPTH = 16
"""Nesting of arrays and maps in the header."""
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
