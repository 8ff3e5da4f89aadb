"""A slow writer of .cone files, one bit at a time, after spec/cone-1.md and without conestool.

It is what the test vectors are made with, so that they do not come from the code they test.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from typing import Any

import msgpack
import zstandard

BITMAP, GAPS, GRID = 0, 1, 2
SIGNATURE = b"\x89CONE\r\n\x1a\n"
MAGIC = bytes.fromhex("28B52FFD")


def bits_to_bytes(bits: list[int]) -> bytes:
    """First bit highest, the last byte filled up with zeros."""
    bits = bits + [0] * (-len(bits) % 8)
    return bytes(int("".join(map(str, bits[at : at + 8])), 2) for at in range(0, len(bits), 8))


def zstd(data: bytes, **settings: Any) -> bytes:
    """One frame that declares its content size."""
    return zstandard.ZstdCompressor(level=3, **settings).compress(data)


def bitmap(values: list[int], n: int) -> tuple[bytes, bytes]:
    """Raw and coded piece of codec 0."""
    held = set(values)
    return b"", bits_to_bytes([int(i in held) for i in range(n)])


def gaps(values: list[int], n: int) -> tuple[bytes, bytes]:
    """Raw and coded piece of codec 1."""
    b = max(0, (n // len(values)).bit_length() - 5)
    steps = [value - before - 1 for before, value in zip([-1, *values], values, strict=False)]
    raw = b"".join(bits_to_bytes([(step >> p) & 1 for step in steps]) for p in range(b))
    coded = bytearray()
    for step in steps:
        quotient = step >> b
        coded += b"\xff" * (quotient // 255) + bytes([quotient % 255])
    return raw, bytes(coded)


def rice(cells: int, count: int) -> int:
    """Rice parameter of a block."""
    return (77 * (cells - count // 2) // (160 * count)).bit_length() if count else 0


def grid(values: list[int], shape: list[int], rows: list[int], columns: list[int]) -> tuple[bytes, bytes]:
    """Raw and coded piece of codec 2 with these classes of rows and columns."""
    breadth = math.prod(shape[1:])
    a, b = max(rows) + 1, max(columns) + 1
    members = [[i for i, kind in enumerate(rows) if kind == j] for j in range(a)]
    across = [[i for i, kind in enumerate(columns) if kind == j] for j in range(b)]
    blocks = []
    for number in range(a * b):
        inside = [
            members[number // b].index(value // breadth) * len(across[number % b])
            + across[number % b].index(value % breadth)
            for value in values
            if rows[value // breadth] == number // b and columns[value % breadth] == number % b
        ]
        inside.sort()
        steps = [cell - before - 1 for before, cell in zip([-1, *inside], inside, strict=False)]
        blocks.append((rice(len(members[number // b]) * len(across[number % b]), len(inside)), number, steps))
    width = (len(values).bit_length() + 7) // 8
    table = b"".join(len(steps).to_bytes(width, "little") for _, _, steps in blocks)
    order = sorted(blocks, key=lambda block: (-block[0], block[1]))
    bits = [(step >> p) & 1 for p in range(order[0][0]) for m, _, steps in order if m > p for step in steps]
    for m, _, steps in order:
        for step in steps:
            bits += [0] * (step >> m) + [1]
    coded = (bytes(rows) if a > 1 else b"") + (bytes(columns) if b > 1 else b"")
    return bytes([a, b]) + table + bits_to_bytes(bits), coded


def concept_id(sets: dict[str, tuple[list[int], list[int]]]) -> bytes:
    """Content id of a concept: param name -> (shape, positions)."""
    digest = hashlib.sha256(b"cone-concept-1\0")
    for param in sorted(sets):
        shape, values = sets[param]
        name = param.encode()
        digest.update(struct.pack("<Q", len(name)) + name + struct.pack("<Q", len(shape)))
        digest.update(struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<Q", len(values)))
        digest.update(struct.pack(f"<{len(values)}I", *values))
    return digest.digest()


def file_id(concepts: list[bytes]) -> bytes:
    """Content id of a file."""
    return hashlib.sha256(b"cone-file-1\0" + b"".join(sorted(concepts))).digest()


def canonical(value: Any) -> Any:
    """Maps with sorted keys, all the way down."""
    if isinstance(value, dict):
        return {key: canonical(value[key]) for key in sorted(value)}
    return [canonical(item) for item in value] if isinstance(value, list) else value


def pack(header: dict[str, Any]) -> bytes:
    """Canonical msgpack."""
    packed: bytes = msgpack.packb(canonical(header), use_bin_type=True)
    return packed


def assemble(header: bytes, payload: bytes, major: int = 1, minor: int = 0, reserved: int = 0) -> bytes:
    """Preamble with a right checksum, header, payload."""
    preamble = SIGNATURE + struct.pack("<BBBI", major, minor, reserved, len(header))
    return preamble + struct.pack("<I", zlib.crc32(preamble + header)) + header + payload


def section(data: bytes, kind: str = "indices", **extra: Any) -> dict[str, Any]:
    """Map of a section."""
    return {"type": kind, "length": len(data), "sha256": hashlib.sha256(data).digest(), **extra}
