"""The independent reader on the vectors; then both readers on edges and on random files."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spec.reference import reader, sections
from spec.reference.rules import RuleError
from tests.independent.edges import Edge, edges, empty_frames
from tests.independent.judge import judge
from tests.independent.writer import random_file

VECTORS = Path(__file__).parents[2] / "spec/vectors"
MANIFEST = json.loads((VECTORS / "manifest.json").read_text(encoding="utf-8"))
FILES = 120


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
    verdicts = [(about, valid, judge(data)) for about, data, valid in files()]
    assert not [item for item in verdicts if item[2].fault or (item[2].rule == 0) != item[1]]


def test_written() -> None:
    """Both readers find in random files what was put there."""
    rng = random.Random("written")
    for _ in range(FILES):
        data, sets = random_file(rng)
        found = reader.read(data)
        assert [{name: part.tolist() for name, part in one.indices.items()} for one in found.concepts] == sets
        assert judge(data).fault == ""
