"""Index sets to bytes and back: each distance between neighbours is a quotient byte and a few bits kept in planes.

With `g0 = i0`, `gj = ij - i(j-1) - 1` and `b = max(0, bit_length(n // k) - 5)`, the raw piece holds the low `b` bits
of the gaps as bit planes (lowest first), the coded piece the quotients `g >> b` as bytes, 255 meaning "add 255 and go
on". Subtracting one makes duplicates and disorder unrepresentable. Elias and Fano split at the same place; unary
quotients are replaced by bytes because a Huffman coder (zstd) packs them as well and numpy reads them faster.

The coded pieces of all tensors of a concept share one zstd frame (a frame per tensor costs 6 % at a density of 0.1 %).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import zstandard
from numpy.typing import NDArray

from conestool.concept import Indices
from conestool.errors import FormatError
from conestool.format import limits
from conestool.format.limits import CONTINUATION, num_low_bits

_Bytes = NDArray[np.uint8]

_MAGIC = b"\x28\xb5\x2f\xfd"
_PORTION = 1 << 18
"""Quotient bytes that are unpacked at once, so that a set takes little more memory than its 4 bytes an index."""


def encode(values: Indices, n: int) -> tuple[_Bytes, _Bytes]:
    """Raw and coded piece of `values`, sorted unique positions below `n`, at least one."""
    gaps = np.diff(values, prepend=np.int32(-1)) - 1
    b = num_low_bits(n, len(values))
    planes = [np.packbits((gaps >> p).astype(np.uint8) & np.uint8(1)) for p in range(b)]
    return np.concatenate(planes) if planes else np.empty(0, np.uint8), _to_bytes(gaps >> b)


def _to_bytes(quotients: Indices) -> _Bytes:
    """Quotients as bytes; one of 255 or more takes several."""
    if int(quotients.max()) < CONTINUATION:
        return quotients.astype(np.uint8)
    more = quotients // CONTINUATION
    out = np.full(len(quotients) + int(more.sum()), CONTINUATION, np.uint8)
    out[np.cumsum(more + 1) - 1] = quotients % CONTINUATION
    return out


def decode(raw: _Bytes, coded: _Bytes, n: int, k: int) -> Indices:
    """The `k` positions, read-only; FormatError unless the pieces are exactly those of `k` positions below `n`."""
    b = num_low_bits(n, k)
    planes = raw.reshape(b, (k + 7) // 8)
    if k % 8 and (planes[:, -1] & (0xFF >> k % 8)).any():
        raise FormatError("padding bits are not zero")
    found = int(np.count_nonzero(coded != CONTINUATION))
    if found != k or coded[-1] == CONTINUATION:
        raise FormatError(f"{found} quotients, expected {k}, the last one complete")
    out = np.empty(k, np.int32)
    at, last = 0, -1
    for gaps in _quotients(coded):
        gaps <<= b
        for p, plane in enumerate(planes):
            gaps |= _bits(plane, at, len(gaps)).astype(np.int64) << p
        gaps += 1
        gaps[0] += last
        values = np.cumsum(gaps, out=gaps)
        last = int(values[-1])
        if last >= n:
            raise FormatError(f"index {last} out of range, expected < {n}")
        out[at : at + len(values)] = values
        at += len(values)
    out.flags.writeable = False
    return out


def _quotients(coded: _Bytes) -> Iterator[NDArray[np.int64]]:
    """The quotients that `_to_bytes` wrote, a portion at a time."""
    pending = 0
    for start in range(0, len(coded), _PORTION):
        portion = coded[start : start + _PORTION]
        ends = np.flatnonzero(portion != CONTINUATION)
        total = np.cumsum(portion, dtype=np.int64)
        total += pending
        if len(ends):
            yield np.diff(total[ends], prepend=0)
            pending = int(total[-1] - total[ends[-1]])
        else:
            pending = int(total[-1])


def _bits(data: _Bytes, start: int, count: int) -> _Bytes:
    """The `count` bits of `data` from bit `start` on, highest first, as 0 and 1."""
    whole = np.unpackbits(data[start // 8 : (start + count + 7) // 8])
    return whole[start % 8 : start % 8 + count]


def as_bytes(data: memoryview) -> _Bytes:
    """A section as an array, without a copy."""
    return np.frombuffer(data, np.uint8)


def compress(coded: bytes) -> bytes:
    """The coded pieces as one zstd frame that declares its size.

    Quotients hold no repetitions worth finding: a match-free setting codes them smaller, and faster.
    """
    settings = zstandard.ZstdCompressionParameters.from_level(
        1, strategy=zstandard.STRATEGY_FAST, min_match=7, write_content_size=True, write_checksum=False
    )
    return zstandard.ZstdCompressor(compression_params=settings).compress(coded)


def decompress(data: memoryview, size: int) -> _Bytes:
    """The `size` bytes inside `data`, exactly one zstd frame; nothing is allocated before its size is known to fit."""
    if data[:4] != _MAGIC:
        raise FormatError("not a zstd frame")
    try:
        declared = zstandard.get_frame_parameters(data)
        if declared.content_size != size:
            raise FormatError(f"zstd frame of {declared.content_size} bytes, expected {size}")
        if declared.dict_id:
            raise FormatError("zstd frame needs a dictionary")
        if declared.window_size > limits.MAX_WINDOW_BYTES:
            raise FormatError(
                f"zstd frame with a window of {declared.window_size} bytes, more than {limits.MAX_WINDOW_BYTES}"
            )
        content = zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"damaged zstd frame ({error})") from error
    if len(content) != size:
        raise FormatError(f"zstd frame holds {len(content)} bytes, expected {size}")
    return np.frombuffer(content, np.uint8)
