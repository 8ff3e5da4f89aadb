"""A slow writer of .cone files, one bit at a time, after spec/cone-1.md and without conestool.

It is what the test vectors are made with, so that they do not come from the code they test.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Any

import msgpack
import zstandard

SIGNATURE = b"\x89CONE\r\n\x1a\n"
MAGIC = bytes.fromhex("28B52FFD")


def bits_to_bytes(bits: list[int]) -> bytes:
    """First bit highest, the last byte filled up with zeros."""
    bits = bits + [0] * (-len(bits) % 8)
    return bytes(int("".join(map(str, bits[at : at + 8])), 2) for at in range(0, len(bits), 8))


def zstd(data: bytes, level: int = 3, **settings: Any) -> bytes:
    """One frame that declares its content size."""
    return zstandard.ZstdCompressor(level=level, **settings).compress(data)


def gaps(values: list[int], n: int) -> tuple[bytes, bytes]:
    """Raw and coded piece of an index set."""
    b = max(0, (n // len(values)).bit_length() - 5)
    steps = [value - before - 1 for before, value in zip([-1, *values], values, strict=False)]
    raw = b"".join(bits_to_bytes([(step >> p) & 1 for step in steps]) for p in range(b))
    coded = bytearray()
    for step in steps:
        quotient = step >> b
        coded += b"\xff" * (quotient // 255) + bytes([quotient % 255])
    return raw, bytes(coded)


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
