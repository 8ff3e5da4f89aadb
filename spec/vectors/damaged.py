"""The invalid vectors whose fault is in a tensor table or in sections."""

from __future__ import annotations

from collections.abc import Callable

import reference as ref
from good import H, at, build, flipped, good, payload


def write(refuse: Callable[..., None]) -> None:
    """Every vector for rules 24 to 42."""
    write_tables(refuse)
    write_sections(refuse)
    write_frames(refuse)
    write_empty_frames(refuse)
    write_codecs(refuse)
    write_grids(refuse)


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
    tall = payload(2, [2**20, 1], 2**20, b"", None, frame=ref.zstd(b""), size=2**20)
    refuse("grid-tall.cone", 27, "2^20 rows and a column", tall)
    refuse("grid-coded.cone", 27, "a wrong number of classes", payload(2, [4, 8], 1, b"\1\1\1\x80", b"\0"))
    long = b"\1\1\1" + bytes(4099 + 5 - 2)
    refuse("grid-long.cone", 27, "4,100 + 5 k bytes of a grid", payload(2, [4, 8], 1, long, b"", values=[0]))
    large = payload(0, [2**15, 2**12], 2**26 + 1, b"", None, frame=ref.zstd(b""), size=2**24)
    refuse("neurons-many.cone", 28, "2**26 + 1 neurons", large)
    refuse("coded-many.cone", 28, "129 MiB of classes", tall_grids(129))
    refuse("coded-split.cone", 28, "130 MiB of classes in two concepts", tall_grids(65, 65))
    refuse("rows-many.cone", 28, "2^14 + 1 rows of tensors in five concepts", many_rows(5, 3277))
    refuse("section-short.cone", 29, "a section that ends with its raw pieces", short_section())
    refuse("section-full.cone", 29, "a section of a byte for a concept without tensors", full_section())
    data = build(good())
    refuse("truncated.cone", 30, "the last byte missing", data[:-1])
    refuse("trailing.cone", 30, "a byte more", data + b"\0")
    header = good()
    header["concepts"][1]["sections"].append({"type": "x-more", "length": 2**63, "sha256": H})
    refuse("length-huge.cone", 30, "a section of 2**63 bytes", build(header))


def tall_grids(*tensors: int) -> bytes:
    """Concepts of so many tensors with as many rows as a grid may have, and a frame without their classes."""
    rows = [[number, 2, 2**16, 0, 2**20 - 1] for number in range(max(tensors))]
    return concepts_of([2**20 - 1, 1], [rows[:number] for number in tensors], ref.zstd(b""), H)


def many_rows(concepts: int, tensors: int) -> bytes:
    """Concepts of all neurons of so many tensors of one weight."""
    names = {f"{number:04d}": ([1], [0]) for number in range(tensors)}
    rows = [[number, ref.GAPS, 1, 0, 1] for number in range(tensors)]
    return concepts_of([1], [rows] * concepts, ref.zstd(bytes(tensors)), ref.concept_id(names))


def concepts_of(shape: list[int], tables: list[list[list[int]]], data: bytes, content_id: bytes) -> bytes:
    """A file of a concept for each table, on a base of tensors of one shape; all have the same section and id."""
    header = good()
    base, first = header["bases"][0], header["concepts"][0]
    base["tensors"] = [[f"{number:04d}", shape] for number in range(max(map(len, tables)))]
    common = first | {"sections": [ref.section(data)], "data": data, "id": content_id}
    header["concepts"] = [
        common | {"name": f"c{number}", "identifier": f"i{number}", "tensors": rows}
        for number, rows in enumerate(tables)
    ]
    return build(header)


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
    block = right[6:]
    refuse("frame-reserved-bit.cone", 32, "the reserved bit of the descriptor", file(ref.MAGIC + b"\x28\x03" + block))
    wide = ref.MAGIC + b"\x80\x89\x03\0\0\0" + block
    refuse("frame-window-large.cone", 32, "a window of 2**27 + 2**24 bytes", file(wide))
    keyed = right[:4] + bytes([right[4] | 1, 7]) + right[5:]
    refuse("frame-dictionary.cone", 32, "names a dictionary", file(keyed))


def write_empty_frames(refuse: Callable[..., None]) -> None:
    """Rule 32 where all coded pieces are empty: a grid of one class in a tensor of 4 x 4 weights."""
    raw, coded = ref.grid([0, 9], [4, 4], [0] * 4, [0] * 4)
    assert coded == b""

    def file(rest: str) -> bytes:
        return payload(2, [4, 4], 2, raw, coded, frame=ref.MAGIC + bytes.fromhex(rest), values=[0, 9])

    refuse("frame-empty-cut.cone", 32, "a frame without content, and without blocks", file("2000"))
    refuse("frame-empty-open.cone", 32, "a frame without content and last block", file("2000 000000"))
    refuse("frame-empty-trailing.cone", 32, "a byte after a frame without content", file("2000 010000 00"))
    refuse("frame-empty-full.cone", 32, "a frame that declares no content and holds some", file("2000 190000010714"))
    refuse("frame-empty-checksum.cone", 32, "a wrong checksum of no content", file("2400 010000 98E9D851"))


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
    flood = payload(0, [2**29], 2**26, b"", b"\xff" * 2**26)
    refuse("bitmap-flood.cone", 36, "2**29 bits set for k of 2**26, in a file of 3 kB", flood)


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
    flat = payload(2, [2**20 - 1, 1], 2**18, b"\1\1" + (2**18).to_bytes(3, "little") + b"\x80", b"")
    refuse("grid-flat.cone", 40, "2**20 - 1 rows of one class, and next to no bits, in a file of 1 kB", flat)
    refuse("grid-outside.cone", 41, "an index outside its block", file(b"\2\1\0\6" + outside()))


def outside() -> bytes:
    """Bits of six gaps in a block of 16 cells, the last of which reaches cell 16."""
    m = ref.rice(16, 6)
    steps = [0, 0, 0, 0, 0, 11]
    bits = [(step >> p) & 1 for p in range(m) for step in steps]
    for step in steps:
        bits += [0] * (step >> m) + [1]
    return ref.bits_to_bytes(bits)
