"""Valid files, and the book of all vectors that writes them and the manifest."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import reference as ref

H = bytes(range(32))
Sets = dict[str, list[int]]
"""By param name the positions."""


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


def payload(pieces: list[tuple[bytes, bytes]], frame: dict[str, Any] | bytes) -> bytes:
    """All raw pieces, then one frame with all coded pieces: made with these settings, or given."""
    if not pieces:
        return b""
    if isinstance(frame, dict):
        frame = ref.zstd(b"".join(coded for _, coded in pieces), **frame)
    return b"".join(raw for raw, _ in pieces) + frame


def concept(
    name: str, shapes: dict[str, list[int]], sets: Sets, number: int = 0, frame: Any = None, **more: Any
) -> tuple[dict[str, Any], bytes]:
    """Map and payload of a concept."""
    params = sorted(shapes)
    pieces = {param: ref.gaps(sets[param], math.prod(shapes[param])) for param in params if param in sets}
    rows = [[params.index(param), len(sets[param]), len(coded)] for param, (_, coded) in pieces.items()]
    data = payload(list(pieces.values()), frame or {})
    fields = {
        "name": name,
        "class_noun": "dog",
        "identifier": f"sks{name}"[:64],
        "base": number,
        "id": ref.concept_id({param: (shapes[param], values) for param, values in sets.items()}),
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
        self.files: set[str] = set()

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

    def expected(self, fields: dict[str, Any], bases: list[dict[str, Any]], sets: Sets) -> dict[str, Any]:
        """What a reader must find in a concept: sets of at most 40 positions in full, no sets where there are many."""
        few = sorted(sets.items()) if len(sets) <= MANY else []
        origin = fields.get("origin", {})
        return {
            **{key: fields[key] for key in ("name", "class_noun", "identifier")},
            "id": fields["id"].hex(),
            "base": bases[fields["base"]]["id"],
            "counts": {param: len(values) for param, values in few},
            "indices": {param: values for param, values in few if len(values) <= 40},
            **({"parameters": origin["parameters"]} if "parameters" in origin else {}),
        }

    def refuse(self, file: str, rule: int, about: str, data: bytes) -> None:
        """An invalid file."""
        assert file not in self.files, file
        self.files.add(file)
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
        text = json.dumps(manifest, indent=1)
        (self.folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def single(book: Book, file: str, about: str, shapes: dict[str, list[int]], sets: Sets, **more: Any) -> bytes:
    """A valid file with one concept named dog."""
    fields, data = concept("dog", shapes, sets, **more)
    return book.add(file, about, [base(shapes)], [(fields, data, sets)])


MANY = 100
"""More sets than this are not listed."""
SMALL = {"unet.attn2.to_k.weight": [4, 8]}
SMALL_SETS: Sets = {"unet.attn2.to_k.weight": [1, 9, 30]}
