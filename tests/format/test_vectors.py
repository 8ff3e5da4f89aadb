"""The test vectors of the specification, which were made without conestool."""

from __future__ import annotations

import gc
import json
import re
import runpy
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

from conestool.errors import FormatError, VersionError
from conestool.format import dumps, load, loads, read_header

SPEC = Path(__file__).parents[2] / "spec"
VECTORS = SPEC / "vectors"
MANIFEST = json.loads((VECTORS / "manifest.json").read_text(encoding="utf-8"))
GENERATOR = ("book", "damaged", "good", "invalid", "reference")
"""The modules beside make.py that it imports."""

REASONS = {
    1: "not a .cone file|text-mode|truncated: 0 bytes",
    2: "truncated: 19 bytes, the preamble has 20",
    3: "version",
    4: "reserved byte 1",
    5: "more than a reader may take",
    6: "truncated: header of",
    7: "crc32 differs",
    8: "not valid msgpack|not a map|ext type",
    9: "a key occurs twice",
    10: "not canonical",
    11: "a number is not finite",
    12: "nested deeper than 16",
    13: r"header: needs x-rotated|header: needs x\\n\\x1b\[31m",
    14: "Field required|Input should be|List should have at least 5|Data should have|is nil|String should match",
    15: "(List|String) should have at (least|most)",
    16: "not in rising order of their names",
    17: "Input should be|2147483648 weights|at most 8 items",
    18: "digests lack f32",
    19: "is not usable",
    20: "same name or identifier",
    21: "not in order of their names",
    22: "do not refer to bases",
    23: "begin with indices and differ in type",
    24: "not in rising order of their numbers|tensor 2, expected < 2",
    25: "indices in a tensor of 32 weights",
    26: "unknown codec 3",
    27: "cannot have these lengths",
    28: "indices, more than 67108864|rows in tensor tables, more than 16384|coded pieces, more than 134217728",
    29: "for raw pieces of",
    30: "truncated|too long",
    31: "sha256 of its indices differs",
    32: "zstd",
    33: "padding bits are not zero",
    34: "quotients, expected 20",
    35: "out of range, expected < 32",
    36: "bits are set",
    37: "classes",
    38: "a class is not below",
    39: "do not fit their blocks or do not add up",
    40: "quotients, expected 6|left over|cannot hold",
    41: "outside its block",
    42: "content id",
}


@pytest.mark.parametrize("vector", MANIFEST["valid"], ids=lambda vector: Path(vector["file"]).stem)
def test_reads_valid_vectors(vector: dict[str, Any]) -> None:
    """Names, ids, counts and indices are those of the manifest."""
    cone = load(VECTORS / vector["file"])
    assert cone.id == vector["id"]
    for found, expected in zip(cone.concepts, vector["concepts"], strict=True):
        words = {key: getattr(found, key) for key in ("name", "class_noun", "identifier", "id")}
        assert words == {key: expected[key] for key in words}
        assert found.base.id == expected["base"]
        assert {param: len(values) for param, values in found.indices.items()} == expected["counts"]
        for param, values in expected["indices"].items():
            assert found.indices[param].tolist() == values


@pytest.mark.parametrize("vector", MANIFEST["valid"], ids=lambda vector: Path(vector["file"]).stem)
def test_header_of_valid_vectors(vector: dict[str, Any]) -> None:
    """The header alone gives version, ids and counts."""
    header = read_header(VECTORS / vector["file"])
    assert list(header.version) == vector["version"]
    assert header.size == (VECTORS / vector["file"]).stat().st_size
    assert [concept.id for concept in header.concepts] == [concept["id"] for concept in vector["concepts"]]
    assert [dict(concept.counts) for concept in header.concepts] == [item["counts"] for item in vector["concepts"]]


@pytest.mark.parametrize("vector", MANIFEST["valid"], ids=lambda vector: Path(vector["file"]).stem)
def test_keeps_everything_of_valid_vectors(vector: dict[str, Any]) -> None:
    """Written again, a file says the same, unknown keys and sections included."""
    cone = load(VECTORS / vector["file"])
    again = loads(dumps(cone))
    assert again == cone
    assert again.extra == cone.extra


@pytest.mark.parametrize("vector", MANIFEST["invalid"], ids=lambda vector: Path(vector["file"]).stem)
def test_refuses_invalid_vectors(vector: dict[str, Any]) -> None:
    """Every file is refused for the reason it was made for, by name; later versions are told apart."""
    name = Path(vector["file"]).name
    with pytest.raises(FormatError, match=REASONS[vector["rule"]]) as caught:
        loads((VECTORS / vector["file"]).read_bytes(), name)
    assert str(caught.value).startswith(f"{name}: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000
    assert (type(caught.value) is VersionError) == (vector["error"] == "version")


@pytest.mark.parametrize("vector", MANIFEST["invalid"], ids=lambda vector: Path(vector["file"]).stem)
def test_a_refusal_that_was_kept_can_be_freed(vector: dict[str, Any]) -> None:
    """A loop over bad files must not grow.

    A caller that keeps the error makes a cycle (its frame, the error, the traceback, its frame), which the garbage
    collector breaks unless something in it, such as pydantic's own error, cannot be looked into.
    """
    data = (VECTORS / vector["file"]).read_bytes()

    def refuse() -> weakref.ref[FormatError]:
        kept = None
        try:
            loads(data)
        except FormatError as error:
            kept = error
        assert kept is not None
        return weakref.ref(kept)

    left = refuse()
    gc.collect()
    assert left() is None


def test_every_rule_has_a_vector() -> None:
    """The rules of the specification, those of the manifest and those tested here are the same."""
    text = (SPEC / "cone-1.md").read_text(encoding="utf-8")
    rules = [int(number) for number in re.findall(r"^- \*\*R(\d+)\*\*", text, re.MULTILINE)]
    assert rules == list(range(1, 43))
    assert sorted({vector["rule"] for vector in MANIFEST["invalid"]}) == rules
    assert sorted(REASONS) == rules


def test_the_listing_of_the_specification_is_the_vector() -> None:
    """The annotated bytes in the specification are those of smallest.cone."""
    annotate = runpy.run_path(str(VECTORS / "annotate.py"))
    listing = annotate["annotated"]((VECTORS / "valid" / "smallest.cone").read_bytes())
    assert listing in (SPEC / "cone-1.md").read_text(encoding="utf-8")


def test_the_manifest_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The committed generator says the same of the vectors as the committed manifest."""
    monkeypatch.syspath_prepend(str(VECTORS))
    for module in GENERATOR:
        monkeypatch.delitem(sys.modules, module, raising=False)
    runpy.run_path(str(VECTORS / "make.py"))["main"](tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8")) == MANIFEST
    for module in GENERATOR:
        monkeypatch.delitem(sys.modules, module, raising=False)


def test_vectors_are_small() -> None:
    """All of them together stay below 450 kB, a third of it the one with too many rows."""
    assert sum(path.stat().st_size for path in VECTORS.rglob("*.*") if path.is_file()) < 450_000
