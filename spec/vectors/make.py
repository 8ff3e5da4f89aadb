"""Writes every test vector and manifest.json beside this file (or into the folder given as argument).

python spec/vectors/make.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import damaged
import invalid
import reference as ref
from book import SMALL, SMALL_SETS, Book, H, Set, base, concept, draw, single


def write_codecs(book: Book) -> None:
    """Vectors for the codecs and odd shapes."""
    single(book, "smallest.cone", "one concept, three neurons, nothing optional", SMALL, SMALL_SETS)
    single(book, "empty.cone", "a concept without neurons", SMALL, {})
    shapes = {"scalar": [], "one": [1], "line": [70], "cube": [3, 4, 5], "column": [9, 1]}
    sets: dict[str, Set] = {
        "scalar": (ref.GAPS, [0], {}),
        "one": (ref.BITMAP, [0], {}),
        "line": (ref.GAPS, [0, 1, 69], {}),
        "cube": (ref.GRID, [0, 20, 21, 59], {"rows": [0, 1, 0], "columns": [0, 1] * 10}),
        "column": (ref.GAPS, [8], {}),
    }
    single(book, "shapes.cone", "tensors of no, one, two and three dimensions", shapes, sets)
    wide = {"a": [1000, 1000], "b": [32768, 32768], "c": [64, 64], "d": [1000]}
    sets = {
        "a": (ref.GAPS, [*range(500, 530), 999_998, 999_999], {}),
        "b": (ref.GAPS, [0, 2**30 - 1], {}),
        "c": (ref.GAPS, draw(4096, 41, 1), {}),
        "d": (ref.GAPS, [*range(38), 293, 804], {}),
    }
    single(book, "gaps.cone", "low bits, and quotients of 255 and more", wide, sets)
    dense = {"a": [30, 31], "b": [8, 8], "c": [40, 20]}
    sets = {
        "a": (ref.BITMAP, draw(930, 600, 2), {}),
        "b": (ref.BITMAP, list(range(64)), {}),
        "c": (ref.BITMAP, draw(800, 100, 3), {}),
    }
    single(book, "bitmap.cone", "dense sets: most weights, all weights, one in eight", dense, sets)
    write_grid(book)


def write_grid(book: Book) -> None:
    """Vectors for codec 2, and all codecs side by side."""
    shapes = {"a": [24, 16], "b": [24, 16], "c": [24, 16], "d": [24, 16], "e": [2, 3000]}
    skewed = [row * 16 + column for row in range(0, 24, 3) for column in (1, 5, 6)] + [23 * 16 + 15]
    rows = [1 if row % 3 == 0 else 0 for row in range(24)]
    columns = [1 if column in (1, 5, 6) else 0 for column in range(16)]
    sets: dict[str, Set] = {
        "a": (ref.GRID, sorted(skewed), {"rows": rows, "columns": columns}),
        "b": (ref.GRID, draw(384, 30, 4), {"rows": rows, "columns": [0] * 16}),
        "c": (ref.GRID, draw(384, 30, 5), {"rows": [0] * 24, "columns": [column % 5 for column in range(16)]}),
        "d": (ref.GRID, draw(384, 3, 6), {"rows": [0] * 24, "columns": [0] * 16}),
        "e": (ref.GRID, draw(6000, 300, 7), {"rows": [0, 2], "columns": [31 - c % 32 for c in range(3000)]}),
    }
    single(book, "grid.cone", "classes of rows and columns, of either, of none; empty classes and blocks", shapes, sets)
    shapes = {"a": [64, 48], "b": [64, 48], "c": [64, 48], "d": [64, 48]}
    rows = [row * 4 // 64 for row in range(64)]
    sets = {
        "a": (ref.GAPS, draw(3072, 40, 8), {}),
        "b": (ref.BITMAP, draw(3072, 1500, 9), {}),
        "d": (ref.GRID, draw(3072, 300, 10), {"rows": rows, "columns": [0] * 48}),
    }
    single(book, "codecs.cone", "all codecs in one section, a tensor without neurons between", shapes, sets)
    single(
        book, "frame-checksum.cone", "a zstd frame with a checksum", SMALL, SMALL_SETS, frame={"write_checksum": True}
    )


def write_metadata(book: Book) -> None:
    """Vectors for several concepts and bases, for metadata and for later minor versions."""
    shapes = {"a": [16, 16], "b": [16, 16]}
    dog: dict[str, Set] = {"a": (ref.GAPS, draw(256, 9, 11), {})}
    hat: dict[str, Set] = {"a": (ref.GAPS, draw(256, 7, 12), {}), "b": (ref.GAPS, [0, 255], {})}
    pair = [(*concept("dog", shapes, dog), dog), (*concept("hat", shapes, hat), hat)]
    book.add("two-concepts.cone", "two concepts of one base model", [base(shapes)], pair)
    rungs = {"f32": H, "f16": H[::-1], "bf16": H, "bf16(f16)": H[::-1], "f16(bf16)": H}
    other = base(shapes, id="vectors/other", dtype="float16", digests=rungs)
    pair = [(*concept("dog", shapes, dog), dog), (*concept("hat", shapes, hat, number=1), hat)]
    book.add("two-bases.cone", "two concepts with a base description each", [base(shapes), other], pair)
    full, data = concept("dog", SMALL, SMALL_SETS, origin=ORIGIN)
    one = [(full, data, SMALL_SETS)]
    book.add("origin.cone", "every field of an origin", [base(SMALL, revision="main")], one)
    named = [(*concept(name, SMALL, SMALL_SETS), SMALL_SETS) for name in ("Café 2", "o'neil_x", "дом")]
    book.add("names.cone", "names with spaces, signs and other scripts; equal index sets", [base(SMALL)], named)
    extra = {"x-note": [1, -1, 2.5, None, True, "text", b"bytes", {"k": []}], "x-far": 2**64 - 1}
    first, data = concept("dog", SMALL, SMALL_SETS, origin={**ORIGIN, **extra}, **extra)
    first["sections"][0]["x-note"] = 1
    first["sections"].append(ref.section(b"unknown data", "x-later", rank=4))
    one = [(first, data + b"unknown data", SMALL_SETS)]
    book.add(
        "unknown.cone", "unknown optional keys in every map, an unknown section", [base(SMALL, **extra)], one, **extra
    )
    one = [(*concept("dog", SMALL, SMALL_SETS), SMALL_SETS)]
    book.add("later-minor.cone", "minor version 9", [base(SMALL)], one, minor=9, **{"x-new": 1})
    book.add("critical-none.cone", "an empty list of critical features", [base(SMALL)], one, critical=[])


def write_open(book: Book) -> None:
    """Vectors for what the rules leave open, or allow just so."""
    words = ("e\u0301te\u0301", "हिन्दी", "தமிழ் ௨", "ไก่")
    named = [(*concept(name, SMALL, SMALL_SETS), SMALL_SETS) for name in sorted(words)]
    book.add("names-marks.cone", "names with marks: accents, vowel signs, a tone mark", [base(SMALL)], named)
    origin = {"losses": {"x-later": ["text", None], "random_after": 1}, "versions": {"x-later": "2"}, "held_out": -1}
    one = [(*concept("dog", SMALL, SMALL_SETS, origin=origin), SMALL_SETS)]
    model = base(SMALL, id="", family="", dtype="int4", revision="", digests={"f32": H, "x-later": H})
    about = "empty strings and another dtype; a digest, a version and a loss of later versions"
    book.add("open.cone", about, [model], one)
    one = [(*concept("dog", SMALL, SMALL_SETS, origin={"losses": {}, "photos": []}), SMALL_SETS)]
    book.add("losses-none.cone", "an empty map of losses, an empty array of photos", [base(SMALL)], one)
    book.add("no-tensors.cone", "a base model without tensors", [base({})], [(*concept("dog", {}, {}), {})])
    deep: Any = []
    for _ in range(15):
        deep = [deep]
    one = [(*concept("dog", SMALL, SMALL_SETS), SMALL_SETS)]
    book.add("deep.cone", "an empty array inside exactly 16 arrays and maps", [base(SMALL)], one, **{"x-deep": deep})


def write_frames(book: Book) -> None:
    """Vectors for the headers of zstd frames, and for a frame without content."""
    block = bytes.fromhex("190000010714")
    assert ref.zstd(block[3:]) == ref.MAGIC + b"\x20\x03" + block
    headers = {
        "frame-unused-bit.cone": ("the unused bit of a frame's descriptor set", b"\x30\x03"),
        "frame-dictionary-0.cone": ("a dictionary id of 0", b"\x21\0\x03"),
        "frame-size-wide.cone": ("a content size in eight bytes", b"\xe0\x03" + bytes(7)),
        "frame-window.cone": ("a window of 2**27 bytes", b"\x80\x88\x03\0\0\0"),
        "frame-blocks.cone": ("empty blocks before the last one", b"\x20\x03" + bytes(6)),
    }
    for file, (about, header) in headers.items():
        single(book, file, about, SMALL, SMALL_SETS, frame=ref.MAGIC + header + block)
    sets: dict[str, Set] = {"a": (ref.GRID, [0, 9], {"rows": [0] * 4, "columns": [0] * 4})}
    single(book, "frame-empty.cone", "a grid of one class: a frame without content", {"a": [4, 4]}, sets)
    frame = ref.MAGIC + b"\x24\0" + bytes(3) + b"\1\0\0" + bytes.fromhex("99E9D851")
    about = "a frame without content, in two blocks, with a checksum"
    single(book, "frame-empty-checksum.cone", about, {"a": [4, 4]}, sets, frame=frame)


ORIGIN = {
    "instance_prompt": "a photo of a sksdog dog",
    "class_prompt": "a photo of a dog",
    "method": "mask",
    "parameters": {"steps": 60, "density": 0.01, "nested": {"list": [1, 2.0, None]}},
    "seed": 0,
    "photos": [H.hex(), H[::-1].hex()],
    "held_out": 1,
    "losses": {"held_out_before": 0.25, "held_out_after": 0.125, "random_after": 0.25},
    "versions": {"conestool": "0.1.0"},
    "warnings": ["one photo only"],
    "notes": "two\nlines",
    "licence": "CC0-1.0",
    "author": "A. N. Other",
}


def main(folder: Path) -> None:
    """Write everything."""
    book = Book(folder)
    write_codecs(book)
    write_metadata(book)
    write_open(book)
    write_frames(book)
    invalid.write(book.refuse)
    damaged.write(book.refuse)
    book.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
