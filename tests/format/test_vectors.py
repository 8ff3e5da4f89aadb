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
from spec.reference import reader
from spec.reference.rules import RuleError

SPEC = Path(__file__).parents[2] / "spec"
VECTORS = SPEC / "vectors"
MANIFEST = json.loads((VECTORS / "manifest.json").read_text(encoding="utf-8"))
GENERATOR = ("book", "damaged", "good", "invalid", "models", "reference")
"""The modules beside make.py that it imports."""

REASONS = {
    1: "not a .cone file|text-mode|truncated: [08] bytes",
    2: r"truncated: (9|10|19) bytes, the preamble has 20",
    3: "version",
    4: "reserved byte (1|255)",
    5: "header of 1048577 bytes, more than",
    6: "truncated: header of",
    7: "crc32 differs",
    8: "not valid msgpack|not a map|ext type",
    9: "a key occurs twice",
    10: "not canonical",
    11: "a number is not finite",
    12: "nested deeper than 16",
    13: r"header: needs x-rotated|header: needs x\\n\\x1b\[31m",
    14: "Field required|Input should be|List should have at (least|most) [23]|Data should have|is nil|String should",
    15: "(List|String) should have at (least|most)",
    16: "not in rising order of their names",
    17: "Input should be|2147483648 weights|at most 8 items",
    18: "digests lack f32",
    19: "is not usable",
    20: "same name or identifier",
    21: "not in order of their names",
    22: "do not refer to bases",
    23: "begin with indices and differ in type",
    24: r"not in rising order of their numbers|tensor \d+, expected < 2",
    25: "indices in a tensor of 32 weights",
    26: "quotients, expected",
    27: "indices, more than 67108864|rows in tensor tables, more than 16384",
    28: "for raw pieces of",
    29: "truncated|too long",
    30: "sha256 of its (indices|x-later) differs",
    31: "zstd",
    32: "padding bits are not zero",
    33: "quotients, expected 20",
    34: "out of range, expected <",
    35: "content id",
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
        if expected["counts"]:
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
    for found, expected in zip(header.concepts, vector["concepts"], strict=True):
        assert not expected["counts"] or dict(found.counts) == expected["counts"]


@pytest.mark.parametrize("vector", MANIFEST["valid"], ids=lambda vector: Path(vector["file"]).stem)
def test_keeps_everything_of_valid_vectors(vector: dict[str, Any]) -> None:
    """Written again, a file says the same, unknown keys and sections included."""
    cone = load(VECTORS / vector["file"])
    assert loads(dumps(cone)) == cone


@pytest.mark.parametrize("vector", MANIFEST["valid"], ids=lambda vector: Path(vector["file"]).stem)
def test_the_reference_reads_valid_vectors(vector: dict[str, Any]) -> None:
    """The second reader finds what the manifest says."""
    cone = reader.read((VECTORS / vector["file"]).read_bytes())
    assert (list(cone.version), cone.id.hex()) == (vector["version"], vector["id"])
    for found, expected in zip(cone.concepts, vector["concepts"], strict=True):
        words = {key: getattr(found, key) for key in ("name", "class_noun", "identifier")}
        assert words == {key: expected[key] for key in words}
        assert found.id.hex() == expected["id"]
        assert cone.header["bases"][found.base]["id"] == expected["base"]
        assert {name: found.indices[name].tolist() for name in expected["indices"]} == expected["indices"]


@pytest.mark.parametrize("vector", MANIFEST["invalid"], ids=lambda vector: Path(vector["file"]).stem)
def test_the_reference_refuses_invalid_vectors(vector: dict[str, Any]) -> None:
    """The second reader refuses each, for the rule that the manifest names."""
    with pytest.raises(RuleError) as caught:
        reader.read((VECTORS / vector["file"]).read_bytes())
    assert caught.value.rule == vector["rule"]


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
    assert rules == list(range(1, 36))
    assert sorted({vector["rule"] for vector in MANIFEST["invalid"]}) == rules
    assert sorted(REASONS) == rules


def test_the_listing_of_the_specification_is_the_vector() -> None:
    """The annotated bytes in the specification are those of smallest.cone."""
    annotate = runpy.run_path(str(VECTORS / "annotate.py"))
    listing = annotate["annotated"]((VECTORS / "valid" / "smallest.cone").read_bytes())
    assert listing in (SPEC / "cone-1.md").read_text(encoding="utf-8")


def test_the_manifest_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The committed generator says the same of vectors and models as the committed files."""
    monkeypatch.syspath_prepend(str(VECTORS))
    for module in GENERATOR:
        monkeypatch.delitem(sys.modules, module, raising=False)
    runpy.run_path(str(VECTORS / "make.py"))["main"](tmp_path)
    for file in ("manifest.json", "identity.json"):
        assert (tmp_path / file).read_text(encoding="utf-8") == (VECTORS / file).read_text(encoding="utf-8")
    for module in GENERATOR:
        monkeypatch.delitem(sys.modules, module, raising=False)


def test_vectors_are_small() -> None:
    """All of them together stay below 1.5 MB, half of it the few at the limits of counts."""
    assert sum(path.stat().st_size for path in VECTORS.rglob("*.*") if path.is_file()) < 1_500_000
