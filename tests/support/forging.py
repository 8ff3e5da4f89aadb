"""Parts of a .cone file, and files put together again with right lengths and checksums."""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from typing import Any, NamedTuple

import msgpack
import zstandard

from spec.reference.reader import outcome
from spec.reference.rules import RuleError
from spec.reference.sections import raw_length

Header = dict[str, Any]


class Packed(NamedTuple):
    """Bytes that stand in a header as they are."""

    data: bytes


def pack(value: Any) -> bytes:
    """Canonical msgpack, but for what is packed already."""
    if isinstance(value, Packed):
        return value.data
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        if -32 <= value < 128:
            return struct.pack("b", value)
        width = next(w for w in range(4) if -(2 ** (8 * 2**w - 1)) <= value < (2 ** (8 * 2**w) if value > 0 else 1))
        return bytes([(0xCC if value > 0 else 0xD0) + width]) + value.to_bytes(2**width, "big", signed=value < 0)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode()
        return length(len(text), (0xA0, 32), 0xD9) + text
    if isinstance(value, bytes):
        return length(len(value), (0, 0), 0xC4) + value
    if isinstance(value, list):
        return length(len(value), (0x90, 16), 0xDB) + b"".join(map(pack, value))
    return length(len(value), (0x80, 16), 0xDD) + b"".join(pack(key) + pack(value[key]) for key in sorted(value))


def length(size: int, short: tuple[int, int], long: int) -> bytes:
    """A length: in the first byte if it fits; `long` is the type with one byte, which arrays and maps lack."""
    if size < short[1]:
        return bytes([short[0] + size])
    if size < 256 and long in (0xC4, 0xD9):
        return bytes([long, size])
    return bytes([long + 1]) + struct.pack(">H", size) if size < 2**16 else bytes([long + 2]) + struct.pack(">I", size)


def parts(data: bytes) -> tuple[Header, list[bytes]]:
    """Header and sections of a valid file."""
    (size,) = struct.unpack_from("<I", data, 12)
    header, at, sections = msgpack.unpackb(data[20 : 20 + size]), 20 + size, []
    for concept in header["concepts"]:
        for section in concept["sections"]:
            sections.append(data[at : at + section["length"]])
            at += section["length"]
    return header, sections


def join(header: Header | bytes, sections: list[bytes], start: bytes) -> bytes:
    """A file with the first 12 bytes of another one and a right CRC."""
    packed = header if isinstance(header, bytes) else pack(header)
    preamble = start[:12] + struct.pack("<I", len(packed))
    return preamble + struct.pack("<I", zlib.crc32(preamble + packed)) + packed + b"".join(sections)


def mend(data: bytes) -> bytes:
    """Put right the sha256 of sections and the content ids that the independent reader misses, and the CRC."""
    for _ in range(9):
        found = outcome(data)
        if not isinstance(found, RuleError) or not found.found:
            break
        (size,) = struct.unpack_from("<I", data, 12)
        data = join(data[20 : 20 + size].replace(found.stored, found.found, 1), [data[20 + size :]], data)
    return data


def relabelled(header: Header, sections: list[bytes]) -> Header:
    """The header with lengths and sums of these sections."""
    rest = list(sections)
    for concept in header["concepts"]:
        for section in concept["sections"]:
            payload = rest.pop(0)
            section |= {"length": len(payload), "sha256": hashlib.sha256(payload).digest()}
    return header


def split(section: bytes, header: Header, concept: Header) -> tuple[list[bytes], list[bytes]]:
    """The raw and the coded pieces of a concept's valid section of indices."""
    tensors, rows = header["bases"][concept["base"]]["tensors"], concept["tensors"]
    lengths = [raw_length(math.prod(tensors[number][1]), k) for number, k, _ in rows]
    raw, coded, at, second = [], [], 0, 0
    content = zstandard.ZstdDecompressor().decompress(section[sum(lengths) :])
    for length, (_, _, size) in zip(lengths, rows, strict=True):
        raw.append(section[at : at + length])
        coded.append(content[second : second + size])
        at, second = at + length, second + size
    return raw, coded
