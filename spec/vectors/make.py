"""Writes every test vector and manifest.json beside this file (or into the folder given as argument).

python spec/vectors/make.py [FOLDER]
"""

from __future__ import annotations

import hashlib
import struct
import sys
from pathlib import Path
from typing import Any

import damaged
import invalid
import models
import reference as ref
from book import SMALL, SMALL_SETS, Book, H, Sets, base, concept, draw, single
from good import ORIGIN


def write_sets(book: Book) -> None:
    """Vectors for index sets and odd shapes."""
    single(book, "smallest.cone", "one concept, three neurons, nothing optional", SMALL, SMALL_SETS)
    single(book, "empty.cone", "a concept without neurons", SMALL, {})
    shapes = {"scalar": [], "one": [1], "line": [70], "cube": [3, 4, 5], "column": [9, 1]}
    sets = {"scalar": [0], "one": [0], "line": [0, 1, 69], "cube": [0, 20, 21, 59], "column": [8]}
    single(book, "shapes.cone", "tensors of no, one, two and three dimensions", shapes, sets)
    wide = {"a": [1000, 1000], "b": [32768, 32768], "c": [64, 64], "d": [1000], "e": [2**31 - 1], "f": [300], "g": [99]}
    sets = {
        "a": [*range(500, 530), 999_998, 999_999],
        "b": [0, 2**30 - 1],
        "c": draw(4096, 41, 1),
        "d": [*range(38), 293, 804],
        "e": [2**31 - 2],
        "f": [*range(14), 299],
    }
    about = "low bits, quotients of 255 and more, the last index of all, a tensor without neurons"
    single(book, "gaps.cone", about, wide, sets)
    dense = {"a": [30, 31], "b": [8, 8], "c": [40, 20]}
    sets = {"a": draw(930, 600, 2), "b": list(range(64)), "c": draw(800, 100, 3)}
    single(book, "dense.cone", "dense sets: most weights, all weights, one in eight", dense, sets)
    edges = {f"n{n}k{k}": [n] for n in (31, 32, 33, 63, 64, 65, 1023, 1024, 1025) for k in (1, 2)}
    sets = {name: [shape[0] - 1] if name.endswith("k1") else [0, shape[0] - 1] for name, shape in edges.items()}
    single(book, "low-bits.cone", "n // k on both sides of a power of two", edges, sets)
    about = "the most quotient bytes that a tensor can have"
    single(book, "coded-most.cone", about, {"a": [264]}, {"a": [*range(8), 263]})
    values = []
    for number in range(66_000):
        values.append((values[-1] if values else 0) + 41 + (number * number // 8) % 4)
    about = "66,000 indices with two low bits"
    single(book, "planes-large.cone", about, {"a": [4_620_000]}, {"a": values})
    single(
        book,
        "eights.cone",
        "k of 7, 8, 9",
        {c: [900] for c in "abc"},
        {c: draw(900, k, k) for c, k in (("a", 7), ("b", 8), ("c", 9))},
    )


def write_metadata(book: Book) -> None:
    """Vectors for several concepts and bases, for metadata and for later minor versions."""
    shapes = {"a": [16, 16], "b": [16, 16]}
    dog, hat = {"a": draw(256, 9, 11)}, {"a": draw(256, 7, 12), "b": [0, 255]}
    pair = [(*concept("dog", shapes, dog), dog), (*concept("hat", shapes, hat), hat)]
    book.add("two-concepts.cone", "two concepts of one base model", [base(shapes)], pair)
    roundings = {"f32": H, "f16": H[::-1], "bf16": H, "bf16(f16)": H[::-1], "f16(bf16)": H}
    other = base(shapes, id="vectors/other", dtype="float16", digests=roundings)
    pair = [(*concept("dog", shapes, dog), dog), (*concept("hat", shapes, hat, number=1), hat)]
    book.add("two-bases.cone", "two concepts with a base description each", [base(shapes), other], pair)
    full, data = concept("dog", SMALL, SMALL_SETS, origin=ORIGIN)
    book.add("origin.cone", "every field of an origin", [base(SMALL, revision="main")], [(full, data, SMALL_SETS)])
    extra = {"x-note": [1, -1, 2.5, None, True, "text", b"bytes", {"k": []}], "x-far": 2**64 - 1}
    first, data = concept("dog", SMALL, SMALL_SETS, origin={**ORIGIN, **extra}, **extra)
    first["sections"][0]["x-note"] = 1
    first["sections"].append(ref.section(b"unknown data", "x-later", rank=4))
    one = [(first, data + b"unknown data", SMALL_SETS)]
    about = "unknown optional keys in every map, an unknown section"
    book.add("unknown.cone", about, [base(SMALL, **extra)], one, minor=9, **extra)
    one = [(*concept("dog", SMALL, SMALL_SETS), SMALL_SETS)]
    book.add("later-minor.cone", "minor version 255", [base(SMALL)], one, minor=255, **{"x-new": 1})
    book.add("critical-none.cone", "an empty list of critical features", [base(SMALL)], one, critical=[])


def write_open(book: Book) -> None:
    """Vectors for what the rules leave open."""

    def origin(file: str, about: str, value: dict[str, Any]) -> None:
        one = [(*concept("dog", SMALL, SMALL_SETS, origin=value), SMALL_SETS)]
        book.add(file, about, [base(SMALL)], one)

    origin("origin-none.cone", "an empty map as origin, the same as none", {})
    origin("losses-none.cone", "an empty map of losses, an empty array of photos", {"losses": {}, "photos": []})
    origin(
        "origin-far.cone",
        "integers at both ends, integers as losses",
        {"seed": -(2**63), "held_out": -1, "losses": dict.fromkeys(ORIGIN["losses"], 2**64 - 1)},
    )
    origin(
        "values.cone",
        "parameters of every type of JSON",
        {
            "parameters": {
                "true": True,
                "false": False,
                "nil": None,
                "text": "é",
                "floats": [0.5, -0.0, 1.0],
                "ints": [0, 127, 128, 65535, 2**64 - 1, -1, -32, -33, -128, -129, -(2**31) - 1, -(2**63)],
                "map": {"": [], "x": {}},
            }
        },
    )
    origin(
        "zero.cone",
        "zero and minus zero, which keeps its sign",
        {"seed": 2**64 - 1, "losses": {"class_before": -0.0, "class_after": 0.0}, "parameters": {"x": -0.0}},
    )
    later = {"losses": {"x-later": ["text", None]}, "versions": {"x-later": "2"}, "later": None}
    one = [(*concept("dog", SMALL, SMALL_SETS, origin=later), SMALL_SETS)]
    model = base(SMALL, id="", family="", dtype="int4", revision="", digests={"f32": H, "x-later": H})
    about = "empty strings and another dtype; a digest, a version, a loss and a nil of later versions"
    book.add("open.cone", about, [model], one)
    book.add("no-tensors.cone", "a base model without tensors", [base({})], [(*concept("dog", {}, {}), {})])


def write_names(book: Book) -> None:
    """Vectors for names and other strings: scripts, order, case, counts of code points."""

    def named(file: str, about: str, *names: str, **more: Any) -> None:
        concepts = [(*concept(name, SMALL, SMALL_SETS, **more), SMALL_SETS) for name in sorted(names)]
        book.add(file, about, [base(SMALL)], concepts)

    named(
        "names.cone", "names with spaces, signs and other scripts; equal index sets", "Caf\u00e9 2", "o'neil_x", "дом"
    )
    named(
        "names-marks.cone",
        "accents, vowel signs, a tone mark, a mark first",
        "e\u0301te\u0301",
        "हिन्दी",
        "தமிழ் ௨",
        "ไก่",
        "\u0301a",
    )
    named(
        "names-case.cone",
        "names that only a fold beyond ASCII makes equal",
        "STRASSE",
        "straße",
        "É",
        "é",
        "ſks",
        "sks",
    )
    named("names-order.cone", "names whose UTF-16 code units have another order", "Ａ", "🐕", "ﾠ.x")
    ends = (
        "\u00a1\u00ac\u00ae\u061b\u061d\u167f\u1681\u180d\u180f\u1fff\u2070\u2fff\u3001\ud7ff\ue000\ufefe\uff00\uffef"
    )
    ends += "\U00010000\U000dffff\U000e1000\U0010ffff"
    named(
        "names-edges.cone",
        "beside each code point that a name may not have, and the ends of 0-9, A-Z, a-z",
        *(f"n{char}" for char in ends),
        "09AZaz",
    )
    named("names-long.cone", "64 code points, of one, three and four bytes", "a" * 64, "あ" * 64, "🐕" * 64)
    words = {"class_noun": "🐕" * 64, "identifier": "a\u3000b\u200bc"}
    named("words.cone", "64 code points of four bytes; signs and inner spaces", "dog", **words)
    named(
        "words-edges.cone",
        "beside each white space and control",
        "dog",
        class_noun="~\u0300\u00a1",
        identifier="\u2070x\u200b",
    )
    shapes = {"あ" * 512: [4], "Ａ": [4], "🐕": [4], "z": [4]}
    sets = {name: [number] for number, name in enumerate(shapes)}
    single(book, "params.cone", "param names of 512 code points, and in the order of bytes", shapes, sets)
    fields, data = concept("dog", SMALL, SMALL_SETS)
    fields["sections"].append(ref.section(b"", "🐕" * 64))
    keys = {"x-Ａ": 1, "x-🐕": 2, "x-\u0000": 3, "": 4}
    book.add(
        "keys.cone",
        "keys in the order of bytes, a section's type of 64 code points",
        [base(SMALL)],
        [(fields, data, SMALL_SETS)],
        **keys,
    )
    fields, data = concept("d", SMALL, SMALL_SETS, class_noun="o", identifier="i")
    fields["sections"].append(ref.section(b"", "x"))
    one = [(fields, data, SMALL_SETS)]
    book.add("words-short.cone", "name, words and a section's type of one code point", [base(SMALL)], one)


def write_encodings(book: Book) -> None:
    """Vectors for msgpack: values on both sides of every length."""
    integers = [0, 127, 128, 255, 256, 2**16 - 1, 2**16, 2**32 - 1, 2**32, 2**63, 2**64 - 1]
    integers += [-1, -32, -33, -128, -129, -(2**15), -(2**15) - 1, -(2**31), -(2**31) - 1, -(2**63)]
    values: dict[str, Any] = {
        "x-ints": integers,
        "x-strings": ["a" * size for size in (0, 31, 32, 255, 256)],
        "x-bytes": [bytes(size) for size in (0, 31, 32, 255, 256)],
        "x-arrays": [[None] * size for size in (0, 15, 16)],
        "x-maps": [{f"{key:02}": True for key in range(size)} for size in (0, 15, 16)],
        "x-floats": [0.5, -1e300, 5e-324],
    }
    one = [(*concept("dog", SMALL, SMALL_SETS), SMALL_SETS)]
    book.add("lengths.cone", "msgpack on both sides of every length", [base(SMALL)], one, **values)
    book.add("length-long.cone", "a string of 65,536 bytes", [base(SMALL)], one, x="a" * 2**16)
    book.add("binary-long.cone", "a binary of 65,536 bytes", [base(SMALL)], one, x=bytes(2**16))
    book.add("array-long.cone", "an array of 65,536 items", [base(SMALL)], one, x=[None] * 2**16)
    deep = inside(15, [])
    book.add("deep.cone", "an empty array inside exactly 16 arrays and maps", [base(SMALL)], one, **{"x-deep": deep})
    innermost = ({"k": None}, [None] * 16, {f"{key:02}": None for key in range(16)})
    keys = {f"x-{number}": inside(14, value) for number, value in enumerate(innermost)}
    about = "values inside exactly 16 arrays and maps: a map, an array of 16, a map of 16 innermost"
    book.add("deep-forms.cone", about, [base(SMALL)], one, **keys)


def inside(arrays: int, value: Any) -> Any:
    """A value inside so many arrays."""
    for _ in range(arrays):
        value = [value]
    return value


def write_frames(book: Book) -> None:
    """Vectors for all forms of zstd frames."""
    block = bytes.fromhex("190000010714")
    assert ref.zstd(block[3:]) == ref.MAGIC + b"\x20\x03" + block
    headers = {
        "frame-unused-bit.cone": ("the unused bit of a frame's descriptor set", b"\x30\x03"),
        "frame-dictionary-1.cone": ("a dictionary id of 0 in a byte", b"\x21\0\x03"),
        "frame-dictionary-2.cone": ("a dictionary id of 0 in two bytes", b"\x22\0\0\x03"),
        "frame-dictionary-4.cone": ("a dictionary id of 0 in four bytes", b"\x23\0\0\0\0\x03"),
        "frame-size-4.cone": ("a content size in four bytes", b"\xa0\x03\0\0\0"),
        "frame-size-8.cone": ("a content size in eight bytes", b"\xe0\x03" + bytes(7)),
        "frame-window.cone": ("a window of 2**27 bytes", b"\x80\x88\x03\0\0\0"),
        "frame-window-small.cone": ("a window of 1 KiB", b"\x80\0\x03\0\0\0"),
        "frame-window-part.cone": ("a window of 15/8 times 2**26 bytes, a size in eight", b"\xc0\x87\x03" + bytes(7)),
        "frame-blocks.cone": ("empty blocks before the last one", b"\x20\x03" + bytes(6)),
    }
    for file, (about, header) in headers.items():
        single(book, file, about, SMALL, SMALL_SETS, frame=ref.MAGIC + header + block)
    single(
        book, "frame-checksum.cone", "a zstd frame with a checksum", SMALL, SMALL_SETS, frame={"write_checksum": True}
    )
    stored = {"a": [20]}, {"a": [0, 1, 2, 3]}
    repeated = ref.MAGIC + b"\x20\x04" + bytes.fromhex("100000 0000 130000 00")
    single(book, "frame-repeated.cone", "a stored block, then one of a repeated byte", *stored, frame=repeated)
    ended = ref.MAGIC + b"\x20\x04" + bytes.fromhex("200000 00000000 010000")
    single(book, "frame-end.cone", "ends with the head of an empty block", *stored, frame=ended)
    three = {"a": [400]}, {"a": list(range(300))}
    sized = ref.MAGIC + b"\x40\x00" + (300 - 256).to_bytes(2, "little") + bytes.fromhex("630900 00")
    single(book, "frame-window-size-2.cone", "a window, and a content size in two bytes", *three, frame=sized)
    sets: Sets = {"a": draw(30_000, 1_000, 20)}
    single(
        book,
        "frame-size-2.cone",
        "1,000 quotients: a content size in two bytes, Huffman-coded literals",
        {"a": [30_000]},
        sets,
        frame={"level": 1},
    )
    regular = {"a": [i for at in range(0, 40_000, 400) for i in range(at, at + 90, 3)]}
    single(
        book, "frame-sequences.cone", "repetitions: sequences in a block", {"a": [40_000]}, regular, frame={"level": 19}
    )
    large: Sets = {"a": draw(300_000, 140_000, 21)}
    single(
        book,
        "frame-large.cone",
        "140,000 quotients in two blocks with Huffman tables, and a checksum",
        {"a": [300_000]},
        large,
        frame={"level": 1, "write_checksum": True},
    )


def write_limits(book: Book) -> None:
    """Vectors for what the limits allow just so."""
    fields, data = concept("dog", SMALL, SMALL_SETS)
    fields["sections"] += [ref.section(b"", f"x-{number:02}") for number in range(15)]
    book.add("limit-sections.cone", "16 sections", [base(SMALL)], [(fields, data, SMALL_SETS)])
    shapes = {"a": [1] * 7 + [2**31 - 1], "b": [3, 715_827_882]}
    single(book, "limit-shapes.cone", "8 dimensions, products of 2^31 - 1 and one less", shapes, {"b": [2**31 - 3]})
    names = [f"{number:02x}" for number in range(256)]
    many = [(*concept(name, {}, {}, number=at, class_noun="x", identifier=name), {}) for at, name in enumerate(names)]
    book.add("limit-concepts.cone", "256 concepts on 256 base models", [base({}, id=name) for name in names], many)
    tensors = {f"{number:04x}": [1] for number in range(4096)}
    sets: Sets = {name: [0] for name in tensors}
    rows = [(*concept(name, tensors, sets), sets) for name in "abcd"]
    book.add("limit-rows.cone", "4,096 tensors, 2^14 rows in four concepts", [base(tensors)], rows)
    write_full(book)


def write_full(book: Book) -> None:
    """As many indices as a file may have: all weights of a tensor, one by one too many for this slow writer."""
    k = 2**26
    digest = hashlib.sha256(b"cone-concept-1\0" + struct.pack("<Q", 1) + b"a" + struct.pack("<3Q", 1, k, k))
    for at in range(0, k, 2**16):
        digest.update(struct.pack("<65536I", *range(at, at + 2**16)))
    data = ref.zstd(bytes(k))
    fields, _ = concept("dog", {}, {}, id=digest.digest(), tensors=[[0, k, k]], sections=[ref.section(data)])
    book.add("limit-indices.cone", "2^26 indices, all weights of a tensor", [base({"a": [k]})], [(fields, data, {})])
    book.valid[-1]["concepts"][0]["counts"] = {"a": k}


def main(folder: Path) -> None:
    """Write everything."""
    book = Book(folder)
    write_sets(book)
    write_metadata(book)
    write_open(book)
    write_names(book)
    write_encodings(book)
    write_frames(book)
    write_limits(book)
    invalid.write(book.refuse)
    damaged.write(book.refuse)
    book.close()
    models.write(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
