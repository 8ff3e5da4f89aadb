"""Writes every test vector and manifest.json beside this file (or into the folder given as argument).

python spec/vectors/make.py [FOLDER]
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import invalid
import reference as ref

H = bytes(range(32))
Set = tuple[int, list[int], dict[str, Any]]


def base(tensors: dict[str, list[int]], **more: Any) -> dict[str, Any]:
    """Map of a base model."""
    return {
        "id": "vectors/base",
        "family": "stable-diffusion",
        "dtype": "float32",
        "structure": H,
        "tensors": [[param, tensors[param]] for param in sorted(tensors)],
        "digests": {"f32": H},
        **more,
    }


def payload(pieces: list[tuple[bytes, bytes]], **settings: Any) -> bytes:
    """All raw pieces, then one frame with all coded pieces."""
    if not pieces:
        return b""
    return b"".join(raw for raw, _ in pieces) + ref.zstd(b"".join(coded for _, coded in pieces), **settings)


def encode(shape: list[int], codec: int, values: list[int], options: dict[str, Any]) -> tuple[bytes, bytes]:
    """Raw and coded piece of one set."""
    if codec == ref.GRID:
        return ref.grid(values, shape, options["rows"], options["columns"])
    return (ref.gaps if codec == ref.GAPS else ref.bitmap)(values, math.prod(shape))


def concept(
    name: str, shapes: dict[str, list[int]], sets: dict[str, Set], number: int = 0, frame: Any = None, **more: Any
) -> tuple[dict[str, Any], bytes]:
    """Map and payload of a concept; `sets` maps a param to codec, positions and options of the codec."""
    params = sorted(shapes)
    pieces = {param: encode(shapes[param], *sets[param]) for param in params if param in sets}
    rows = [
        [params.index(param), sets[param][0], len(sets[param][1]), len(raw), len(coded)]
        for param, (raw, coded) in pieces.items()
    ]
    data = payload(list(pieces.values()), **(frame or {}))
    fields = {
        "name": name,
        "class_noun": name,
        "identifier": f"sks{name}",
        "base": number,
        "id": ref.concept_id({param: (shapes[param], values) for param, (_, values, _) in sets.items()}),
        "tensors": rows,
        "sections": [ref.section(data)],
        **more,
    }
    return fields, data


def draw(n: int, k: int, seed: int) -> list[int]:
    """`k` positions below `n` from a small generator that any language can repeat (not that a reader needs to)."""
    held: set[int] = set()
    state = seed
    while len(held) < k:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        held.add((state >> 33) % n)
    return sorted(held)


class Book:
    """Writes vectors and remembers what the manifest says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.valid: list[dict[str, Any]] = []
        self.invalid: list[dict[str, Any]] = []

    def add(self, file: str, about: str, bases: list[dict[str, Any]], concepts: list[Any], **more: Any) -> bytes:
        """A valid file; `concepts` are (fields, data, sets); `minor` and unknown keys of the header in `more`."""
        minor = more.pop("minor", 0)
        header = ref.pack({"bases": bases, "concepts": [fields for fields, _, _ in concepts], **more})
        data = ref.assemble(header, b"".join(data for _, data, _ in concepts), minor=minor)
        self.write(Path("valid") / file, data)
        self.valid.append(
            {
                "file": f"valid/{file}",
                "about": about,
                "version": [1, minor],
                "id": ref.file_id([fields["id"] for fields, _, _ in concepts]).hex(),
                "concepts": [self.expected(fields, bases, sets) for fields, _, sets in concepts],
            }
        )
        return data

    def expected(self, fields: dict[str, Any], bases: list[dict[str, Any]], sets: dict[str, Set]) -> dict[str, Any]:
        """What a reader must find in a concept; sets of at most 40 positions in full."""
        return {
            **{key: fields[key] for key in ("name", "class_noun", "identifier")},
            "id": fields["id"].hex(),
            "base": bases[fields["base"]]["id"],
            "counts": {param: len(values) for param, (_, values, _) in sorted(sets.items())},
            "indices": {param: values for param, (_, values, _) in sorted(sets.items()) if len(values) <= 40},
        }

    def refuse(self, file: str, rule: int, about: str, data: bytes) -> None:
        """An invalid file."""
        self.write(Path("invalid") / file, data)
        error = "version" if rule in (3, 13) and "later" in file else "format"
        self.invalid.append({"file": f"invalid/{file}", "rule": rule, "error": error, "about": about})

    def write(self, path: Path, data: bytes) -> None:
        """One vector."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def close(self) -> None:
        """Write the manifest."""
        manifest = {"format": "cone", "version": [1, 0], "valid": self.valid, "invalid": self.invalid}
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        (self.folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def single(book: Book, file: str, about: str, shapes: dict[str, list[int]], sets: dict[str, Set], **more: Any) -> bytes:
    """A valid file with one concept named dog."""
    fields, data = concept("dog", shapes, sets, **more)
    return book.add(file, about, [base(shapes)], [(fields, data, sets)])


SMALL = {"unet.attn2.to_k.weight": [4, 8]}
SMALL_SETS: dict[str, Set] = {"unet.attn2.to_k.weight": (ref.GAPS, [1, 9, 30], {})}


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
    other = base(shapes, id="vectors/other", dtype="float16", digests=rungs, zeros=[0, 3], samples=[b"\0" * 16] * 2)
    pair = [(*concept("dog", shapes, dog), dog), (*concept("hat", shapes, hat, number=1), hat)]
    book.add("two-bases.cone", "two concepts with a base description each", [base(shapes), other], pair)
    full, data = concept("dog", SMALL, SMALL_SETS, origin=ORIGIN)
    one = [(full, data, SMALL_SETS)]
    book.add(
        "origin.cone", "every field of an origin", [base(SMALL, revision="main", zeros=[2], samples=[H[:16]])], one
    )
    named = [(*concept(name, SMALL, SMALL_SETS), SMALL_SETS) for name in ("Café 2", "o'neil_x", "дом")]
    book.add("names.cone", "names with spaces, signs and other scripts; equal index sets", [base(SMALL)], named)
    deep: Any = []
    for _ in range(15):
        deep = [deep]
    extra = {"x-note": [1, -1, 2.5, None, True, "text", b"bytes", {"k": []}], "x-far": 2**64 - 1}
    first, data = concept("dog", SMALL, SMALL_SETS, origin={**ORIGIN, **extra}, **extra)
    first["sections"][0]["x-note"] = 1
    first["sections"].append(ref.section(b"unknown data", "x-deltas", rank=4))
    one = [(first, data + b"unknown data", SMALL_SETS)]
    book.add(
        "unknown.cone", "unknown optional keys in every map, an unknown section", [base(SMALL, **extra)], one, **extra
    )
    one = [(*concept("dog", SMALL, SMALL_SETS), SMALL_SETS)]
    book.add("later-minor.cone", "minor version 9", [base(SMALL)], one, minor=9, **{"x-new": 1})
    book.add("critical-none.cone", "an empty list of critical features", [base(SMALL)], one, critical=[])


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
    invalid.write(book)
    book.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
