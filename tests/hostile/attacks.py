"""Attacks on what is around the values: their encoding, the layout of sections, clashes, frames and bombs."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Iterator
from typing import Any

from tests.hostile.values import KEYS, VALUES, nested
from tests.support.forging import Header, Packed, join, mend, pack, parts, relabelled, split

MAGIC = bytes.fromhex("28B52FFD")
Place = tuple[Any, Any]
"""An array or map, and an index or key of it."""


def places(value: Any) -> Iterator[Place]:
    """Where every value of a header stands, arrays and maps themselves included."""
    for key in sorted(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def in_encoding(data: bytes, rng: random.Random) -> bytes:
    """One value or map of the header in msgpack that isn't canonical, or isn't allowed."""
    header, sections = parts(data)
    place, key = rng.choice(list(places(header)))
    place[key] = Packed(loose(place[key], rng))
    whole = loose_map(header, rng) if rng.random() < 0.1 else pack(header)
    return mend(join(whole, sections, data))


def loose(value: Any, rng: random.Random) -> bytes:
    """Another encoding of a value: a longer one, another type of the same number, or something forbidden."""
    forms = [b"\xc1", b"\xd4\x05\0", b"\xd6\xff\0\0\0\1", b"\xc7\0\x07", b"\xca\x3f\x80\0\0", pack(value)[:-1]]
    if type(value) is int:
        forms += [bytes([0xCC + w]) + (value % 2 ** (8 << w)).to_bytes(1 << w, "big") for w in range(4)] * 2
        forms += [bytes([0xD0 + w]) + (value % 2 ** (8 << w)).to_bytes(1 << w, "big") for w in range(4)]
        forms += [b"\xcb" + struct.pack(">d", value), b"\xca" + struct.pack(">f", min(value, 2**100))]
    elif isinstance(value, str | bytes):
        raw = value.encode() if isinstance(value, str) else value
        forms += [bytes([code]) + len(raw).to_bytes(1 << code % 3, "big") + raw for code in (0xDA, 0xDB, 0xC5, 0xC6)]
        forms += [b"\xda" + struct.pack(">H", len(raw)) + raw, b"\xc6" + struct.pack(">I", len(raw)) + raw]
        forms += [b"\xdb\xff\xff\xff\xff" + raw, b"\xa1\xff", b"\xa2\xc0\x80", b"\xa3\xed\xa0\x80"]
    elif isinstance(value, list):
        items = b"".join(map(pack, value))
        forms += [b"\xdc" + struct.pack(">H", len(value)) + items, b"\xdd" + struct.pack(">I", len(value)) + items]
        forms += [b"\xdd\xff\xff\xff\xff" + items, b"\xdd\x7f\xff\xff\xff"]
    elif isinstance(value, dict):
        forms += [loose_map(value, rng) for _ in range(4)]
    return rng.choice(forms)


def loose_map(value: dict[str, Any], rng: random.Random) -> bytes:
    """A map with keys out of order, twice, of other types, or with another count."""
    items = [pack(key) + pack(value[key]) for key in sorted(value)]
    kind = rng.randrange(6)
    if kind == 0:
        rng.shuffle(items)
    elif kind == 1 and items:
        items.insert(rng.randrange(len(items) + 1), rng.choice(items))
    elif kind == 2:
        items.insert(rng.randrange(len(items) + 1), pack(rng.choice([0, None, b"x", 1.5, [], {}])) + b"\xc0")
    elif kind == 3:
        items.insert(rng.randrange(len(items) + 1), pack(rng.choice(KEYS)) + pack(rng.choice(VALUES)))
    count = len(items) + (kind == 4) * rng.choice((-1, 1, 2**16, 2**31))
    start = bytes([0x80 + count]) if 0 <= count < 16 and kind < 5 else b"\xdf" + struct.pack(">I", count % 2**32)
    return start + b"".join(items)


def in_layout(data: bytes, rng: random.Random) -> bytes:
    """Sections that overlap, leave gaps, are swapped, missing, repeated, unknown, or whose lengths wrap around."""
    header, sections = parts(data)
    holders = [section for concept in header["concepts"] for section in concept["sections"]]
    kind, some = rng.randrange(8), rng.randrange(1, 9)
    one, two = rng.choice(holders), rng.choice(holders)
    at = rng.randrange(len(sections) + 1)
    if kind == 0:
        one["length"] += some
        two["length"] = max(0, two["length"] - some)
    elif kind == 1:
        one["length"] = rng.choice((2**64 - some, 2**63 - 1, 2**32 + one["length"], 0, max(0, one["length"] - some)))
    elif kind == 2:
        one["length"], two["length"] = 2**64 - some, two["length"] + some
    elif kind == 3:
        sections.insert(at, rng.choice((bytes(some), rng.randbytes(some), sections[0])))
    elif kind == 4:
        rng.shuffle(sections)
    elif kind == 5:
        sections.pop(at - 1)
    else:
        return with_sections(header, sections, data, rng)
    return mend(join(header, sections, data))


def with_sections(header: Header, sections: list[bytes], data: bytes, rng: random.Random) -> bytes:
    """More sections for a concept: of unknown types or of one that is there, up to one more than the limit."""
    number = rng.randrange(len(header["concepts"]))
    before = sum(len(concept["sections"]) for concept in header["concepts"][: number + 1])
    kinds = rng.choice((["x-a"], ["indices"], ["x-a", "x-a"], [f"x-{i}" for i in range(rng.choice((14, 15, 16)))]))
    header["concepts"][number]["sections"] += [{"type": kind, "x-k": None} for kind in kinds]
    sections[before:before] = [rng.randbytes(rng.randrange(20)) for _ in kinds]
    return mend(join(relabelled(header, sections), sections, data))


def in_names(data: bytes, rng: random.Random) -> bytes:
    """Concepts, tensors or bases twice, with words that are equal, equal but for case, or in another order."""
    header, sections = parts(data)
    base = rng.choice(header["bases"])
    kind = rng.randrange(6)
    if kind == 0 and base["tensors"]:
        base["tensors"].insert(0, copy.deepcopy(rng.choice(base["tensors"])))
    elif kind == 1:
        header["bases"].append(copy.deepcopy(base))
    else:
        concept = copy.deepcopy(header["concepts"][-1])
        sections += sections[-len(concept["sections"]) :]
        change = rng.choice((str.upper, str.title, str.lower, lambda word: word + "a", lambda word: word + "ß"))
        for key in rng.choice((("name",), ("identifier",), ("name", "identifier"), ())):
            concept[key] = change(concept[key])
        header["concepts"].append(concept)
        if kind == 2:
            header["concepts"].sort(key=lambda concept: str(concept["name"]))
        if kind == 3:
            concept["base"] = len(header["bases"])
            header["bases"].append(copy.deepcopy(base))
    return mend(join(header, sections, data))


def in_frame(data: bytes, rng: random.Random) -> bytes:
    """A frame made by hand for the right content: its descriptor, sizes, blocks, bombs, other frames around it."""
    header, sections = parts(data)
    number = 0
    for concept in header["concepts"]:
        if concept["tensors"]:
            raw, coded = split(sections[number], header, concept)
            sections[number] = b"".join(raw) + frame(b"".join(coded), rng)
        number += len(concept["sections"])
    return mend(join(relabelled(header, sections), sections, data))


def frame(content: bytes, rng: random.Random) -> bytes:
    """A frame of stored and repeated blocks, right or with a fault."""
    flag, single = rng.randrange(4), rng.randrange(2)
    size = len(content) + (rng.choice((-1, 1, 2**26, 2**31, 2**63)) if rng.random() < 0.2 else 0)
    width = 1 << flag if flag or single else 0
    declared = ((size - 256 * (flag == 1)) % 2 ** (8 * width)).to_bytes(width, "little")
    dictionary = rng.choice((0, 0, 0, 1, 2, 3))
    start = bytes([flag << 6 | single << 5 | rng.choice((0, 0, 0, 0, 4, 8, 16)) | dictionary])
    start += b"" if single else bytes([rng.choice((0, 1, 8, 0x50, 0x88, 0x89, 0xFF))])
    start += bytes((0, 1, 2, 4)[dictionary] - 1) + rng.choice((b"\0", b"\0", b"\1")) if dictionary else b""
    whole: bytes = MAGIC + start + declared + blocks(content, rng)
    around = rng.randrange(12)
    if around == 0:
        return bytes(whole + rng.choice((b"\0", MAGIC, whole, b"\x50\x2a\x4d\x18\0\0\0\0", bytes(4))))
    if around == 1:
        return b"\x5f\x2a\x4d\x18" + struct.pack("<I", rng.choice((0, 1, 2**31))) + whole
    return whole[: -rng.randrange(1, 5)] if around == 2 else whole


def blocks(content: bytes, rng: random.Random) -> bytes:
    """Blocks that hold the content, at times with empty ones, a bomb or a block of a reserved type among them."""
    cut = rng.randrange(len(content) + 1)
    found = [(0, content[:cut]), (0, content[cut:])]
    if content and content.count(content[0]) == len(content) and rng.random() < 0.5:
        found = [(1, content)]
    more = rng.randrange(10)
    if more < 2:
        found.insert(rng.randrange(len(found) + 1), (0, b""))
    elif more == 2:
        found += [(1, bytes(2**17 - 1))] * rng.choice((1, 2, 64))
    elif more == 3:
        found.append((rng.choice((2, 3)), rng.randbytes(rng.randrange(9))))
    result = b""
    for number, (kind, block) in enumerate(found):
        last = number == len(found) - 1 and more != 4
        result += (len(block) << 3 | kind << 1 | last).to_bytes(3, "little") + (block[:1] if kind == 1 else block)
    return result


def bombs(data: bytes, rng: random.Random) -> bytes:
    """A header of much nesting, of many items, or of counts that nothing stands behind."""
    header, sections = parts(data)
    size = rng.choice((20, 100, 1000, 1000, 5000))
    place, key = rng.choice([(header, "x-bomb"), *((base, "x-bomb") for base in header["bases"]), *places(header)])
    place[key] = rng.choice(
        (
            Packed(b"\x91" * size + b"\xc0"),
            Packed(b"\x81\xa0" * size + b"\xc0"),
            Packed(rng.choice((b"\xdd", b"\xdf", b"\xdb", b"\xc6")) + struct.pack(">I", rng.choice((size, 2**32 - 1)))),
            [[]] * size,
            [{}] * size,
            [None] * size,
            {f"{number:x}": number for number in range(size)},
            ["a", [2**31 - 1] * (size % 50)],
            [nested(12)] * (size // 10),
            "x" * size,
        )
    )
    return mend(join(header, sections, data))
