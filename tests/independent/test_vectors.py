"""The independent reader on the vectors; then the two readers against each other on files that are nearly right."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conestool.errors import FormatError, UsageError
from conestool.format import loads
from tests.independent import reader, sections
from tests.independent.edges import Edge, edges, empty_frames
from tests.independent.mutants import WAYS
from tests.independent.rules import RuleError
from tests.independent.writer import random_file

VECTORS = Path(__file__).parents[2] / "spec/vectors"
SPECIFICATION = VECTORS.parent / "cone-1.md"
MANIFEST = json.loads((VECTORS / "manifest.json").read_text(encoding="utf-8"))
FILES, MUTANTS = 120, 3000
Found = list[tuple[str, dict[str, list[int]]]]


def ours(data: bytes) -> Found | RuleError:
    """Names and index sets by the independent reader, or why not."""
    try:
        concepts = reader.read(data).concepts
    except RuleError as error:
        return error
    return [(concept.name, {name: found.tolist() for name, found in concept.indices.items()}) for concept in concepts]


def theirs(data: bytes) -> Found | Exception:
    """Names and index sets by conestool, or why not."""
    try:
        concepts = loads(data).concepts
    except (FormatError, UsageError) as error:
        return error
    return [(concept.name, {name: found.tolist() for name, found in concept.indices.items()}) for concept in concepts]


def difference(data: bytes) -> str | None:
    """What the two readers say of a file, if they don't agree."""
    first, second = ours(data), theirs(data)
    if isinstance(first, list) or isinstance(second, list):
        return None if first == second else f"{first} but {second}"
    return None


@pytest.mark.parametrize("vector", MANIFEST["valid"], ids=lambda vector: vector["file"])
def test_valid(vector: dict[str, Any]) -> None:
    """A valid vector holds what the manifest says."""
    cone = reader.read((VECTORS / vector["file"]).read_bytes())
    assert list(cone.version) == vector["version"]
    assert cone.id.hex() == vector["id"]
    for found, expected in zip(cone.concepts, vector["concepts"], strict=True):
        words = {key: getattr(found, key) for key in ("name", "class_noun", "identifier")}
        assert words == {key: expected[key] for key in words}
        assert found.id.hex() == expected["id"]
        assert cone.header["bases"][found.base]["id"] == expected["base"]
        assert {name: len(indices) for name, indices in found.indices.items()} == expected["counts"]
        assert {name: found.indices[name].tolist() for name in expected["indices"]} == expected["indices"]


@pytest.mark.parametrize("vector", MANIFEST["invalid"], ids=lambda vector: vector["file"])
def test_invalid(vector: dict[str, Any]) -> None:
    """An invalid vector is refused, for the rule that the manifest names."""
    with pytest.raises(RuleError) as caught:
        reader.read((VECTORS / vector["file"]).read_bytes())
    assert caught.value.rule == vector["rule"]


def test_every_rule_has_a_vector() -> None:
    """No rule is without an invalid file."""
    rules = re.findall(r"^- \*\*R(\d+)\*\*", SPECIFICATION.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(rule) for rule in rules] == list(range(1, len(rules) + 1))
    assert {vector["rule"] for vector in MANIFEST["invalid"]} == set(map(int, rules))


@pytest.mark.parametrize(
    ("codec", "shape", "raw", "coded", "indices"),
    [
        ("bitmap", [13], "", "98 10", [0, 3, 4, 11]),
        ("gaps", [1000], "A0 00 A0 20", "00 00 37", [5, 6, 900]),
        ("gaps", [1000], "", "00" * 38 + "FF 00 FF FF 00", [*range(38), 293, 804]),
        (
            "grid",
            [4, 8],
            "02 02 01 00 07 00 9E 5A",
            "00 01 00 01 00 00 00 00 00 00 01 01",
            [1, 8, 9, 10, 13, 25, 26, 28],
        ),
    ],
)
def test_examples(codec: str, shape: list[int], raw: str, coded: str, indices: list[int]) -> None:
    """The worked examples of the specification."""
    pieces = [np.frombuffer(bytes.fromhex(piece), np.uint8) for piece in (raw, coded)]
    assert getattr(sections, f"decode_{codec}")(shape, len(indices), *pieces).tolist() == indices


@pytest.mark.parametrize("files", [edges, empty_frames])
def test_edges(files: Callable[[], Iterator[Edge]]) -> None:
    """Both readers take and refuse at the edges what the specification says."""
    wrong = []
    for about, data, valid in files():
        if difference(data) or isinstance(ours(data), list) != valid:
            wrong.append((about, valid, str(ours(data)), str(theirs(data))))
    assert not wrong


def test_written() -> None:
    """Both readers find in random files what was put there."""
    rng = random.Random("written")
    for _ in range(FILES):
        data, sets = random_file(rng)
        found = ours(data)
        assert isinstance(found, list), found
        assert [indices for _, indices in found] == sets
        assert difference(data) is None


def test_mutants() -> None:
    """Both readers take the same ones of thousands of damaged files, and find the same sets in them."""
    rng = random.Random("mutants")
    files = [(VECTORS / vector["file"]).read_bytes() for vector in MANIFEST["valid"]]
    ways = [way for way, times in WAYS for _ in range(times)]
    seen: Counter[str] = Counter()
    wrong = []
    for number in range(MUTANTS):
        data = rng.choice(files) if number % 4 else random_file(rng)[0]
        way = rng.choice(ways)
        changed = way(data, rng)
        result = ours(changed)
        if told := difference(changed):
            wrong.append((number, way.__name__, told))
        seen[f"R{result.rule}" if isinstance(result, RuleError) else way.__name__] += 1
    assert not wrong
    assert sum(count for what, count in seen.items() if what[0] != "R") > MUTANTS / 10, seen
    assert sum(what[0] == "R" for what in seen) >= 30, seen
