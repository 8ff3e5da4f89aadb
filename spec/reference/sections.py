"""Frames and codecs of sections, from spec/cone-1.md alone."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import zstandard

from spec.reference.rules import RuleError, need

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


def unframe(frame: bytes, size: int) -> bytes:
    """The content of a zstd frame, which must have this size; RFC 8878 down to the headers of blocks."""
    need(32, frame[:4] == bytes.fromhex("28B52FFD") and len(frame) > 4, "no zstd frame")
    descriptor, at = frame[4], 5
    flag, single, checksum = descriptor >> 6, descriptor >> 5 & 1, descriptor >> 2 & 1
    need(32, not descriptor >> 3 & 1 and (flag > 0 or single == 1), "descriptor")
    if not single:
        need(32, len(frame) > at, "frame cut off")
        exponent, mantissa = frame[at] >> 3, frame[at] & 7
        need(32, 2 ** (10 + exponent) // 8 * (8 + mantissa) <= 2**27, "window")
    at += 1 - single
    for width, least, expected in ((0, 1, 2, 4)[descriptor & 3], 0, 0), (1 << flag, 256 * (flag == 1), size):
        need(32, int.from_bytes(frame[at : at + width], "little") + least == expected, "dictionary or content size")
        at += width
    last = False
    while not last:
        need(32, at + 3 <= len(frame), "frame cut off")
        block = int.from_bytes(frame[at : at + 3], "little")
        last, kind = bool(block & 1), block >> 1 & 3
        need(32, kind != 3, "type of a block")
        at += 3 + (1 if kind == 1 else block >> 3)
    need(32, at + 4 * checksum == len(frame), "length of the frame")
    decompressor = zstandard.ZstdDecompressor()
    try:
        # At a size of 0 the library's one-shot call wouldn't look at the blocks.
        content = decompressor.decompress(frame) if size else decompressor.decompressobj().decompress(frame)
    except zstandard.ZstdError as error:
        raise RuleError(32, str(error)) from error
    need(32, len(content) == size, "size of the content")
    return content


def low_bits(n: int, k: int) -> int:
    """How many bits of each gap are in the raw piece."""
    return max(0, (n // k).bit_length() - 5)


def decode_bitmap(shape: list[int], k: int, raw: Bytes, coded: Bytes) -> Ints:
    """Codec 0."""
    need(33, not coded[-1] & (2 ** (-math.prod(shape) % 8) - 1), "padding of a bitmap")
    need(36, int(np.bitwise_count(coded).sum(dtype=np.int64)) == k, "bits of a bitmap")
    return np.flatnonzero(np.unpackbits(coded))


def decode_gaps(shape: list[int], k: int, raw: Bytes, coded: Bytes) -> Ints:
    """Codec 1."""
    n = math.prod(shape)
    b = low_bits(n, k)
    low = np.zeros(k, np.int64)
    for p, plane in enumerate(np.unpackbits(raw.reshape(b, (k + 7) // 8), axis=1)):
        need(33, not plane[k:].any(), "padding of a plane")
        low |= plane[:k].astype(np.int64) << p
    ends = np.flatnonzero(coded != 255)
    need(34, len(ends) == k and int(ends[-1]) == len(coded) - 1, "quotients")
    quotients = 255 * (np.diff(ends, prepend=-1) - 1) + coded[ends]
    need(35, int(quotients.max()) <= n >> b, "a quotient above n")
    found = np.cumsum((quotients << b | low) + 1) - 1
    need(35, int(found[-1]) < n, "the last index")
    return found


def decode_grid(shape: list[int], k: int, raw: Bytes, coded: Bytes) -> Ints:
    """Codec 2."""
    height, width = shape[0], math.prod(shape[1:])
    need(37, len(raw) >= 2, "number of classes")
    sides = int(raw[0]), int(raw[1])
    a, b = sides
    s = (k.bit_length() + 7) // 8
    rest = 2 + a * b * s
    need(37, 1 <= a <= 32 and 1 <= b <= 32 and len(raw) >= rest, "classes or counts")
    need(37, len(coded) == height * (a > 1) + width * (b > 1), "length of the coded piece")
    need(40, 8 * (len(raw) - rest) >= k, "less than a bit for each index")
    split = height * (a > 1)
    rows, columns = (
        [np.flatnonzero(part == number) for number in range(side)] if side > 1 else [np.arange(size)]
        for part, side, size in ((coded[:split], a, height), (coded[split:], b, width))
    )
    need(38, sum(map(len, rows)) == height and sum(map(len, columns)) == width, "a class")
    counts = [int.from_bytes(raw[at : at + s].tobytes(), "little") for at in range(2, rest, s)]
    cells = [len(r) * len(c) for r in rows for c in columns]
    need(39, sum(counts) == k and all(c <= n for c, n in zip(counts, cells, strict=True)), "counts")
    rice = [(77 * (n - c // 2) // (160 * c)).bit_length() if c else 0 for c, n in zip(counts, cells, strict=True)]
    order = sorted(range(a * b), key=lambda block: (-rice[block], block))
    m, room = (np.repeat(np.array(of)[order], np.array(counts)[order]) for of in (rice, cells))
    planes = int(m.sum())
    most = planes + k + sum(n - c >> p for n, c, p in zip(cells, counts, rice, strict=True))
    need(40, planes <= 8 * (len(raw) - rest) < most + 8, "bits too few for the planes, or too many for all positions")
    need(40, int(np.bitwise_count(raw[rest:]).sum(dtype=np.int64)) <= planes + k, "more ones than there can be")
    bits = np.unpackbits(raw[rest:])
    gaps, at = np.zeros(k, np.int64), 0
    for p in range(max(rice)):
        among = int(np.count_nonzero(m > p))
        gaps[:among] |= bits[at : at + among].astype(np.int64) << p
        at += among
    ones = np.flatnonzero(bits[at:])
    need(40, len(ones) == k and len(bits) - at - int(ones[-1]) <= 8, "quotients or padding")
    quotients = np.diff(ones, prepend=-1) - 1
    need(41, not (quotients > room >> m).any(), "a quotient above its block")
    gaps |= quotients << m
    found, start = [], 0
    for block in order:
        if count := counts[block]:
            positions = np.cumsum(gaps[start : start + count] + 1) - 1
            need(41, int(positions[-1]) < cells[block], "a position outside its block")
            inner = columns[block % b]
            found.append(rows[block // b][positions // len(inner)] * width + inner[positions % len(inner)])
            start += count
    return np.sort(np.concatenate(found))
