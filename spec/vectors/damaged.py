"""The invalid vectors whose fault is in a tensor table or in sections."""

from __future__ import annotations

from collections.abc import Callable

import reference as ref
from good import H, at, build, flipped, good, payload


def write(refuse: Callable[..., None]) -> None:
    """Every vector for rules 24 to 35."""
    write_tables(refuse)
    write_sections(refuse)
    write_frames(refuse)
    write_gaps(refuse)


def write_tables(refuse: Callable[..., None]) -> None:
    """Rules 24 to 29."""
    first = ("concepts", 0, "tensors")
    rows = good()["concepts"][0]["tensors"]
    refuse("rows-unordered.cone", 24, "tensor rows out of order", at(*first, value=rows[::-1]))
    refuse("rows-twice.cone", 24, "a tensor twice", at(*first, value=[rows[0], rows[0]]))
    refuse("row-unknown.cone", 24, "tensor 2 of 2", at(*first, 1, 0, value=2))
    refuse("row-far.cone", 24, "tensor 2**64 - 1", at(*first, 1, 0, value=2**64 - 1))
    refuse("k-zero.cone", 25, "k of 0", at(*first, 0, value=[0, 0, 0]))
    refuse("k-large.cone", 25, "33 of 32 weights", at(*first, 0, value=[0, 33, 33]))
    refuse("k-huge.cone", 25, "k of 2**64 - 1", at(*first, 0, 1, value=2**64 - 1))
    refuse("coded-short.cone", 26, "fewer quotient bytes than k", at(*first, 0, 2, value=2))
    refuse("coded-long.cone", 26, "more quotient bytes than n allows", at(*first, 0, 2, value=4))
    refuse("coded-huge.cone", 26, "2**64 - 1 quotient bytes", at(*first, 0, 2, value=2**64 - 1))
    refuse(
        "coded-most.cone",
        26,
        "a byte more than 40 quotients of 1,000 weights can have",
        payload([1000], 40, b"", bytes(44)),
    )
    n, k = 100_000, 100
    most = k + ((n - k) >> 5) // 255
    refuse("coded-low-bits.cone", 26, "the same with low bits", payload([n], k, bytes(5 * 13), bytes(most + 1)))
    large = payload([2**15, 2**12], 2**26 + 1, b"", b"", frame=ref.zstd(b""), size=2**26 + 1)
    refuse("neurons-many.cone", 27, "2**26 + 1 neurons", large)
    split = concepts_of([2**15, 2**12], [[[0, 2**25, 2**25]], [[0, 2**25 + 1, 2**25 + 1]]], ref.zstd(b""), H)
    refuse("neurons-split.cone", 27, "2**26 + 1 neurons in two concepts", split)
    refuse("rows-many.cone", 27, "2^14 + 1 rows of tensors in five concepts", many_rows(5, 3277))
    refuse("section-short.cone", 28, "a section that ends with its raw pieces", short_section())
    refuse("section-full.cone", 28, "a section of a byte for a concept without tensors", full_section())
    data = build(good())
    refuse("truncated.cone", 29, "the last byte missing", data[:-1])
    refuse("trailing.cone", 29, "a byte more", data + b"\0")
    header = good()
    header["concepts"][1]["sections"].append({"type": "x-more", "length": 2**63, "sha256": H})
    refuse("length-huge.cone", 29, "a section of 2**63 bytes", build(header))
    header["concepts"][1]["sections"][1]["length"] = 1
    refuse("length-more.cone", 29, "an unknown section of a byte that is not there", build(header))


def many_rows(concepts: int, tensors: int) -> bytes:
    """Concepts of all neurons of so many tensors of one weight."""
    names = {f"{number:04d}": ([1], [0]) for number in range(tensors)}
    rows = [[number, 1, 1] for number in range(tensors)]
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
    raw, _ = ref.gaps(list(range(0, 2000, 100)), 2000)
    data = header["concepts"][0]["data"][: len(raw)]
    header["concepts"][0] |= {"data": data, "sections": [ref.section(data)]}
    return build(header)


def full_section() -> bytes:
    """A concept without tensors whose section is not empty."""
    header = good()
    header["concepts"][1] |= {"data": b"\0", "sections": [ref.section(b"\0")]}
    return build(header)


def write_sections(refuse: Callable[..., None]) -> None:
    """Rules 30 and 35."""
    data = build(good())
    refuse("sha256.cone", 30, "a bit of the payload flipped", flipped(data, len(data) - 3))
    refuse(
        "sha256-header.cone", 30, "another sha256 in the header", at("concepts", 0, "sections", 0, "sha256", value=H)
    )
    for number in (0, 1):
        header = good()
        header["concepts"][number]["sections"].append({"type": "x-later", "length": 2, "sha256": H})
        header["concepts"][number]["data"] += b"ab"
        about = f"a wrong sha256 of the unknown section of concept {number}"
        refuse(f"sha256-unknown-{number}.cone", 30, about, build(header))
    empty = at("concepts", 1, "sections", 0, "sha256", value=H)
    refuse("sha256-empty.cone", 30, "a wrong sha256 of an empty section", empty)
    refuse("id.cone", 35, "another content id in the header", at("concepts", 0, "id", value=H))
    refuse("id-empty.cone", 35, "another content id for an empty concept", at("concepts", 1, "id", value=H))
    for file, change in (("name", {"c": ([4, 8], [1, 9, 30])}), ("shape", {"a": ([8, 4], [1, 9, 30])})):
        data = payload([4, 8], 3, b"", bytes([1, 7, 20]), id=ref.concept_id(change))
        refuse(f"id-{file}.cone", 35, f"the content id of another {file}", data)


def write_frames(refuse: Callable[..., None]) -> None:
    """Rule 31: what is behind the raw pieces is not one zstd frame of the declared size."""
    coded = bytes([1, 7, 20])

    def file(frame: bytes) -> bytes:
        return payload([4, 8], 3, b"", coded, frame=frame, values=[1, 9, 30])

    right = ref.zstd(coded)
    block = right[6:]
    summed = ref.zstd(coded, write_checksum=True)
    lying = right[:5] + b"\4" + right[6:]
    longer = ref.MAGIC + b"\x20\3" + bytes.fromhex("210000") + coded + b"\0"
    frames = {
        "magic": ("no zstd magic", flipped(right, 0)),
        "none": ("four bytes of magic alone", ref.MAGIC),
        "cut": ("the frame ends early", right[:-1]),
        "cut-block": ("the frame ends in the head of a block", right[:8]),
        "cut-window": ("the frame ends before its window", ref.MAGIC + b"\x80"),
        "open": ("the last block is not marked as the last", right[:6] + b"\x18" + right[7:]),
        "trailing": ("a byte after the frame", right + b"\0"),
        "two": ("an empty frame after the frame", right + ref.zstd(b"")),
        "skippable": ("a skippable frame first", b"\x50\x2a\x4d\x18\x01\0\0\0\0" + right),
        "skippable-after": ("a skippable frame after the frame", right + b"\x50\x2a\x4d\x18\0\0\0\0"),
        "unsized": ("no content size", ref.zstd(coded, write_content_size=False)),
        "size": ("four bytes, not three", ref.zstd(coded + b"\0")),
        "lying": ("declares three bytes, holds four", longer),
        "size-2": ("a content size of 259", ref.MAGIC + b"\x60\3\0" + block),
        "size-8": ("a content size of 2^32 + 3", ref.MAGIC + b"\xe0\3\0\0\0\1\0\0\0" + block),
        "checksum": ("a wrong checksum", flipped(summed, len(summed) - 1)),
        "checksum-cut": ("a checksum of three bytes", summed[:-1]),
        "bomb": ("64 MiB of zeros where three bytes are expected", ref.zstd(b"\0" * 2**26)),
        "reserved-bit": ("the reserved bit of the descriptor", ref.MAGIC + b"\x28\3" + block),
        "reserved-block": ("a block of the reserved type", ref.MAGIC + b"\x20\3\x1f\0\0" + coded),
        "window-large": ("a window of 2**27 + 2**24 bytes", ref.MAGIC + b"\x80\x89\3\0\0\0" + block),
        "window-huge": ("a window of 3.75 TiB", ref.MAGIC + b"\x80\xff\3\0\0\0" + block),
        "dictionary-1": ("names a dictionary in a byte", ref.MAGIC + b"\x21\7\3" + block),
        "dictionary-2": ("names dictionary 256", ref.MAGIC + b"\x22\0\1\3" + block),
        "dictionary-4": ("names dictionary 2^24", ref.MAGIC + b"\x23\0\0\0\1\3" + block),
    }
    for name, (about, frame) in frames.items():
        refuse(f"frame-{name}.cone", 31, about, file(frame))
    declares = payload([4, 8], 4, b"", b"\0" * 4, frame=lying)
    refuse("frame-lying-long.cone", 31, "declares four bytes, holds three", declares)
    blocks = ref.MAGIC + b"\0\0" + bytes.fromhex("08000000 390000") + bytes(7)
    unsized = payload([4, 8], 8, b"", bytes(8), frame=blocks)
    refuse("frame-unsized-blocks.cone", 31, "no content size, but a first block that begins with it", unsized)
    steps = [7] * 300 + list(range(200))
    values = [at + sum(steps[: at + 1]) for at in range(len(steps))]
    raw, quotients = ref.gaps(values, 2**15)
    frame = bytearray(ref.zstd(quotients, level=19, write_checksum=True))
    frame[len(frame) // 2] ^= 0x10
    refuse(
        "frame-damaged.cone",
        31,
        "a bit flipped in a compressed block",
        payload([2**15], len(values), raw, quotients, frame=bytes(frame), values=values),
    )


def write_gaps(refuse: Callable[..., None]) -> None:
    """Rules 32 to 34."""
    assert ref.gaps([1], 255)[0] == bytes([0x80, 0, 0])
    for number in range(3):
        raw = bytearray([0x80, 0, 0])
        raw[number] |= 1
        data = payload([255], 1, bytes(raw), b"\0", values=[1])
        refuse(f"padding-{number}.cone", 32, f"a padding bit of plane {number} set", data)
    high = payload([255], 1, bytes([0xC0, 0, 0]), b"\0", values=[1])
    refuse("padding-first.cone", 32, "the first padding bit of a plane set", high)
    refuse("gaps-few.cone", 33, "20 bytes, 19 quotients", payload([20, 30], 20, b"", b"\xff" + b"\0" * 19))
    refuse("gaps-many.cone", 33, "one quotient too many", payload([20, 30], 20, b"", b"\0" * 21))
    refuse("gaps-open.cone", 33, "the last quotient goes on", payload([20, 30], 20, b"", b"\0" * 20 + b"\xff"))
    none = payload([20, 30], 20, b"", b"\xff" * 20)
    refuse("gaps-none.cone", 33, "no quotient at all", none)
    refuse("index-n.cone", 34, "the last index is n", payload([4, 8], 3, b"", bytes([1, 7, 22]), values=[1, 9, 30]))
    refuse("index-far.cone", 34, "an index of 765", payload([4, 8], 3, b"", bytes([254] * 3), values=[254, 509, 764]))
    n = 2**31 - 1
    raw, coded = ref.gaps([0, n - 1], n)
    wrapped = payload([n], 2, raw, coded[:-1] + b"\xfe", values=[0, n - 1])
    refuse("index-wrapped.cone", 34, "an index beyond 2^33, which wraps in 32 bits", wrapped)
