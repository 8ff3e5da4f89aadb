"""A valid file, and ways to make it invalid by one thing, its checksums right again unless they are the point."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import reference as ref

H = bytes(range(32))
Fields = dict[str, Any]


ORIGIN = {
    "instance_prompt": "a photo of a sks dog",
    "class_prompt": "a photo of a dog",
    "method": "mask",
    "parameters": {"steps": 60},
    "seed": 0,
    "photos": [H.hex()],
    "held_out": 1,
    "losses": {
        "held_out_before": 0.5,
        "held_out_after": 0.25,
        "random_after": 0.625,
        "no_identifier_before": 0.375,
        "no_identifier_after": 1.5,
        "class_before": 0.125,
        "class_after": 0.75,
    },
    "versions": {"conestool": "0.1.0"},
    "warnings": ["one photo"],
    "notes": "a note",
    "license": "CC0-1.0",
    "author": "A. N. Other",
}


def good() -> Fields:
    """Header of a file with a concept of two tensors and one of none."""
    shapes = {"a": [4, 8], "b": [40, 50]}
    sets = {"a": [1, 9, 30], "b": list(range(0, 2000, 100))}
    pieces = [ref.gaps(sets[param], 32 if param == "a" else 2000) for param in shapes]
    data = b"".join(raw for raw, _ in pieces) + ref.zstd(b"".join(coded for _, coded in pieces))
    rows = [[i, len(sets[p]), len(coded)] for i, (p, (_, coded)) in enumerate(zip(sets, pieces, strict=True))]
    return {
        "bases": [
            {
                "id": "vectors/base",
                "family": "stable-diffusion",
                "dtype": "float32",
                "structure": H,
                "tensors": [[param, shape] for param, shape in shapes.items()],
                "digests": {"f32": H},
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
                "origin": copy.deepcopy(ORIGIN),
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
    concepts = header.get("concepts") or []
    payload = b"".join(concept.pop("data", b"") for concept in concepts if isinstance(concept, dict))
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


def payload(shape: list[int], k: int, raw: bytes, coded: bytes, **more: Any) -> bytes:
    """A file with one tensor, these pieces, and right lengths and checksums; `frame` replaces the zstd frame."""
    data = raw + more.get("frame", ref.zstd(coded))
    header = good()
    header["bases"][0]["tensors"] = [["a", shape]]
    row = [0, k, more.get("size", len(coded))]
    header["concepts"] = [header["concepts"][0] | {"tensors": [row], "sections": [ref.section(data)], "data": data}]
    values = more.get("values", list(range(min(k, 100))))
    header["concepts"][0]["id"] = more.get("id", ref.concept_id({"a": (shape, values)}))
    return build(header)


def flipped(data: bytes, byte: int) -> bytes:
    """`data` with the lowest bit of one byte flipped."""
    return data[:byte] + bytes([data[byte] ^ 1]) + data[byte + 1 :]
