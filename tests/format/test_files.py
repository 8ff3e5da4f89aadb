"""Files: everything of a cone there and back, and errors that say where and what to do."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conestool.concept import Concept, Cone, Losses, Provenance
from conestool.errors import FormatError, OutputExistsError, UsageError, VersionError
from conestool.format import dumps, limits, load, loads, read_header, save
from tests.support.cones import SHAPES, base, concept
from tests.support.forging import parts

ORIGIN = Provenance(
    instance_prompt="a photo of a sks dog",
    class_prompt="a photo of a dog",
    method="mask",
    parameters={"steps": 60, "rate": 0.1, "list": (1, 2), "none": None, "numpy": np.float32(0.5)},
    seed=-3,
    photos=["0f" * 32],
    held_out=0,
    losses=Losses(held_out_before=0.5, class_after=1),
    versions={"conestool": "0.1.0"},
    warnings=["one photo"],
    notes="line\nline",
    license="CC0-1.0",
    author="somebody",
)


@st.composite
def cones(draw: st.DrawFn) -> Cone:
    """Up to three concepts with any index sets on one of two bases."""
    names = draw(
        st.lists(st.sampled_from(["dog", "Hat", "red mug", "o'neil", "дом"]), min_size=1, max_size=3, unique=True)
    )
    concepts = []
    for name in names:
        info = BASES[draw(st.integers(0, 1))]
        indices = {}
        for param, shape in SHAPES.items():
            chosen = draw(st.sets(st.integers(0, shape[0] * shape[1] - 1), max_size=30))
            indices[param] = np.array(sorted(chosen), dtype=np.int32)
        concepts.append(Concept(name, "thing", f"id {name}", indices, info, ORIGIN))
    return Cone(tuple(concepts))


BASES = (base(0), base(1, id="other", revision="abc"))


@settings(max_examples=50)
@given(cones())
def test_any_cone_there_and_back(cone: Cone) -> None:
    """All of it, and the same bytes every time."""
    data = dumps(cone)
    again = loads(data)
    assert again == cone
    assert again.id == cone.id
    assert dumps(again) == data


def test_content_id_by_hand() -> None:
    """The bytes that the specification lists, for one set; names, notes and the other tensors have no part in it."""
    param = "up.attn2.to_k.weight"
    indices = {param: np.array([3, 500]), "up.attn1.to_k.weight": np.array([], dtype=np.int64)}
    hashed = b"cone-concept-1\0" + struct.pack("<Q", len(param)) + param.encode()
    hashed += struct.pack("<4Q2I", 2, 24, 40, 2, 3, 500)
    for name, origin in (("dog", ORIGIN), ("hat", Provenance())):
        found = Concept(name, "thing", "sks", indices, base(), origin)
        assert found.id == hashlib.sha256(hashed).hexdigest()
    both = hashlib.sha256(b"cone-file-1\0" + bytes.fromhex(found.id))
    assert Cone((found,)).id == both.hexdigest()


def test_details_there_and_back() -> None:
    """Tuples read back as lists, numpy scalars as numbers, None within parameters stays; indices are int32, read-only.

    Concepts of one base share its description; each still carries its own in memory.
    """
    dog = loads(dumps(Cone((concept(origin=ORIGIN, share=0.7),)))).concepts[0]
    assert dog.origin == ORIGIN and dog.origin.held_out == 0
    assert dog.origin.parameters == {"steps": 60, "rate": 0.1, "list": [1, 2], "none": None, "numpy": 0.5}
    assert dog.origin.losses == Losses(held_out_before=0.5, class_after=1.0)
    assert {values.dtype for values in dog.indices.values()} == {np.dtype(np.int32)}
    with pytest.raises(ValueError, match="read-only"):
        dog.indices["up.attn1.to_k.weight"][0] = 1
    one, two = dumps(Cone((concept("dog"),))), dumps(Cone((concept("dog"), concept("hat"))))
    assert len(parts(two)[0]["bases"]) == 1 and len(two) - len(one) < 700
    other = loads(dumps(Cone((concept("dog"), concept("hat", info=BASES[1])))))
    assert [found.base for found in other.concepts] == [base(), BASES[1]]
    (empty,) = loads(dumps(Cone((Concept("dog", "dog", "sks", {}, base()),)))).concepts
    assert (empty.neurons, empty.id) == (0, hashlib.sha256(b"cone-concept-1\0").hexdigest())


def test_header_alone(tmp_path: Path) -> None:
    """Counts per tensor, density, sizes and words, from a file whose payload is damaged."""
    cone = Cone((concept("dog", origin=ORIGIN), concept("hat")))
    data = dumps(cone)
    path = tmp_path / "both.cone"
    path.write_bytes(data[:-50] + bytes(50))
    header = read_header(path)
    dog = header.concepts[0]
    assert (dog.name, dog.phrase, dog.origin, dog.id) == ("dog", "sksdog dog", ORIGIN, cone["dog"].id)
    assert dog.counts == {param: len(values) for param, values in cone["dog"].indices.items()}
    assert dog.neurons == cone["dog"].neurons
    assert dog.density == cone["dog"].density
    assert header.size == len(data)
    with pytest.raises(FormatError, match=r"both\.cone: section 2 \(hat\): sha256 of its indices differs \(byte \d+\)"):
        load(path)


def test_save_and_load(tmp_path: Path) -> None:
    """A file is written whole, and not over another."""
    cone = Cone((concept(),))
    path = save(cone, tmp_path / "dog.cone")
    assert load(path) == load(str(path)) == cone
    with pytest.raises(OutputExistsError, match=r"dog\.cone: exists already"):
        save(cone, path)
    assert save(Cone((concept("hat"),)), path, overwrite=True) == path
    assert load(path).names == ("hat",)
    assert [item.name for item in tmp_path.iterdir() if item.is_file()] == ["dog.cone"]


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    """A folder is no .cone file, and a missing file is a mistake in the command."""
    for read in (load, read_header):
        with pytest.raises(FormatError, match="is a folder"):
            read(tmp_path)
        with pytest.raises(UsageError, match=r"none\.cone: no such file"):
            read(tmp_path / "none.cone")


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    """Its size decides, unless a later version wrote it, which may allow more."""
    path = tmp_path / "huge.cone"
    with path.open("wb") as stream:
        stream.truncate(limits.MAX_FILE_BYTES + 1)
    for read in (load, read_header):
        with pytest.raises(FormatError, match=r"not a \.cone file"):
            read(path)
    for start, error in ((b"\x89CONE\r\n\x1a\n\1\0", FormatError), (b"\x89CONE\r\n\x1a\n\2\0", VersionError)):
        with path.open("r+b") as stream:
            stream.write(start)
        for read in (load, read_header):
            with pytest.raises(error, match="more than 268435456" if error is FormatError else "later than 1"):
                read(path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"origin": Provenance(notes="\udcff")}, "cannot be written"),
        ({"origin": Provenance(notes="x" * limits.MAX_HEADER_BYTES)}, "header of"),
        ({"origin": Provenance(parameters={"x": float("nan")})}, "cannot be written"),
        ({"origin": Provenance(parameters={"x": 1 << 64})}, "cannot be written"),
        ({"unknown_fields": {"base": 7}}, "meaning of their own"),
    ],
)
def test_refuses_to_write_what_cannot_be_read(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        dumps(Cone((concept(**fields),)))


@pytest.mark.parametrize(
    "wrong", [[2, 1], [1, 1], [-1, 0], [0, 24 * 24], [[0, 1]], [0.2, 1.7], [float("nan")], [False, True], ["a"]]
)
def test_refuses_indices_that_are_no_positions(wrong: list[Any]) -> None:
    """Neither a mask nor numbers with a fraction become other positions."""
    with pytest.raises(UsageError, match="not whole numbers, sorted, unique and within"):
        Concept("dog", "dog", "sks", {"up.attn1.to_k.weight": np.array(wrong)}, base())
