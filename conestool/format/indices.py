"""Index sets to bytes and back: each tensor by the codec that is smallest for it.

Every codec gives a raw piece, stored as it is, and a coded piece, stored inside the one zstd frame that all tensors of
a concept share (a frame per tensor costs 6 % at a density of 0.1 %).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import zstandard

from conestool.concept import Indices
from conestool.errors import FormatError
from conestool.format import bitmap, gaps, grid, limits
from conestool.format.bits import Bytes
from conestool.format.entries import BITMAP, CODECS, GAPS, GRID, Entry, bitmap_allowed, grid_allowed
from conestool.records import size_of

__all__ = ["BITMAP", "CODECS", "GAPS", "GRID", "Entry", "Pieces", "decode", "encode", "frame", "unframe"]

MAGIC = b"\x28\xb5\x2f\xfd"
NOTHING = np.empty(0, np.uint8)
STEP = 1024
"""Bytes of an empty frame taken at once; a damaged one gives at most 32 MiB for them."""


class Pieces(NamedTuple):
    """One tensor's encoded index set."""

    codec: int
    raw: Bytes
    coded: Bytes

    def estimate(self) -> float:
        """Bytes in the file: the raw piece, and the coded piece by its entropy."""
        counts = np.bincount(self.coded, minlength=1)
        counts = counts[counts > 0]
        return len(self.raw) - float((counts * np.log2(counts / max(1, counts.sum()))).sum()) / 8

    def cost(self) -> int:
        """Bytes in the file if the coded piece had a zstd frame of its own."""
        return len(self.raw) + len(frame(self.coded.tobytes(), self.codec == BITMAP))


def encode(values: Indices, shape: list[int]) -> Pieces:
    """The smallest encoding of `values`, sorted unique positions in a tensor of `shape`, at least one."""
    n, k = size_of(shape), len(values)
    best = Pieces(GAPS, *gaps.encode(values, n))
    if grid_allowed(shape, k):
        plan, estimate = grid.plan(values, shape)
        if estimate < best.estimate():
            best = min(best, Pieces(GRID, *grid.encode(values, shape, plan)), key=Pieces.estimate)
    if bitmap_allowed(n, k):
        best = min(best, Pieces(BITMAP, NOTHING, bitmap.encode(values, n)), key=Pieces.cost)
    return best


def decode(entry: Entry, raw: Bytes, coded: Bytes, shape: list[int]) -> Indices:
    """The index set of a checked entry; FormatError unless it is sorted, unique, of `k` positions and inside."""
    n = size_of(shape)
    if entry.codec == BITMAP:
        return bitmap.decode(coded, n, entry.k)
    if entry.codec == GRID:
        return grid.decode(raw, coded, shape, entry.k)
    values = gaps.decode(raw, coded, n, entry.k)
    if values[-1] >= n:
        raise FormatError(f"index {values[-1]} out of range, expected < {n}")
    return values


def frame(data: bytes, repeats: bool = False) -> bytes:
    """`data` as one zstd frame that declares its size; `repeats` also tries to find repetitions.

    Quotients and classes hold none worth finding: a match-free setting codes them smaller, and faster.
    """
    settings = zstandard.ZstdCompressionParameters.from_level(
        1, strategy=zstandard.STRATEGY_FAST, min_match=7, write_content_size=True, write_checksum=False
    )
    packed = zstandard.ZstdCompressor(compression_params=settings).compress(data)
    if repeats:
        packed = min(packed, zstandard.ZstdCompressor(level=9).compress(data), key=len)
    return packed


def unframe(data: bytes, size: int) -> Bytes:
    """The `size` bytes inside `data`, exactly one zstd frame; nothing is allocated before its size is known to fit."""
    if data[:4] != MAGIC:
        raise FormatError("not a zstd frame")
    try:
        declared = zstandard.get_frame_parameters(data)
        if declared.content_size != size or size > limits.CODED:
            raise FormatError(f"zstd frame of {declared.content_size} bytes, expected {size}")
        if declared.dict_id:
            raise FormatError("zstd frame needs a dictionary")
        if declared.window_size > limits.WINDOW:
            raise FormatError(f"zstd frame with a window of {declared.window_size} bytes, more than {limits.WINDOW}")
        if not size and not is_empty(data):
            raise FormatError("zstd frame cut off, with content or followed by other bytes, expected an empty one")
        content = zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"damaged zstd frame ({error})") from error
    if len(content) != size:
        raise FormatError(f"zstd frame holds {len(content)} bytes, expected {size}")
    return np.frombuffer(content, np.uint8)


def is_empty(data: bytes) -> bool:
    """Whether this is one whole frame of no content; a one-shot call returns before it looks at the blocks."""
    stream = zstandard.ZstdDecompressor().decompressobj()
    for at in range(0, len(data), STEP):
        if stream.decompress(data[at : at + STEP]):
            return False
        if stream.eof:
            return not stream.unused_data and at + STEP >= len(data)
    return False
