"""The invalid vectors: a valid file with one thing wrong, its checksums right again unless they are the point."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import msgpack
import reference as ref

H = bytes(range(32))
Fields = dict[str, Any]


def good() -> Fields:
    """Header of a file with a concept of two tensors and one of none."""
    shapes = {"a": [4, 8], "b": [40, 50]}
    sets = {"a": [1, 9, 30], "b": list(range(0, 2000, 100))}
    pieces = [ref.gaps(sets[param], 32 if param == "a" else 2000) for param in shapes]
    data = b"".join(raw for raw, _ in pieces) + ref.zstd(b"".join(coded for _, coded in pieces))
    rows = [
        [i, ref.GAPS, len(sets[p]), len(raw), len(coded)]
        for i, (p, (raw, coded)) in enumerate(zip(sets, pieces, strict=True))
    ]
    return {
        "bases": [
            {
                "id": "vectors/base",
                "family": "stable-diffusion",
                "dtype": "float32",
                "structure": H,
                "tensors": [[param, shape] for param, shape in shapes.items()],
                "digests": {"f32": H},
                "zeros": [0, 1],
                "samples": [b"\0" * 16, b"\0" * 16],
            }
        ],
        "concepts": [
            {
                "name": "dog",
                "class_noun": "dog",
                "identifier": "sks",
                "base": 0,
                "id": ref.concept_id({param: (shapes[param], sets[param]) for param in shapes}),
                "tensors": rows,
                "sections": [ref.section(data)],
                "origin": {"method": "mask", "photos": [H.hex()], "losses": {"held_out_before": 0.5}},
                "data": data,
            },
            {
                "name": "hat",
                "class_noun": "hat",
                "identifier": "zwx",
                "base": 0,
                "id": ref.concept_id({}),
                "tensors": [],
                "sections": [ref.section(b"")],
                "data": b"",
            },
        ],
    }


def build(header: Fields, **preamble: int) -> bytes:
    """The file of a header whose concepts carry their payload under `data`."""
    header = copy.deepcopy(header)
    payload = b"".join(concept.pop("data") for concept in header["concepts"])
    return ref.assemble(ref.pack(header), payload, **preamble)


def changed(change: Callable[[Fields], Any]) -> bytes:
    """The good file with a header that `change` has altered."""
    header = good()
    change(header)
    return build(header)


def at(*path: str | int, value: Any) -> bytes:
    """The good file with the header's item at `path` set to `value`."""

    def change(header: Fields) -> None:
        place: Any = header
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return changed(change)


def without(*path: str | int) -> bytes:
    """The good file with the header's item at `path` left out."""

    def change(header: Fields) -> None:
        place: Any = header
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]

    return changed(change)


def raw_header(old: bytes, new: bytes) -> bytes:
    """The good file with `old` replaced by `new` in the packed header."""
    header = good()
    payload = b"".join(concept.pop("data") for concept in header["concepts"])
    packed = ref.pack(header)
    assert packed.count(old) == 1, old
    return ref.assemble(packed.replace(old, new), payload)


def payload(codec: int, shape: list[int], k: int, raw: bytes, coded: bytes | None, **more: Any) -> bytes:
    """A file with one tensor, these pieces, and right lengths and checksums; `frame` replaces the zstd frame."""
    data = raw + more.get("frame", ref.zstd(coded or b""))
    header = good()
    header["bases"][0] |= {"tensors": [["a", shape]], "zeros": [0], "samples": [b"\0" * 16]}
    row = [0, codec, k, len(raw), more.get("size", len(coded or b""))]
    header["concepts"] = [header["concepts"][0] | {"tensors": [row], "sections": [ref.section(data)], "data": data}]
    values = more.get("values", list(range(min(k, 100))))
    header["concepts"][0]["id"] = ref.concept_id({"a": (shape, values)})
    return build(header)


def write(book: Any) -> None:
    """Every invalid vector."""
    write_preamble(book.refuse)
    write_encoding(book.refuse)
    write_content(book.refuse)
    write_bases(book.refuse)
    write_concepts(book.refuse)
    write_tables(book.refuse)
    write_sections(book.refuse)
    write_frames(book.refuse)
    write_codecs(book.refuse)
    write_grids(book.refuse)


def flipped(data: bytes, byte: int) -> bytes:
    """`data` with the lowest bit of one byte flipped."""
    return data[:byte] + bytes([data[byte] ^ 1]) + data[byte + 1 :]


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
        "0 written in two bytes",
        raw_header(b"\xa5zeros\x92\x00\x01", b"\xa5zeros\x92\xcc\x00\x01"),
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
    del header["bases"][0]["zeros"], header["bases"][0]["samples"]
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
    refuse("zeros-short.cone", 18, "one zero count for two tensors", at("bases", 0, "zeros", value=[0]))
    refuse("samples-long.cone", 18, "three samples for two tensors", at("bases", 0, "samples", value=[b""] * 3))
    refuse("digest-f32.cone", 18, "no digest f32", at("bases", 0, "digests", value={"f16": H}))


def write_concepts(refuse: Callable[..., None]) -> None:
    """Rules 19 to 23."""
    refuse("name-slash.cone", 19, "a name with a slash", at("concepts", 0, "name", value="a/dog"))
    refuse("name-empty.cone", 19, "an empty name", at("concepts", 0, "name", value=""))
    refuse("name-dots.cone", 19, "two signs side by side", at("concepts", 0, "name", value="a..b"))
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


def write_tables(refuse: Callable[..., None]) -> None:
    """Rules 24 to 30."""
    rows = good()["concepts"][0]["tensors"]
    refuse("rows-unordered.cone", 24, "tensor rows out of order", at("concepts", 0, "tensors", value=rows[::-1]))
    refuse("rows-twice.cone", 24, "a tensor twice", at("concepts", 0, "tensors", value=[rows[0], rows[0]]))
    refuse("row-unknown.cone", 24, "tensor 2 of 2", at("concepts", 0, "tensors", 1, 0, value=2))
    refuse("k-zero.cone", 25, "k of 0", at("concepts", 0, "tensors", 0, value=[0, 1, 0, 0, 0]))
    refuse("k-large.cone", 25, "33 of 32 weights", at("concepts", 0, "tensors", 0, value=[0, 1, 33, 0, 33]))
    refuse("k-huge.cone", 25, "k of 2**64 - 1", at("concepts", 0, "tensors", 0, 2, value=2**64 - 1))
    refuse("codec.cone", 26, "codec 3", at("concepts", 0, "tensors", 0, 1, value=3))
    refuse("gaps-raw.cone", 27, "a raw piece of a wrong length", at("concepts", 0, "tensors", 0, 3, value=1))
    refuse("gaps-coded-short.cone", 27, "fewer quotients than k", at("concepts", 0, "tensors", 0, 4, value=2))
    refuse("gaps-coded-long.cone", 27, "more quotient bytes than n allows", at("concepts", 0, "tensors", 0, 4, value=4))
    refuse("bitmap-sparse.cone", 27, "a bitmap of less than one in eight", payload(0, [5, 5], 3, b"", b"\xe0\0\0\0"))
    refuse("bitmap-raw.cone", 27, "a bitmap with a raw piece", payload(0, [8], 8, b"\0", b"\xff"))
    refuse("bitmap-length.cone", 27, "a bitmap of two bytes for 8 weights", payload(0, [8], 8, b"", b"\xff\0"))
    refuse("grid-line.cone", 27, "the grid codec on one dimension", payload(2, [8], 8, b"\1\1\x08\xff", b""))
    refuse(
        "grid-sparse.cone",
        27,
        "more than 16 k rows and columns",
        payload(2, [16, 1], 1, b"\1\1\1\x80", b"", values=[0]),
    )
    refuse("grid-coded.cone", 27, "a wrong number of classes", payload(2, [4, 8], 1, b"\1\1\1\x80", b"\0"))
    large = payload(0, [2**15, 2**12], 2**26 + 1, b"", None, frame=ref.zstd(b""), size=2**24)
    refuse("neurons-many.cone", 28, "2**26 + 1 neurons", large)
    large = payload(2, [2**29, 1], 2**26, b"", None, frame=ref.zstd(b""), size=2**29)
    refuse("coded-many.cone", 28, "512 MiB of classes", large)
    refuse("section-short.cone", 29, "a section that ends with its raw pieces", short_section())
    refuse("section-full.cone", 29, "a section of a byte for a concept without tensors", full_section())
    data = build(good())
    refuse("truncated.cone", 30, "the last byte missing", data[:-1])
    refuse("trailing.cone", 30, "a byte more", data + b"\0")
    header = good()
    header["concepts"][1]["sections"].append({"type": "x-more", "length": 2**63, "sha256": H})
    refuse("length-huge.cone", 30, "a section of 2**63 bytes", build(header))


def short_section() -> bytes:
    """A section as long as its raw pieces, without the frame."""
    header = good()
    raw = sum(row[3] for row in header["concepts"][0]["tensors"])
    data = header["concepts"][0]["data"][:raw]
    header["concepts"][0] |= {"data": data, "sections": [ref.section(data)]}
    return build(header)


def full_section() -> bytes:
    """A concept without tensors whose section is not empty."""
    header = good()
    header["concepts"][1] |= {"data": b"\0", "sections": [ref.section(b"\0")]}
    return build(header)


def write_sections(refuse: Callable[..., None]) -> None:
    """Rules 31 and 42, and damaged payloads."""
    data = build(good())
    refuse("sha256.cone", 31, "a bit of the payload flipped", flipped(data, len(data) - 3))
    refuse(
        "sha256-header.cone", 31, "another sha256 in the header", at("concepts", 0, "sections", 0, "sha256", value=H)
    )
    refuse("id.cone", 42, "another content id in the header", at("concepts", 0, "id", value=H))
    refuse("id-empty.cone", 42, "another content id for an empty concept", at("concepts", 1, "id", value=H))


def write_frames(refuse: Callable[..., None]) -> None:
    """Rule 32: what is behind the raw pieces is not one zstd frame of the declared size."""
    shape, values, raw, coded = [4, 8], [1, 9, 30], b"", bytes([1, 7, 20])

    def file(frame: bytes) -> bytes:
        return payload(1, shape, 3, raw, coded, frame=frame, values=values)

    right = ref.zstd(coded)
    refuse("frame-magic.cone", 32, "no zstd magic", file(flipped(right, 0)))
    refuse("frame-cut.cone", 32, "the frame ends early", file(right[:-1]))
    refuse("frame-trailing.cone", 32, "a byte after the frame", file(right + b"\0"))
    refuse("frame-two.cone", 32, "an empty frame after the frame", file(right + ref.zstd(b"")))
    refuse("frame-skippable.cone", 32, "a skippable frame first", file(b"\x50\x2a\x4d\x18\x01\0\0\0\0" + right))
    refuse("frame-unsized.cone", 32, "no content size", file(ref.zstd(coded, write_content_size=False)))
    refuse("frame-size.cone", 32, "four bytes, not three", file(ref.zstd(coded + b"\0")))
    lying = bytearray(right)
    assert lying[5] == 3
    lying[5] = 4
    refuse(
        "frame-lying.cone",
        32,
        "declares four bytes, holds three",
        payload(1, [4, 8], 4, b"", b"\0" * 4, frame=bytes(lying)),
    )
    summed = bytearray(ref.zstd(coded, write_checksum=True))
    summed[-1] ^= 1
    refuse("frame-checksum.cone", 32, "a wrong checksum", file(bytes(summed)))
    refuse("bomb.cone", 32, "a frame of 64 MiB of zeros where three bytes are expected", file(ref.zstd(b"\0" * 2**26)))
    keyed = right[:4] + bytes([right[4] | 1, 7]) + right[5:]
    refuse("frame-dictionary.cone", 32, "names a dictionary", file(keyed))


def write_codecs(refuse: Callable[..., None]) -> None:
    """Rules 33 to 36."""
    assert ref.gaps([1], 255)[0] == bytes([0x80, 0, 0])
    refuse(
        "gaps-padding.cone",
        33,
        "a padding bit of a plane set",
        payload(1, [255], 1, bytes([0x80, 0, 1]), b"\0", values=[1]),
    )
    refuse("bitmap-padding.cone", 33, "a padding bit of a bitmap set", payload(0, [7], 7, b"", b"\xff"))
    refuse("gaps-few.cone", 34, "three bytes, two quotients", payload(1, [20, 30], 20, b"", b"\xff" + b"\0" * 19))
    refuse("gaps-many.cone", 34, "one quotient too many", payload(1, [20, 30], 20, b"", b"\0" * 21))
    refuse("gaps-open.cone", 34, "the last quotient goes on", payload(1, [20, 30], 20, b"", b"\0" * 20 + b"\xff"))
    refuse("index-n.cone", 35, "the last index is n", payload(1, [4, 8], 3, b"", bytes([1, 7, 22]), values=[1, 9, 32]))
    refuse(
        "index-far.cone", 35, "an index of 765", payload(1, [4, 8], 3, b"", bytes([254] * 3), values=[254, 509, 764])
    )
    refuse("bitmap-few.cone", 36, "seven bits set for k of 8", payload(0, [8], 8, b"", b"\xfe"))
    refuse("bitmap-many.cone", 36, "eight bits set for k of 7", payload(0, [8], 7, b"", b"\xff"))


def write_grids(refuse: Callable[..., None]) -> None:
    """Rules 37 to 41, on a tensor of 4 x 8 weights with rows 0, 1, 0, 1 and one class of columns."""
    values = [0, 9, 10, 12, 15, 24]
    raw, coded = ref.grid(values, [4, 8], [0, 1, 0, 1], [0] * 8)

    def file(raw: bytes, coded: bytes = coded, k: int = 6) -> bytes:
        return payload(2, [4, 8], k, raw, coded, values=values)

    refuse("grid-classes-none.cone", 37, "no classes of columns", file(b"\2\0" + raw[2:]))
    refuse("grid-classes-many.cone", 37, "33 classes of rows", file(b"\x21\1" + bytes(40) + raw[2:]))
    refuse("grid-table.cone", 37, "the counts end early", file(raw[:3]))
    refuse("grid-nothing.cone", 37, "an empty raw piece", file(b""))
    refuse("grid-side.cone", 37, "row classes for two column classes", file(b"\1\2" + raw[2:]))
    refuse("grid-class.cone", 38, "a row of class 2", file(raw, coded=bytes([0, 1, 0, 2])))
    refuse("grid-count-sum.cone", 39, "counts of 5 for k of 6", file(raw[:2] + bytes([1, 4]) + raw[4:]))
    refuse("grid-count-block.cone", 39, "17 indices in a block of 16", file(b"\2\1\x11\1" + b"\xff" * 3, k=18))
    refuse("grid-ones-few.cone", 40, "a quotient missing", file(raw[:-1] + bytes([raw[-1] & (raw[-1] - 1)])))
    refuse("grid-ones-many.cone", 40, "a quotient too many", file(raw + b"\x80"))
    refuse("grid-bytes.cone", 40, "a byte of zeros after the last quotient", file(raw + b"\0"))
    refuse("grid-short.cone", 40, "too few low bits", file(raw[:4]))
    refuse("grid-outside.cone", 41, "an index outside its block", file(b"\2\1\0\6" + outside()))


def outside() -> bytes:
    """Bits of six gaps in a block of 16 cells, the last of which reaches cell 16."""
    m = ref.rice(16, 6)
    steps = [0, 0, 0, 0, 0, 11]
    bits = [(step >> p) & 1 for p in range(m) for step in steps]
    for step in steps:
        bits += [0] * (step >> m) + [1]
    return ref.bits_to_bytes(bits)
