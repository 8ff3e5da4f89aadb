"""Changed .cone files whose checksums are right again, so that readers meet every rule and not the sums alone."""

from __future__ import annotations

import copy
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import zstandard

from tests.hostile import attacks
from tests.hostile.values import KEYS, SPACES, VALUES, WORDS
from tests.support.forging import join, mend, parts, relabelled, split


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
    """Change, drop, add, repeat or swap values of the header, deep ones as often as others."""
    header, sections = parts(data)
    for _ in range(rng.choice((1, 1, 1, 2))):
        change(*rng.choice(list(attacks.places(header))), rng)
    changed = join(header, sections, data)
    return mend(changed) if rng.random() < 0.9 else changed


def change(place: Any, key: Any, rng: random.Random) -> None:
    """Change an array or map at a key."""
    kind = rng.randrange(8)
    value = copy.deepcopy(rng.choice(VALUES))
    if kind == 0:
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


def in_pieces(data: bytes, rng: random.Random) -> bytes:
    """Damage to raw and coded pieces, or to k; the frame and all sums are made anew."""
    header, sections = parts(data)
    number = 0
    for concept in header["concepts"]:
        if rows := concept["tensors"]:
            raw, coded = split(sections[number], header, concept)
            for _ in range(rng.choice((1, 1, 2))):
                row = rng.randrange(len(rows))
                pieces = raw if raw[row] and rng.random() < 0.6 else coded
                pieces[row] = damage(pieces[row], rng, rng.choice((6, 6, 6, 10)))
                rows[row][2] = len(coded[row])
            if rng.random() < 0.1:
                row, item = rng.randrange(len(rows)), rng.choice((1, 2))
                rows[row][item] = max(0, rows[row][item] + rng.choice((-1, 1)))
            compressor = zstandard.ZstdCompressor(level=rng.randrange(1, 20), write_checksum=rng.random() < 0.5)
            sections[number] = b"".join(raw) + compressor.compress(b"".join(coded))
        number += len(concept["sections"])
    return mend(join(relabelled(header, sections), sections, data))


WAYS: dict[Callable[[bytes, random.Random], bytes], int] = {
    anywhere: 1,
    in_preamble: 1,
    in_header: 3,
    in_tree: 7,
    in_sections: 3,
    in_pieces: 7,
    attacks.in_encoding: 2,
    attacks.in_layout: 2,
    attacks.in_names: 2,
    attacks.in_frame: 3,
    attacks.bombs: 1,
}
"""Ways to change a file, and how often each is taken."""


def mutate(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A valid file changed in one way, and the way's name."""
    (way,) = rng.choices(list(WAYS), list(WAYS.values()))
    return way.__name__, way(data, rng)
