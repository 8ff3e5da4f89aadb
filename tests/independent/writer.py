"""Random .cone files, written from spec/cone-1.md alone, with what is in them."""

from __future__ import annotations

import math
import random

import zstandard

from tests.independent.forging import Header, join, mend, relabelled

START = bytes.fromhex("89434F4E450D0A1A0A010000")
Sets = list[dict[str, list[int]]]


def bits_to_bytes(bits: list[int]) -> bytes:
    """Bits, highest first, filled up with zeros to a full byte."""
    text = "".join(map(str, bits)) + "0" * (-len(bits) % 8)
    return int("1" + text, 2).to_bytes(len(text) // 8 + 1, "big")[1:] if text else b""


def gaps_of(positions: list[int]) -> list[int]:
    """The first position, and then what lies between two."""
    return [at - before - 1 for before, at in zip([-1, *positions], positions, strict=False)]


def bitmap(indices: list[int], n: int) -> tuple[bytes, bytes]:
    """Raw and coded piece of codec 0."""
    members = set(indices)
    return b"", bits_to_bytes([int(j in members) for j in range(n)])


def gaps(indices: list[int], n: int) -> tuple[bytes, bytes]:
    """Raw and coded piece of codec 1."""
    b = max(0, (n // len(indices)).bit_length() - 5)
    values = gaps_of(indices)
    raw = b"".join(bits_to_bytes([g >> p & 1 for g in values]) for p in range(b))
    return raw, b"".join(b"\xff" * ((g >> b) // 255) + bytes([(g >> b) % 255]) for g in values)


def grid(indices: list[int], height: int, width: int, rng: random.Random) -> tuple[bytes, bytes]:
    """Raw and coded piece of codec 2, with classes drawn at random."""
    a, b = rng.choice((1, 1, 2, 3, 32)), rng.choice((1, 1, 2, 5, 32))
    row_class = [rng.randrange(rng.choice((a, 1))) for _ in range(height)]
    column_class = [rng.randrange(rng.choice((b, 1))) for _ in range(width)]
    row_rank = [row_class[:r].count(row_class[r]) for r in range(height)]
    column_rank = [column_class[:c].count(column_class[c]) for c in range(width)]
    blocks: list[list[int]] = [[] for _ in range(a * b)]
    for index in indices:
        r, c = divmod(index, width)
        position = row_rank[r] * column_class.count(column_class[c]) + column_rank[c]
        blocks[row_class[r] * b + column_class[c]].append(position)
    rice = []
    for block, found in enumerate(blocks):
        cells = row_class.count(block // b) * column_class.count(block % b)
        rice.append((77 * (cells - len(found) // 2) // (160 * len(found))).bit_length() if found else 0)
    order = sorted(range(a * b), key=lambda block: (-rice[block], block))
    stream = [(g, rice[block]) for block in order for g in gaps_of(sorted(blocks[block]))]
    bits = [g >> p & 1 for p in range(max(rice)) for g, m in stream if m > p]
    for g, m in stream:
        bits += [0] * (g >> m) + [1]
    size = (len(indices).bit_length() + 7) // 8
    counts = b"".join(len(found).to_bytes(size, "little") for found in blocks)
    coded = (bytes(row_class) if a > 1 else b"") + (bytes(column_class) if b > 1 else b"")
    return bytes([a, b]) + counts + bits_to_bytes(bits), coded


def encoded(indices: list[int], shape: list[int], rng: random.Random) -> tuple[int, bytes, bytes]:
    """A codec that is allowed, and its pieces."""
    n, k = math.prod(shape), len(indices)
    codecs = [1]
    if n <= 8 * k:
        codecs.append(0)
    if len(shape) > 1 and shape[0] + n // shape[0] <= min(16 * k, 2**20):
        codecs += [2, 2, 2]
    codec = rng.choice(codecs)
    if codec == 2:
        return (2, *grid(indices, shape[0], n // shape[0], rng))
    return (codec, *(gaps if codec else bitmap)(indices, n))


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
                codec, raw, coded = encoded(indices, shape, rng)
                rows.append([i, codec, len(indices), len(raw), len(coded)])
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
