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
    refuse("crc.cone", 7, "a bit of the crc flipped", flipped(data, 17))


def write_encoding(refuse: Callable[..., None]) -> None:
    """Rules 8 to 12."""
    header = good()
    body = b"".join(concept.pop("data") for concept in header["concepts"])
    packed = ref.pack(header)
    refuse("msgpack-array.cone", 8, "the header is an array", ref.assemble(b"\x91" + packed, body))
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
    refuse("nan.cone", 11, "NaN", at("concepts", 0, "origin", "losses", "held_out_before", value=float("nan")))
    refuse("infinite.cone", 11, "infinity under an unknown key", at("x", value=float("inf")))
    deep: Any = []
    for _ in range(16):
        deep = [deep]
    refuse("deep.cone", 12, "17 arrays inside each other inside the header", at("x", value=deep))


def write_content(refuse: Callable[..., None]) -> None:
    """Rules 13 to 15: critical features, types and caps."""
    refuse("critical-later.cone", 13, "a critical feature nobody knows", at("critical", value=["x-rotated"]))
    escape = at("critical", value=["x\n\x1b[31m"])
    refuse("critical-escape-later.cone", 13, "a critical feature with a line break and an escape sequence", escape)
    refuse("critical-type.cone", 14, "critical is a string", at("critical", value="x"))
    refuse("no-bases.cone", 14, "bases missing", without("bases"))
    refuse("no-name.cone", 14, "the name of a concept missing", without("concepts", 0, "name"))
    refuse("no-digests.cone", 14, "the digests of a base missing", without("bases", 0, "digests"))
    refuse("name-bytes.cone", 14, "a name as bytes", at("concepts", 0, "name", value=b"dog"))
    refuse("base-bool.cone", 14, "base number false", at("concepts", 0, "base", value=False))
    refuse("k-float.cone", 14, "a float as k", at("concepts", 0, "tensors", 0, 2, value=3.0))
    refuse("k-negative.cone", 14, "k of -1", at("concepts", 0, "tensors", 0, 2, value=-1))
    refuse("row-short.cone", 14, "a tensor row of four numbers", at("concepts", 0, "tensors", 0, value=[0, 1, 3, 0]))
    refuse("id-short.cone", 14, "an id of 31 bytes", at("concepts", 0, "id", value=H[:31]))
    refuse("nil.cone", 14, "nil for an optional key", at("bases", 0, "revision", value=None))
    refuse("nil-origin.cone", 14, "nil for a key of origin", at("concepts", 0, "origin", "seed", value=None))
    refuse(
        "photo-path.cone",
        14,
        "a path among the hashes of photos",
        at("concepts", 0, "origin", "photos", value=["/me/1.jpg"]),
    )
    refuse("seed-text.cone", 14, "a seed as a string", at("concepts", 0, "origin", "seed", value="0"))
    refuse(
        "losses-text.cone",
        14,
        "a loss as a string",
        at("concepts", 0, "origin", "losses", "held_out_before", value="0"),
    )
    refuse("nil-critical.cone", 14, "nil for critical", at("critical", value=None))
    long = at("bases", 0, "digests", "x\n" * 2000, value=H[:31])
    refuse("digest-long.cone", 14, "31 bytes under a rung of 4,000 characters, half of them line breaks", long)
    refuse(
        "digest-later.cone", 14, "31 bytes under an unknown rung", at("bases", 0, "digests", "x-later", value=H[:31])
    )
    versions = {"x-later": 2}
    refuse(
        "version-number.cone",
        14,
        "a library's version as a number",
        at("concepts", 0, "origin", "versions", value=versions),
    )
    refuse("no-concepts.cone", 15, "no concepts", at("concepts", value=[]))
    refuse("bases-none.cone", 15, "no bases", at("bases", value=[]))
    many = [[f"{i:04}", [1]] for i in range(4097)]
    refuse("tensors-many.cone", 15, "4,097 tensors", changed(lambda h: many_tensors(h, many)))
    refuse("param-long.cone", 15, "a param name of 513 characters", at("bases", 0, "tensors", 1, 0, value="b" * 513))
    refuse("param-empty.cone", 15, "an empty param name", at("bases", 0, "tensors", 0, 0, value=""))
    sections = [ref.section(b"", f"x{i:02}") for i in range(16)]
    refuse("sections-many.cone", 15, "17 sections", changed(lambda h: h["concepts"][1]["sections"].extend(sections)))


def many_tensors(header: Fields, tensors: list[Any]) -> None:
    """Give the base these tensors, and the concepts none."""
    header["bases"][0]["tensors"] = tensors
    header["concepts"] = header["concepts"][1:]


def write_bases(refuse: Callable[..., None]) -> None:
    """Rules 16 to 18."""
    shapes = good()["bases"][0]["tensors"]
    refuse("tensors-unordered.cone", 16, "tensors out of order", at("bases", 0, "tensors", value=shapes[::-1]))
    refuse("tensors-twice.cone", 16, "a tensor twice", at("bases", 0, "tensors", 1, 0, value="a"))
    refuse("dimension-zero.cone", 17, "a dimension of 0", at("bases", 0, "tensors", 0, 1, value=[4, 0]))
    refuse("dimension-large.cone", 17, "a dimension of 2**31", at("bases", 0, "tensors", 1, 1, value=[2**31]))
    refuse("tensor-large.cone", 17, "a tensor of 2**31 weights", at("bases", 0, "tensors", 1, 1, value=[2**16, 2**15]))
    refuse("dimensions-many.cone", 17, "nine dimensions", at("bases", 0, "tensors", 1, 1, value=[1] * 9))
    refuse("digest-f32.cone", 18, "no digest f32", at("bases", 0, "digests", value={"f16": H}))


def write_concepts(refuse: Callable[..., None]) -> None:
    """Rules 19 to 23."""
    refuse("name-slash.cone", 19, "a name with a slash", at("concepts", 0, "name", value="a/dog"))
    refuse("name-empty.cone", 19, "an empty name", at("concepts", 0, "name", value=""))
    refuse("name-dots.cone", 19, "two signs side by side", at("concepts", 0, "name", value="a..b"))
    refuse("name-mark.cone", 19, "a name that begins with a mark", at("concepts", 0, "name", value="\u0301a"))
    refuse("name-mark-digit.cone", 19, "a mark after a digit", at("concepts", 0, "name", value="1\u20e3"))
    refuse("name-long.cone", 19, "a name of 65 characters", at("concepts", 0, "name", value="a" * 65))
    refuse("noun-control.cone", 19, "an escape character", at("concepts", 0, "class_noun", value="do\x1bg"))
    refuse("noun-empty.cone", 19, "an empty class noun", at("concepts", 0, "class_noun", value=""))
    refuse("identifier-space.cone", 19, "a space at the end", at("concepts", 0, "identifier", value="sks "))
    refuse("names-equal.cone", 20, "two concepts of one name", at("concepts", 1, "name", value="dog"))
    refuse("names-case.cone", 20, "names that differ in case alone", at("concepts", 0, "name", value="HAT"))
    refuse("identifiers-equal.cone", 20, "two concepts of one identifier", at("concepts", 1, "identifier", value="sks"))
    refuse("concepts-unordered.cone", 21, "concepts out of order", at("concepts", 0, "name", value="zebra"))
    refuse("base-unknown.cone", 22, "base number 1 of 1", at("concepts", 1, "base", value=1))
    refuse(
        "base-unused.cone", 22, "a base nobody uses", changed(lambda h: h["bases"].append({**h["bases"][0], "id": "x"}))
    )
    one = ref.section(b"", "x-first")
    refuse(
        "sections-first.cone", 23, "indices come second", changed(lambda h: h["concepts"][1]["sections"].insert(0, one))
    )
    twice = ref.section(b"")
    refuse(
        "sections-twice.cone",
        23,
        "two sections of indices",
        changed(lambda h: h["concepts"][1]["sections"].append(twice)),
    )
    refuse("sections-none.cone", 15, "no sections", at("concepts", 1, "sections", value=[]))
