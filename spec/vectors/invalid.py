"""The invalid vectors whose fault is in preamble or header, up to the words of concepts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import reference as ref
from good import Fields, H, at, build, changed, flipped, good, raw_header, without


def write(refuse: Callable[..., None]) -> None:
    """Every vector for rules 1 to 23."""
    write_preamble(refuse)
    write_encoding(refuse)
    write_content(refuse)
    write_types(refuse)
    write_bases(refuse)
    write_concepts(refuse)


def write_preamble(refuse: Callable[..., None]) -> None:
    """Rules 1 to 7."""
    data = build(good())
    refuse("nothing.cone", 1, "no bytes at all", b"")
    refuse("other.cone", 1, "a zip file", b"PK\x03\x04" + b"\0" * 60)
    refuse("text-lf.cone", 1, "CR LF became LF", data.replace(b"\r\n", b"\n"))
    refuse("text-crlf.cone", 1, "LF became CR LF", data.replace(b"\n", b"\r\n"))
    refuse("text-7bit.cone", 1, "the high bit of every byte lost", bytes(byte & 0x7F for byte in data))
    refuse("preamble-short.cone", 2, "ends after 19 bytes", data[:19])
    refuse("version-later.cone", 3, "major version 2", build(good(), major=2))
    refuse("version-later-short.cone", 3, "major version 2, and nothing behind it", build(good(), major=2)[:10])
    refuse("version-zero.cone", 3, "major version 0", build(good(), major=0))
    refuse("reserved.cone", 4, "reserved byte 1", build(good(), reserved=1))
    big = bytearray(data)
    big[12:16] = (2**20 + 1).to_bytes(4, "little")
    refuse("header-huge.cone", 5, "header length of 1 MiB and one", bytes(big))
    refuse("header-truncated.cone", 6, "ends inside the header", data[:100])
    refuse("crc-header.cone", 7, "a bit of the header flipped", flipped(data, 60))
    refuse("crc-minor.cone", 7, "a bit of the minor version flipped", flipped(data, 10))
    refuse("signature-only.cone", 2, "the signature alone", data[:9])
    refuse("signature-cut.cone", 1, "the first 8 bytes", data[:8])
    refuse("version-short.cone", 2, "ends after the major version", data[:10])
    refuse("version-255-later.cone", 3, "major version 255", build(good(), major=255))
    refuse("reserved-255.cone", 4, "reserved byte 255", build(good(), reserved=255))
    refuse(
        "header-most.cone",
        6,
        "header length of 1 MiB, which is allowed",
        data[:12] + bytes.fromhex("00001000") + data[16:],
    )
    refuse(
        "header-cut.cone", 6, "ends a byte before the header does", data[: 19 + int.from_bytes(data[12:16], "little")]
    )
    for byte in (10, 16, 18, 19, 20):
        refuse(f"crc-{byte}.cone", 7, f"a bit of byte {byte} flipped", flipped(data, byte))
    refuse("crc.cone", 7, "a bit of the crc flipped", flipped(data, 17))


def write_encoding(refuse: Callable[..., None]) -> None:
    """Rules 8 to 12."""
    header = good()
    body = b"".join(concept.pop("data") for concept in header["concepts"])
    packed = ref.pack(header)
    refuse("msgpack-array.cone", 8, "the header is an array", ref.assemble(b"\x91" + packed, body))
    refuse("msgpack-none.cone", 8, "a header of no bytes, and nothing behind it", ref.assemble(b"", b""))
    refuse("msgpack-trailing.cone", 8, "a byte after the map", ref.assemble(packed + b"\xc0", body))
    refuse("msgpack-cut.cone", 8, "the map ends early", ref.assemble(packed[:-1], body))
    refuse("msgpack-utf8.cone", 8, "a string that is not UTF-8", raw_header(b"\xa3sks", b"\xa3sk\xff"))
    refuse("msgpack-surrogate.cone", 8, "a string with a surrogate", raw_header(b"\xa3sks", b"\xa3\xed\xa0\x80"))
    refuse("msgpack-key.cone", 8, "a key that is a number", ref.assemble(b"\x83" + packed[1:] + b"\x01\x01", body))
    refuse("msgpack-ext.cone", 8, "an ext type", ref.assemble(b"\x83" + packed[1:] + b"\xa1x\xd4\x05\0", body))
    refuse(
        "msgpack-timestamp.cone", 8, "a timestamp", ref.assemble(b"\x83" + packed[1:] + b"\xa1x\xd6\xff\0\0\0\1", body)
    )

    more = packed.replace(b"\x88\xa4base\x00", b"\x89\xa4base\x00\xa4base\x00", 1)
    assert more != packed
    refuse("key-twice.cone", 9, "the key base twice in a concept", ref.assemble(more, body))
    refuse(
        "key-twice-far.cone",
        9,
        "a key twice, not side by side",
        ref.assemble(b"\x83" + packed[1:] + packed[1:7] + b"\x90", body),
    )
    refuse("keys-unordered.cone", 10, "keys out of order", ref.assemble(b"\x83" + packed[1:] + b"\xa1a\x01", body))
    refuse(
        "int-long.cone",
        10,
        "4 written in two bytes",
        raw_header(b"\xa1a\x92\x04\x08", b"\xa1a\x92\xcc\x04\x08"),
    )
    refuse("str-long.cone", 10, "a short string with a long length", raw_header(b"\xa3sks", b"\xd9\x03sks"))
    refuse("float32.cone", 10, "a 32-bit float", raw_header(b"\xcb" + msgpack.packb(0.5)[1:], b"\xca\x3f\x00\x00\x00"))
    write_forms(refuse, packed, body)
    refuse("nan.cone", 11, "NaN", at("concepts", 0, "origin", "losses", "held_out_before", value=float("nan")))
    refuse("infinite.cone", 11, "infinity under an unknown key", at("x", value=float("inf")))
    deep: Any = []
    for _ in range(16):
        deep = [deep]
    refuse("deep.cone", 12, "17 arrays inside each other inside the header", at("x", value=deep))


def write_forms(refuse: Callable[..., None], packed: bytes, body: bytes) -> None:
    """Every form of a value that is longer than it need be, and what no form may be."""

    def value(code: str, rule: int, about: str) -> None:
        data = b"\x83" + packed[1:] + b"\xa1x" + bytes.fromhex(code)
        refuse(f"form-{code[:8]}-{code[-8:]}.cone", rule, about, ref.assemble(data, body))

    text, items, pairs = b"a".hex(), "c0", "a16bc0"
    for code in ("cc00", "cc7f", "cd0000", "cd00ff", "ce00000000", "ce0000ffff"):
        value(code, 10, "a number in a longer unsigned form")
    value("cf" + "00" * 4 + "ff" * 4, 10, "2^32 - 1 in eight bytes")
    for code in ("d000", "d07f", "d100ff", "d20000ffff"):
        value(code, 10, "a number of 0 or more in a signed form")
    value("d3" + "00" * 4 + "ff" * 4, 10, "2^32 - 1 in a signed form of eight bytes")
    for code in ("d0e0", "d1ff80", "d2ffff8000", "d3ffffffff80000000"):
        value(code, 10, "a number below 0 in a longer form")
    value("d900", 10, "an empty string with a length of a byte")
    value("d91f" + text * 31, 10, "31 bytes of a string with a length of a byte")
    value("da0000", 10, "an empty string with a length of two bytes")
    value("da00ff" + text * 255, 10, "255 bytes of a string with a length of two bytes")
    value("db00000000", 10, "an empty string with a length of four bytes")
    value("c50000", 10, "an empty binary with a length of two bytes")
    value("c500ff" + "00" * 255, 10, "255 bytes with a length of two bytes")
    value("c600000000", 10, "an empty binary with a length of four bytes")
    value("c60000ffff" + "00" * 65535, 10, "65,535 bytes with a length of four bytes")
    value("dc0000", 10, "an empty array with a length of two bytes")
    value("dc000f" + items * 15, 10, "15 items with a length of two bytes")
    value("dd00000000", 10, "an empty array with a length of four bytes")
    value("de0000", 10, "an empty map with a length of two bytes")
    value("de0001" + pairs, 10, "a map of one with a length of two bytes")
    value("df00000000", 10, "an empty map with a length of four bytes")
    value("ca3f000000", 10, "0.5 in 32 bits")
    value("82a162c0a161c0", 10, "keys of an inner map out of order")
    value("82a3efbda1c0a2c3a9c0", 10, "keys of an inner map out of order beyond ASCII")
    value("82a4f09f9095c0a3efbca1c0", 10, "keys in the order of UTF-16")
    value("82a161c0a161c0", 9, "a key twice in an inner map")
    value("cb7ff8000000000000", 11, "NaN")
    value("cbfff0000000000000", 11, "minus infinity")
    value("c1", 8, "the byte that has no meaning")
    for code in ("c70007", "c8000007", "c90000000007", "d4", "d5", "d6", "d7", "d8"):
        size = {"d4": 1, "d5": 2, "d6": 4, "d7": 8, "d8": 16}.get(code, -1)
        value(code + "05" * (size + 1), 8, "an ext type")
    value("d6ff00000001", 8, "a timestamp")
    for code in (
        "a2c080",
        "a3eda080",
        "a6eda0bdedb880",
        "a4f4908080",
        "a180",
        "a1ff",
        "a2c3",
        "a3e28228",
        "a4f8888080",
    ):
        value(code, 8, "a string that is not UTF-8")
    for code in (
        "a2",
        "d9",
        "d921",
        "da00",
        "c402",
        "92c0",
        "81a161",
        "cb00",
        "cd00",
        "dc",
        "ddffffffff",
        "dfffffffff",
    ):
        value(code, 8, "a value that ends early")
    for code in ("81c0c0", "8101c0", "81c3c0", "81c401610c", "8190c0", "8180c0", "81cb" + "00" * 8 + "c0"):
        value(code, 8, "a key that is no string")
    value("91" * 15 + "91c0", 12, "a value inside 17 arrays and maps")
    value("91" * 14 + "81a091c0", 12, "a value inside 17 arrays and maps, one of them a map")
    value("91" * 15 + "81a0c0", 12, "a value inside 17 arrays and maps, the innermost a map")
    value("91" * 15 + "dc0010" + items * 16, 12, "values inside 17 arrays and maps, the innermost an array of 16")
    keys = "".join(f"a1{key:02x}c0" for key in range(0x61, 0x71))
    value("91" * 15 + "de0010" + keys, 12, "values inside 17 arrays and maps, the innermost a map of 16")


def write_types(refuse: Callable[..., None]) -> None:
    """Rule 14: each key missing, nil, or of another type."""
    header = good()
    header["concepts"][0]["origin"]["losses"]["class_after"] = 0.5
    for name, path in PLACES.items():
        place: Any = header
        for step in path:
            place = place[step]
        for key in sorted(place.keys() - {"data"}):
            optional = name in ("origin", "losses", "versions") or key == "origin"
            if not optional:
                refuse(f"no-{name}-{key}.cone", 14, f"{key} missing", without(*path, key))
            refuse(f"nil-{name}-{key}.cone", 14, f"{key} is nil", at(*path, key, value=None))
            refuse(
                f"type-{name}-{key}.cone",
                14,
                f"{key} is of another type",
                at(*path, key, value=WRONG[type(place[key])]),
            )
            if type(place[key]) is int and not optional:
                refuse(f"bool-{name}-{key}.cone", 14, f"{key} is a boolean", at(*path, key, value=False))
                refuse(f"negative-{name}-{key}.cone", 14, f"{key} is -1", at(*path, key, value=-1))
                refuse(f"float-{name}-{key}.cone", 14, f"{key} is a float", at(*path, key, value=0.0))
    first = ("concepts", 0)
    for key in ("seed", "held_out"):
        refuse(f"bool-origin-{key}.cone", 14, f"{key} is a boolean", at(*first, "origin", key, value=True))
        refuse(f"float-origin-{key}.cone", 14, f"{key} is a float", at(*first, "origin", key, value=1.0))
    refuse("bool-loss.cone", 14, "a loss is a boolean", at(*first, "origin", "losses", "class_after", value=True))
    for item in range(3):
        for about, value in (("text", "1"), ("float", 1.0), ("bool", True), ("negative", -1)):
            refuse(
                f"row-{item}-{about}.cone",
                14,
                f"item {item} of a row: {about}",
                at(*first, "tensors", 1, item, value=value),
            )
    refuse("row-long.cone", 14, "a row of four numbers", at(*first, "tensors", 1, value=[1, 20, 20, 0]))
    refuse("row-map.cone", 14, "a row that is a map", at(*first, "tensors", 1, value={}))
    base = ("bases", 0)
    refuse("tensor-short.cone", 14, "a tensor without a shape", at(*base, "tensors", 1, value=["b"]))
    refuse("tensor-long.cone", 14, "a tensor of three items", at(*base, "tensors", 1, value=["b", [40, 50], 0]))
    refuse("tensor-name.cone", 14, "a param name as bytes", at(*base, "tensors", 1, 0, value=b"b"))
    refuse("tensor-shape.cone", 14, "a shape that is a number", at(*base, "tensors", 1, 1, value=2000))
    refuse("tensor-float.cone", 14, "a dimension that is a float", at(*base, "tensors", 1, 1, value=[40, 50.0]))
    refuse("tensor-bool.cone", 14, "a dimension that is a boolean", at(*base, "tensors", 1, 1, value=[2000, True]))
    for name, place in (
        ("id", (*first, "id")),
        ("structure", (*base, "structure")),
        ("digest", (*base, "digests", "f32")),
    ):
        for size in (31, 33):
            refuse(f"{name}-{size}.cone", 14, f"{name} of {size} bytes", at(*place, value=bytes(size)))
    refuse("section-sha256-33.cone", 14, "33 bytes as sha256", at(*first, "sections", 0, "sha256", value=bytes(33)))
    photos = {"short": "0" * 63, "long": "0" * 65, "upper": "A" * 64, "letter": "g" * 64, "end": "0" * 64 + "\n"}
    for about, photo in photos.items():
        refuse(f"photo-{about}.cone", 14, "not 64 hex digits", at(*first, "origin", "photos", value=[H.hex(), photo]))
    refuse("warning-number.cone", 14, "a warning that is a number", at(*first, "origin", "warnings", value=["a", 1]))
    refuse("critical-number.cone", 14, "a critical feature that is a number", at("critical", value=[0]))
    refuse("critical-mixed.cone", 14, "critical features of which one is a number", at("critical", value=["x-a", 0]))
    refuse("bases-number.cone", 14, "a base that is a number", at("bases", value=[1]))
    refuse("concepts-number.cone", 14, "a concept that is a number", at("concepts", value=[1]))
    refuse("sections-number.cone", 14, "a section that is a number", at(*first, "sections", value=[1]))


PLACES: dict[str, tuple[str | int, ...]] = {
    "header": (),
    "base": ("bases", 0),
    "concept": ("concepts", 0),
    "section": ("concepts", 0, "sections", 0),
    "origin": ("concepts", 0, "origin"),
    "losses": ("concepts", 0, "origin", "losses"),
    "versions": ("concepts", 0, "origin", "versions"),
}
"""The maps whose keys are all listed."""
WRONG: dict[type, Any] = {str: b"dog", bytes: "0" * 32, int: "0", float: "0", list: {}, dict: []}
"""For a value of a type, one of another."""


def write_content(refuse: Callable[..., None]) -> None:
    """Rules 13 to 15: critical features, types and caps."""
    refuse("critical-later.cone", 13, "a critical feature nobody knows", at("critical", value=["x-rotated"]))
    escape = at("critical", value=["x\n\x1b[31m"])
    refuse("critical-escape-later.cone", 13, "a critical feature with a line break and an escape sequence", escape)
    refuse("nil-critical.cone", 14, "nil for critical", at("critical", value=None))
    long = at("bases", 0, "digests", "x\n" * 2000, value=H[:31])
    refuse("digest-long.cone", 14, "31 bytes under a rounding of 4,000 characters, half of them line breaks", long)
    refuse(
        "digest-later.cone",
        14,
        "31 bytes under an unknown rounding",
        at("bases", 0, "digests", "x-later", value=H[:31]),
    )
    refuse("nil-revision.cone", 14, "nil for an optional key", at("bases", 0, "revision", value=None))
    refuse("no-concepts.cone", 15, "no concepts", at("concepts", value=[]))
    refuse("bases-none.cone", 15, "no bases", at("bases", value=[]))
    bases = [{**good()["bases"][0], "id": f"{number}"} for number in range(257)]
    refuse("bases-many.cone", 15, "257 bases", at("bases", value=bases))
    many = [[f"{i:04}", [1]] for i in range(4097)]
    refuse("tensors-many.cone", 15, "4,097 tensors", changed(lambda h: many_tensors(h, many)))
    refuse("param-long.cone", 15, "a param name of 513 code points", at("bases", 0, "tensors", 1, 0, value="あ" * 513))
    refuse("param-empty.cone", 15, "an empty param name", at("bases", 0, "tensors", 0, 0, value=""))
    sections = [ref.section(b"", f"x{i:02}") for i in range(16)]
    refuse("sections-many.cone", 15, "17 sections", changed(lambda h: h["concepts"][1]["sections"].extend(sections)))
    for about, kind in (("long", "x" * 65), ("empty", "")):
        one = ref.section(b"", kind)
        data = changed(lambda h, one=one: h["concepts"][1]["sections"].append(one))
        refuse(f"section-type-{about}.cone", 15, f"a section's type of {len(kind)} characters", data)
    refuse("concepts-many.cone", 15, "257 concepts", changed(many_concepts))


def many_tensors(header: Fields, tensors: list[Any]) -> None:
    """Give the base these tensors, and the concepts none."""
    header["bases"][0]["tensors"] = tensors
    header["concepts"] = header["concepts"][1:]


def many_concepts(header: Fields) -> None:
    """Give the file 257 concepts without neurons."""
    empty = header["concepts"][1]
    names = [f"{number:03x}" for number in range(257)]
    header["concepts"] = [{**empty, "name": name, "class_noun": "x", "identifier": name} for name in names]


def write_bases(refuse: Callable[..., None]) -> None:
    """Rules 16 to 18."""
    shapes = good()["bases"][0]["tensors"]
    refuse("tensors-unordered.cone", 16, "tensors out of order", at("bases", 0, "tensors", value=shapes[::-1]))
    names = [["🐕", [4, 8]], ["Ａ", [40, 50]]]
    refuse("tensors-utf16.cone", 16, "tensors in the order of UTF-16", at("bases", 0, "tensors", value=names))
    refuse("tensors-twice.cone", 16, "a tensor twice", at("bases", 0, "tensors", 1, 0, value="a"))
    refuse("dimension-zero.cone", 17, "a dimension of 0", at("bases", 0, "tensors", 0, 1, value=[4, 0]))
    refuse("dimension-large.cone", 17, "a dimension of 2**31", at("bases", 0, "tensors", 1, 1, value=[2**31]))
    refuse("tensor-large.cone", 17, "a tensor of 2**31 weights", at("bases", 0, "tensors", 1, 1, value=[2**16, 2**15]))
    refuse("dimensions-many.cone", 17, "nine dimensions", at("bases", 0, "tensors", 1, 1, value=[1] * 9))
    refuse("digest-f32.cone", 18, "no digest f32", at("bases", 0, "digests", value={"f16": H}))


def name_both(header: Fields, one: str, other: str) -> None:
    """Name both concepts."""
    for concept, name in zip(header["concepts"], (one, other), strict=True):
        concept["name"] = name


NOT_IN_NAMES = (
    "\x00\x1f!/:@[`{~\x7f\x80\x9f\xa0\xad\u061c\u1680\u180e\u2000\u200b\u2019\u2028\u202e\u206f\u3000\ufeff\ufff0\uffff"
)
NOT_IN_NAMES += "\U000e0000\U000e0041\U000e0fff"


def write_concepts(refuse: Callable[..., None]) -> None:
    """Rules 19 to 23."""
    refuse("name-empty.cone", 19, "an empty name", at("concepts", 0, "name", value=""))
    refuse("name-long.cone", 19, "a name of 65 characters", at("concepts", 0, "name", value="a" * 65))
    refuse(
        "name-long-far.cone", 19, "a name of 65 code points of four bytes", at("concepts", 0, "name", value="🐕" * 65)
    )
    for number, name in enumerate(("a..b", "a -b", ".a", "a.", " a", "a ", "-a", "a'", "_", "a/dog", "a\nb")):
        refuse(f"name-{number}.cone", 19, f"the name {name!r}", at("concepts", 0, "name", value=name))
    for char in NOT_IN_NAMES:
        data = at("concepts", 0, "name", value=f"a{char}b")
        refuse(f"name-u{ord(char):04x}.cone", 19, f"a name with U+{ord(char):04X}", data)
    for key in ("class_noun", "identifier"):
        refuse(f"{key}-empty.cone", 19, f"an empty {key}", at("concepts", 0, key, value=""))
        refuse(f"{key}-long.cone", 19, f"a {key} of 65 characters", at("concepts", 0, key, value="🐕" * 65))
    for char in "\x00\x1f\x7f\x80\x9f":
        data = at("concepts", 0, "class_noun", value=f"a{char}b")
        refuse(f"words-u{ord(char):04x}.cone", 19, f"a class noun with U+{ord(char):04X}", data)
    for char in " \u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000":
        for where, words in (("first", f"{char}a"), ("last", f"a{char}")):
            data = at("concepts", 0, "identifier", value=words)
            refuse(f"space-{where}-u{ord(char):04x}.cone", 19, f"an identifier with U+{ord(char):04X} {where}", data)
    refuse("names-equal.cone", 20, "two concepts of one name", at("concepts", 1, "name", value="dog"))
    refuse("names-case.cone", 20, "names that differ in case alone", at("concepts", 0, "name", value="HAT"))
    refuse("identifiers-case.cone", 20, "identifiers that differ in case", at("concepts", 1, "identifier", value="SKs"))
    refuse("identifiers-equal.cone", 20, "two concepts of one identifier", at("concepts", 1, "identifier", value="sks"))
    refuse("concepts-unordered.cone", 21, "concepts out of order", at("concepts", 0, "name", value="zebra"))
    unordered = changed(lambda h: name_both(h, "🐕", "Ａ"))
    refuse("concepts-utf16.cone", 21, "concepts in the order of UTF-16", unordered)
    refuse("base-unknown.cone", 22, "base number 1 of 1", at("concepts", 1, "base", value=1))
    refuse(
        "base-unused.cone", 22, "a base nobody uses", changed(lambda h: h["bases"].append({**h["bases"][0], "id": "x"}))
    )
    one = ref.section(b"", "x-first")
    refuse(
        "sections-first.cone", 23, "indices come second", changed(lambda h: h["concepts"][1]["sections"].insert(0, one))
    )
    kinds = [ref.section(b"", "x-a"), ref.section(b"", "x-a")]
    refuse(
        "sections-unknown-twice.cone",
        23,
        "two unknown sections of a type",
        changed(lambda h: h["concepts"][1]["sections"].extend(kinds)),
    )
    twice = ref.section(b"")
    refuse(
        "sections-twice.cone",
        23,
        "two sections of indices",
        changed(lambda h: h["concepts"][1]["sections"].append(twice)),
    )
    refuse("sections-none.cone", 15, "no sections", at("concepts", 1, "sections", value=[]))
