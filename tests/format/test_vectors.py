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
from conestool.format import dumps, loads, read_header
from spec.reference import reader
from spec.reference.rules import RuleError

SPEC = Path(__file__).parents[2] / "spec"
VECTORS = SPEC / "vectors"
MANIFEST = json.loads((VECTORS / "manifest.json").read_text(encoding="utf-8"))
GENERATOR = ("book", "damaged", "good", "invalid", "models", "reference")
"""The modules beside make.py that it imports."""

WORDS = ("name", "class_noun", "identifier", "id", "base")

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


def bytes_of(vector: dict[str, Any]) -> bytes:
    """The file of a vector."""
    return (VECTORS / str(vector["file"])).read_bytes()


def expected_words(vector: dict[str, Any]) -> list[dict[str, str]]:
    """Words of each concept and the id of its base, as the manifest has them."""
    return [{key: concept[key] for key in WORDS} for concept in vector["concepts"]]


def same_json(one: Any, other: Any) -> bool:
    """Whether two values are the same: 1 and 1.0 differ, as do 0.0 and -0.0, 1 and true."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def test_reads_valid_vectors() -> None:
    """All is that of the manifest, from the header alone too; written again, a file says the same."""
    for vector in MANIFEST["valid"]:
        cone, file = loads(bytes_of(vector)), vector["file"]
        assert cone.id == vector["id"], file
        found = [
            {"base": concept.base.id} | {key: getattr(concept, key) for key in WORDS if key != "base"}
            for concept in cone.concepts
        ]
        assert found == expected_words(vector), file
        for concept, expected in zip(cone.concepts, vector["concepts"], strict=True):
            counts = {param: len(values) for param, values in concept.indices.items()}
            assert counts == expected["counts"] or not expected["counts"], file
            assert {param: concept.indices[param].tolist() for param in expected["indices"]} == expected["indices"], (
                file
            )
            assert same_json(concept.origin.parameters, expected.get("parameters", {})), file
        assert loads(dumps(cone)) == cone, file
        header = read_header(VECTORS / file)
        assert (list(header.version), header.size) == (vector["version"], (VECTORS / file).stat().st_size), file
        for found_one, expected in zip(header.concepts, vector["concepts"], strict=True):
            assert found_one.id == expected["id"], file
            assert not expected["counts"] or dict(found_one.counts) == expected["counts"], file


def test_the_reference_reads_valid_vectors() -> None:
    """The second reader finds what the manifest says."""
    for vector in MANIFEST["valid"]:
        cone, file = reader.read(bytes_of(vector)), vector["file"]
        assert (list(cone.version), cone.id.hex()) == (vector["version"], vector["id"]), file
        rows = zip(cone.concepts, cone.header["concepts"], vector["concepts"], strict=True)
        for found, row, expected in rows:
            words = {"id": found.id.hex(), "base": cone.header["bases"][found.base]["id"]}
            words |= {key: getattr(found, key) for key in ("name", "class_noun", "identifier")}
            assert words == {key: expected[key] for key in WORDS}, file
            assert {name: found.indices[name].tolist() for name in expected["indices"]} == expected["indices"], file
            assert same_json(row.get("origin", {}).get("parameters"), expected.get("parameters")), file


def test_the_reference_refuses_invalid_vectors() -> None:
    """The second reader refuses each, for the rule that the manifest names."""
    for vector in MANIFEST["invalid"]:
        found = reader.outcome(bytes_of(vector))
        assert isinstance(found, RuleError), vector["file"]
        assert found.rule == vector["rule"], vector["file"]


def test_refuses_invalid_vectors() -> None:
    """Every file is refused for the reason it was made for, by name; later versions are told apart.

    A loop over bad files must not grow: an error that is kept makes a cycle (frame, error, traceback, frame), which the
    garbage collector breaks unless something in it, such as pydantic's own error, cannot be looked into.
    """
    left = []
    for vector in MANIFEST["invalid"]:
        name = Path(vector["file"]).name
        error = refusal(bytes_of(vector), name)
        assert error is not None, name
        assert re.search(REASONS[vector["rule"]], str(error)), (name, str(error))
        assert str(error).startswith(f"{name}: ") and str(error).isprintable() and len(str(error)) < 2000, name
        assert (type(error) is VersionError) == (vector["error"] == "version"), name
        left.append(weakref.ref(error))
        del error
    gc.collect()
    assert not [error for error in left if error() is not None]


def refusal(data: bytes, name: str) -> FormatError | None:
    """The error that a file is refused with, also kept by this frame."""
    kept = None
    try:
        loads(data, name)
    except FormatError as error:
        kept = error
    return kept


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
    """All of them together stay below 1.6 MB, most of it the few at limits of counts and lengths."""
    assert sum(path.stat().st_size for path in VECTORS.rglob("*.*") if path.is_file()) < 1_600_000
