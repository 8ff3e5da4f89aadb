"""Thousands of damaged files with right checksums: an error each time, never a crash, never long."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np

from conestool.concept import Concept, Cone
from conestool.errors import FormatError
from conestool.format import loads
from conestool.format.container import concept_map, dumps
from conestool.records import Origin
from tests.format.support import base, concept, forge, split

MUTANTS = 3000
SLOWEST = 2.0
INTERESTING = (0, 1, 2, 7, 8, 31, 32, 127, 128, 255, 256, 65535, 2**26, 2**31 - 1, 2**31, 2**63, 2**64 - 1)


def originals() -> list[bytes]:
    """Files in which every codec occurs."""
    rng = np.random.default_rng(0)
    density = np.outer(rng.lognormal(sigma=2, size=120), rng.lognormal(sigma=2, size=90))
    info = base(shapes={"a": (120, 90), "b": (30, 30), "c": (64, 64)})
    indices = {
        "a": np.flatnonzero(rng.random((120, 90)) < np.minimum(0.9, density * 0.01)),
        "b": np.flatnonzero(np.arange(900) % 20),
        "c": concept(info=info).indices["c"],
    }
    mixed = Concept("dog", "dog", "sks", indices, info, Origin(seed=1))
    assert {row[1] for row in concept_map(mixed, 0)[0]["tensors"]} == {0, 1, 2}
    return [dumps(Cone((mixed,))), dumps(Cone((concept("dog"), concept("hat", share=0.001))))]


def scalars(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in a header that are no maps or arrays."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in scalars(item, (*path, key))]
    if isinstance(value, list):
        return [found for number, item in enumerate(value) for found in scalars(item, (*path, number))]
    return [path]


def other(value: Any, rng: random.Random) -> Any:
    """Something else in the place of `value`, of its type or not."""
    if rng.random() < 0.1:
        return rng.choice([None, True, "", b"", [], {}, -1, 1.5, float("nan")])
    if isinstance(value, int):
        return (
            min(2**64 - 1, max(0, value + rng.choice([-8, -1, 1, 8])))
            if rng.random() < 0.6
            else rng.choice(INTERESTING)
        )
    if isinstance(value, bytes) and value:
        return value[:-1] + bytes([value[-1] ^ 1])
    return value + "x" if isinstance(value, str) else value


def mutate_header(data: bytes, rng: random.Random) -> bytes:
    """One to three values of the header changed."""
    header, payload = split(data)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(scalars(header))
        place = header
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = other(place[path[-1]], rng)
    return forge(header, payload)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes of header or payload changed, cut out or put in; lengths and checksums follow."""
    header, payload = split(data)
    part = bytearray(payload)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(part))
        kind = rng.random()
        if kind < 0.7:
            part[at] = rng.choice([part[at] ^ (1 << rng.randrange(8)), 0, 255])
        elif kind < 0.85:
            del part[at : at + rng.randint(1, 5)]
        else:
            part[at:at] = rng.randbytes(rng.randint(1, 5))
    section = header["concepts"][0]["sections"][0]
    section["length"] += len(part) - len(payload)
    return forge(header, bytes(part))


def test_mutants_give_a_cone_or_an_error() -> None:
    """FormatError and nothing else, within seconds."""
    rng = random.Random(0)
    files = originals()
    refused = 0
    worst = 0.0
    for number in range(MUTANTS):
        mutant = (mutate_header if number % 2 else mutate_bytes)(rng.choice(files), rng)
        start = time.process_time()
        try:
            loads(mutant)
        except FormatError:
            refused += 1
        worst = max(worst, time.process_time() - start)
    assert refused > 0.8 * MUTANTS
    assert worst < SLOWEST


def test_mutants_of_the_payload_never_give_other_indices() -> None:
    """Where a changed payload is read at all, the content id makes sure that the indices are the same."""
    rng = random.Random(1)
    data = originals()[0]
    ids = {loads(data).id}
    for _ in range(300):
        try:
            ids.add(loads(mutate_bytes(data, rng)).id)
        except FormatError:
            continue
    assert len(ids) == 1
