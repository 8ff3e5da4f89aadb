"""Frames and index sets of sections, from spec/cone-1.md alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import zstandard

from spec.reference.rules import RuleError, need

Ints = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]
PORTION = 2**16
"""Gaps that are decoded at once; a multiple of 8."""


def unframe(frame: bytes, size: int) -> bytes:
    """The content of a zstd frame, which must have this size; RFC 8878 down to the headers of blocks."""
    need(31, frame[:4] == bytes.fromhex("28B52FFD") and len(frame) > 4, "no zstd frame")
    descriptor, at = frame[4], 5
    flag, single, checksum = descriptor >> 6, descriptor >> 5 & 1, descriptor >> 2 & 1
    need(31, not descriptor >> 3 & 1 and (flag > 0 or single == 1), "descriptor")
    if not single:
        need(31, len(frame) > at, "frame cut off")
        exponent, mantissa = frame[at] >> 3, frame[at] & 7
        need(31, 2 ** (10 + exponent) // 8 * (8 + mantissa) <= 2**27, "window")
    at += 1 - single
    for width, least, expected in ((0, 1, 2, 4)[descriptor & 3], 0, 0), (1 << flag, 256 * (flag == 1), size):
        need(31, int.from_bytes(frame[at : at + width], "little") + least == expected, "dictionary or content size")
        at += width
    last = False
    while not last:
        need(31, at + 3 <= len(frame), "frame cut off")
        block = int.from_bytes(frame[at : at + 3], "little")
        last, kind = bool(block & 1), block >> 1 & 3
        need(31, kind != 3, "type of a block")
        at += 3 + (1 if kind == 1 else block >> 3)
    need(31, at + 4 * checksum == len(frame), "length of the frame")
    decompressor = zstandard.ZstdDecompressor()
    try:
        content = decompressor.decompress(frame, max_output_size=size)
    except zstandard.ZstdError as error:
        raise RuleError(31, str(error)) from error
    need(31, len(content) == size, "size of the content")
    return content


def low_bits(n: int, k: int) -> int:
    """How many bits of each gap are in the raw piece."""
    return max(0, (n // k).bit_length() - 5)


def raw_length(n: int, k: int) -> int:
    """Bytes of the raw piece: a plane of k bits for each low bit."""
    return low_bits(n, k) * ((k + 7) // 8)


def decode(n: int, k: int, raw: Bytes, coded: Bytes) -> Ints:
    """The index set of a raw and a coded piece, some of the gaps at a time."""
    planes = raw.reshape(low_bits(n, k), (k + 7) // 8)
    need(32, not k % 8 or not (planes[:, -1] & 0xFF >> k % 8).any(), "padding of a plane")
    ends = np.flatnonzero(coded != 255).astype(np.uint32)
    need(33, len(ends) == k and int(ends[-1]) == len(coded) - 1, "quotients")
    found = np.empty(k, np.int32)
    last, before = -1, -1
    for at in range(0, k, PORTION):
        some = ends[at : at + PORTION].astype(np.int64)
        gaps = 255 * (np.diff(some, prepend=before) - 1) + coded[some] << len(planes)
        for p, plane in enumerate(planes):
            bits = np.unpackbits(plane[at // 8 : (at + len(gaps) + 7) // 8], count=len(gaps))
            gaps |= bits.astype(np.int64) << p
        indices = last + np.cumsum(gaps + 1)
        last, before = int(indices[-1]), int(some[-1])
        need(34, last < n, "the last index")
        found[at : at + len(gaps)] = indices
    return found
