"""Files of every released version are read for good, what is unknown survives, and what is newer is refused by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from conestool.concept import Concept, Cone
from conestool.errors import VersionError
from conestool.format import dumps, load, loads, read_header, save
from conestool.ops import extract, merge
from spec.reference import reader
from tests.hostile.compare_readers import said
from tests.hostile.systematic import sealed

VECTORS = Path(__file__).parents[2] / "spec/vectors"
GOLDEN = json.loads((VECTORS / "golden.json").read_text(encoding="utf-8"))
UNKNOWN = VECTORS / "valid/unknown.cone"


def digest_of(cone: Cone) -> str:
    """A digest of the decoded sets that doesn't go through the content id: each index in 4 bytes, little-endian."""
    digest = hashlib.sha256()
    for concept in cone.concepts:
        for param, values in concept.indices.items():
            digest.update(f"{concept.name}\0{param}\0{len(values)}\0".encode())
            digest.update(values.astype("<i4", copy=False).data)
    return digest.hexdigest()


def other(name: str = "hat") -> Cone:
    """A cone on the base model of the vector with unknown keys."""
    base = load(UNKNOWN).base
    return Cone((Concept(name, name, f"zwx{name}", {next(iter(base.tensors)): np.array([0, 5])}, base),))


def test_golden_files_are_read_for_good() -> None:
    """Each is there byte for byte, and gives the content id and the index sets that were committed with it.

    A file that is added to the vectors is added to the list, under the version that first had it.
    """
    files = {path.name for path in (VECTORS / "valid").iterdir()}
    assert files == {file for version in GOLDEN.values() for file in version}
    for file, expected in [item for files in GOLDEN.values() for item in files.items()]:
        data = (VECTORS / "valid" / file).read_bytes()
        cone = loads(data)
        assert hashlib.sha256(data).hexdigest() == expected["sha256"], file
        assert (cone.id, digest_of(cone)) == (expected["id"], expected["sets"]), file


def test_unknown_keys_and_sections_survive_a_rewrite(tmp_path: Path) -> None:
    """Read and written again, a file of unknown keys in every map says the same to the independent reader."""
    path = save(load(UNKNOWN), tmp_path / "again.cone")
    before = reader.read(UNKNOWN.read_bytes())
    assert b"x-note" in said(before)
    assert said(reader.read(path.read_bytes())) == said(before)
    assert "x-note" in reader.read(path.read_bytes()).header["concepts"][0]["sections"][0]


@pytest.mark.parametrize("turn", [1, -1])
def test_unknown_keys_and_sections_survive_read_merge_write(turn: int) -> None:
    """Merged with another file, written, read and extracted, the concept keeps all that was unknown of it."""
    full = load(UNKNOWN)
    both = loads(dumps(merge(*[full, other()][::turn])))
    again = extract(loads(dumps(both)), "dog")
    assert again.concepts == full.concepts
    assert again.concepts[0].indices_unknown_fields == {"x-note": 1}
    assert [section.type for section in again.concepts[0].sections] == ["x-later"]
    assert said(reader.read(dumps(Cone(again.concepts, full.unknown_fields)))) == said(
        reader.read(UNKNOWN.read_bytes())
    )
    assert not both.unknown_fields, "keys of the header map speak of the file that had them"


@pytest.mark.parametrize("version", [(2, 0), (2, 7), (10, 1), (255, 255)])
@pytest.mark.parametrize("rest", [b"", b"\xff" * 40])
def test_a_newer_major_version_is_refused_by_name(version: tuple[int, int], rest: bytes, tmp_path: Path) -> None:
    """Whatever follows; with the version that the file has, the one that is understood, and what to do."""
    path = tmp_path / "new.cone"
    path.write_bytes(b"\x89CONE\r\n\x1a\n" + bytes(version) + rest)
    for read in (load, read_header):
        with pytest.raises(
            VersionError, match=rf"new\.cone: version {version[0]}\.{version[1]}, later than 1"
        ) as caught:
            read(path)
        assert caught.value.hint == "update conestool: pip install -U conestool"


def test_the_higher_minor_version_is_kept_with_the_unknown() -> None:
    """Rewritten, merged or extracted, a file is of the version that its unknown parts may need. All minors are read."""
    later = load(UNKNOWN)
    assert later.minor_version == reader.read(UNKNOWN.read_bytes()).version[1] == 9
    for cone in (later, merge(other(), later), extract(merge(later, other()), "dog")):
        assert reader.read(dumps(cone)).version == (1, 9)
    assert reader.read(dumps(other())).version == (1, 0)
    assert {loads(sealed(UNKNOWN.read_bytes(), 10, minor)).id for minor in range(256)} == {later.id}
