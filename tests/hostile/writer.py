"""Random .cone files, written from spec/cone-1.md alone, with what is in them."""

from __future__ import annotations

import math
import random

import zstandard

from tests.support.forging import Header, join, mend, relabelled

START = bytes.fromhex("89434F4E450D0A1A0A010000")
Sets = list[dict[str, list[int]]]


def bits_to_bytes(bits: list[int]) -> bytes:
    """Bits, highest first, filled up with zeros to a full byte."""
    text = "".join(map(str, bits)) + "0" * (-len(bits) % 8)
    return int("1" + text, 2).to_bytes(len(text) // 8 + 1, "big")[1:] if text else b""


def gaps_of(positions: list[int]) -> list[int]:
    """The first position, and then what lies between two."""
    return [at - before - 1 for before, at in zip([-1, *positions], positions, strict=False)]


def gaps(indices: list[int], n: int) -> tuple[bytes, bytes]:
    """Raw and coded piece of an index set."""
    b = max(0, (n // len(indices)).bit_length() - 5)
    values = gaps_of(indices)
    raw = b"".join(bits_to_bytes([g >> p & 1 for g in values]) for p in range(b))
    return raw, b"".join(b"\xff" * ((g >> b) // 255) + bytes([(g >> b) % 255]) for g in values)


def shape_and_set(rng: random.Random) -> tuple[list[int], list[int]]:
    """A tensor's shape and an index set in it, at times none."""
    shape = [rng.choice((1, 2, 3, 8, 13, 60)) for _ in range(rng.randrange(4))]
    if rng.random() < 0.1:
        shape.append(2**31 // 60**4)
    n = math.prod(shape)
    k = min(rng.choice((0, 1, 2, 9, n // 100, n // 10, n // 3, n - 1, n)), 500, n)
    near = rng.sample(range(min(n, 4 * k)), k // 2)
    return shape, sorted({*near, *rng.sample(range(n), k - k // 2)})


def random_file(rng: random.Random) -> tuple[bytes, Sets]:
    """A valid file and the index sets of its concepts."""
    bases: list[Header] = []
    concepts: list[Header] = []
    sections: list[bytes] = []
    sets: Sets = []
    for number in range(rng.choice((1, 1, 2))):
        tensors = {f"layer.{i}.to_k.weight": shape_and_set(rng) for i in range(rng.randrange(1, 5))}
        base = {
            "id": "made",
            "family": "flux",
            "dtype": "float16",
            "structure": bytes(32),
            "digests": {"f32": bytes(32)},
        }
        bases.append(base | {"tensors": [[name, shape] for name, (shape, _) in tensors.items()]})
        rows, raws, codeds = [], [], []
        for i, (shape, indices) in enumerate(tensors.values()):
            if indices:
                raw, coded = gaps(indices, math.prod(shape))
                rows.append([i, len(indices), len(coded)])
                raws.append(raw)
                codeds.append(coded)
        frame = zstandard.ZstdCompressor(level=rng.randrange(1, 20)).compress(b"".join(codeds))
        sections.append(b"".join(raws) + frame if rows else b"")
        words = {"name": f"n{number}", "class_noun": "dog", "identifier": f"s{number}", "id": bytes([number + 1]) * 32}
        concepts.append(words | {"base": number, "tensors": rows, "sections": [{"type": "indices"}]})
        if rng.random() < 0.3:
            concepts[-1]["sections"].append({"type": "x-later"})
            sections.append(rng.randbytes(rng.randrange(20)))
        sets.append({name: indices for name, (_, indices) in tensors.items() if indices})
    header = relabelled({"bases": bases, "concepts": concepts}, sections)
    return mend(join(header, sections, START)), sets
