"""Changed .cone files whose checksums are right again, so that readers meet every rule and not the sums alone."""

from __future__ import annotations

import copy
import hashlib
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import zstandard

from tests.independent.decoder import unpack
from tests.independent.reader import read
from tests.independent.rules import RuleError

Header = dict[str, Any]


def nested(depth: int) -> list[Any]:
    """So many arrays inside each other."""
    result: list[Any] = []
    for _ in range(depth - 1):
        result = [result]
    return result


NUMBERS = [0, 1, 2, 3, 7, 8, 31, 32, 33, 127, 128, 255, 256, 2**16, 2**26, 2**26 + 1, 2**31 - 1, 2**31, 2**32]
WORDS = ["", "a", "a b", "a  b", " a", "a ", "a-", "a'b", "DOG", "dog", "ß", "ss", "ſ", "a\u0301", "é", "²", "Ⅷ", "дом"]
WORDS += ["\u0301", "1\u20e3", "हिन्दी"]
SPACES = [
    "\u00a0a",
    "a\u2028",
    "\u200ba",
    "a\u200b",
    "\u3000a",
    "a\x1c",
    "a\x85",
    "a\x00b",
    "\u180ea",
    "\ufeffa",
    "\U0001f415",
]
OTHERS = [None, True, False, -1, -33, -(2**63), 2**63, 2**64 - 1, 0.0, 1.5, b"", b"\0", bytes(31), bytes(32), bytes(33)]
SHAPES: list[Any] = [[], {}, [[]], [1] * 8, [1] * 9, [2**31 - 1], {"": 0}, {"x-a": None}, *map(nested, range(10, 18))]
VALUES = [*NUMBERS, *WORDS, *SPACES, *OTHERS, *SHAPES, "n" * 64, "n" * 65, "n" * 512, "n" * 513, "0" * 64, "indices"]
KEYS = [
    "",
    "x-a",
    "critical",
    "zeros",
    "samples",
    "origin",
    "losses",
    "seed",
    "photos",
    "f16",
    "revision",
    "parameters",
]


def pack(value: Any) -> bytes:
    """Canonical msgpack."""
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
    header, at, sections = unpack(data[20 : 20 + size]), 20 + size, []
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
        try:
            read(data)
        except RuleError as error:
            (size,) = struct.unpack_from("<I", data.ljust(20), 12)
            if not error.found:
                break
            data = join(data[20 : 20 + size].replace(error.stored, error.found, 1), [data[20 + size :]], data)
        else:
            break
    return data


def damage(data: bytes, rng: random.Random, kinds: int = 10) -> bytes:
    """Flip, set, cut, delete, repeat or insert a few bytes; the first 6 kinds keep the length."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, some = rng.randrange(len(result) + 1), rng.randrange(1, 5)
        kind = rng.randrange(kinds)
        if kind < 5 and at < len(result):
            result[at] ^= 1 << rng.randrange(8)
        elif kind < 6 and at < len(result):
            result[at] = rng.choice((0, 1, 0x7F, 0x80, 0xC0, 0xFF, rng.randrange(256)))
        elif kind < 7:
            del result[rng.choice((at, len(result) - some)) :]
        elif kind < 8:
            del result[at : at + some]
        elif kind < 9:
            result[at:at] = result[at : at + some]
        else:
            result[at:at] = rng.choice((bytes(some), b"\xff" * some, rng.randbytes(some)))
    return bytes(result)


def anywhere(data: bytes, rng: random.Random) -> bytes:
    """Damage anywhere, sums as they were."""
    return damage(data, rng)


def in_preamble(data: bytes, rng: random.Random) -> bytes:
    """Damage to the first 20 bytes, CRC put right."""
    (size,) = struct.unpack_from("<I", data, 12)
    start = damage(data[:16], rng)
    return start + struct.pack("<I", zlib.crc32(start + data[20 : 20 + size])) + data[20:]


def in_header(data: bytes, rng: random.Random) -> bytes:
    """Damage to the bytes of the header, its length and CRC put right."""
    (size,) = struct.unpack_from("<I", data, 12)
    return mend(join(damage(data[20 : 20 + size], rng), [data[20 + size :]], data))


def in_tree(data: bytes, rng: random.Random) -> bytes:
    """Change, drop, add, repeat or swap values of the header."""
    header, sections = parts(data)
    for _ in range(rng.choice((1, 1, 1, 2))):
        place: Any = header
        while True:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            key = rng.choice(keys) if keys else None
            if key is None or not isinstance(place[key], dict | list) or rng.random() < 0.15:
                break
            place = place[key]
        change(place, key, rng)
    changed = join(header, sections, data)
    return mend(changed) if rng.random() < 0.9 else changed


def change(place: Any, key: Any, rng: random.Random) -> None:
    """Change an array or map at a key."""
    kind = rng.randrange(8)
    value = copy.deepcopy(rng.choice(VALUES))
    if key is None or kind == 0:
        if isinstance(place, dict):
            place[rng.choice(KEYS)] = value
        else:
            place.insert(rng.randrange(len(place) + 1), value)
    elif kind == 1:
        del place[key]
    elif kind == 2 and isinstance(place, list):
        other = rng.randrange(len(place))
        place[key], place[other] = place[other], place[key]
    elif kind == 3 and isinstance(place, list):
        place.insert(key, copy.deepcopy(place[key]))
    elif kind < 6 and type(place[key]) is int:
        place[key] = min(max(place[key] + rng.choice((-1, 1, 2, 8)), -(2**63)), 2**64 - 1)
    elif kind < 6 and isinstance(place[key], str):
        at = rng.randrange(len(place[key]) + 1)
        place[key] = (
            place[key][:at] + rng.choice(WORDS + SPACES + [".", " ", "_"]) + place[key][at + rng.randrange(2) :]
        )
    elif kind < 6 and isinstance(place[key], bytes):
        place[key] = damage(place[key], rng)
    else:
        place[key] = value


def in_sections(data: bytes, rng: random.Random) -> bytes:
    """Damage to the bytes of sections; lengths and sums put right."""
    header, sections = parts(data)
    sections = [damage(section, rng) for section in sections]
    return mend(join(relabelled(header, sections), sections, data))


def relabelled(header: Header, sections: list[bytes]) -> Header:
    """The header with lengths and sums of these sections."""
    rest = list(sections)
    for concept in header["concepts"]:
        for section in concept["sections"]:
            payload = rest.pop(0)
            section |= {"length": len(payload), "sha256": hashlib.sha256(payload).digest()}
    return header


def in_pieces(data: bytes, rng: random.Random) -> bytes:
    """Damage to raw and coded pieces, to k or to the codec; the frame and all sums are made anew."""
    header, sections = parts(data)
    number = 0
    for concept in header["concepts"]:
        if rows := concept["tensors"]:
            raw, coded = split(sections[number], rows)
            for _ in range(rng.choice((1, 1, 2))):
                row = rng.randrange(len(rows))
                pieces, item = (raw, 3) if raw[row] and rng.random() < 0.6 else (coded, 4)
                pieces[row] = damage(pieces[row], rng, rng.choice((6, 6, 6, 10)))
                rows[row][item] = len(pieces[row])
            if rng.random() < 0.1:
                row, item = rng.randrange(len(rows)), rng.choice((1, 2, 2, 3, 4))
                rows[row][item] = max(0, rows[row][item] + rng.choice((-1, 1)))
            compressor = zstandard.ZstdCompressor(level=rng.randrange(1, 20), write_checksum=rng.random() < 0.5)
            sections[number] = b"".join(raw) + compressor.compress(b"".join(coded))
        number += len(concept["sections"])
    return mend(join(relabelled(header, sections), sections, data))


def split(section: bytes, rows: list[list[int]]) -> tuple[list[bytes], list[bytes]]:
    """The raw and the coded pieces of a valid section of indices."""
    raw, coded, at, second = [], [], 0, 0
    content = zstandard.ZstdDecompressor().decompress(section[sum(row[3] for row in rows) :])
    for row in rows:
        raw.append(section[at : at + row[3]])
        coded.append(content[second : second + row[4]])
        at, second = at + row[3], second + row[4]
    return raw, coded


WAYS: list[tuple[Callable[[bytes, random.Random], bytes], int]] = [
    (anywhere, 1),
    (in_preamble, 1),
    (in_header, 3),
    (in_tree, 6),
    (in_sections, 3),
    (in_pieces, 8),
]
"""Ways to change a file, and how often each is taken."""
