"""Floats of concepts: to bytes and back, in files, and among cones."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conestool import deltas
from conestool.algebra import diff, extract, merge
from conestool.concept import Concept, Cone, Floats, Part
from conestool.errors import NameClashError, UsageError
from conestool.format import dumps, loads, read_header
from tests.format.support import concept, forge, split

LIMIT = float(np.float32(deltas.LARGEST))
SETS = st.lists(
    st.integers(1, 20).flatmap(lambda k: arrays(np.float32, k, elements=st.floats(-LIMIT, LIMIT, width=32))),
    min_size=1,
    max_size=4,
)


def floats_for(one: Concept, seed: int = 0, size: float = 0.01) -> Mapping[str, Floats]:
    """Random floats for every neuron."""
    rng = np.random.default_rng(seed)
    return {param: rng.normal(0, size, len(own)).astype(np.float32) for param, own in one.indices.items()}


@given(SETS)
def test_floats_come_back_within_half_a_step(sets: list[Floats]) -> None:
    """Half a 127th of each tensor's largest magnitude, and the same bytes from what came back."""
    data, counts = deltas.encode(sets), [len(floats) for floats in sets]
    assert len(data) == deltas.length(counts) == sum(counts) + 4 * len(counts)
    assert deltas.fault(data, counts) == ""
    found = deltas.decode(data, counts)
    for floats, back in zip(sets, found, strict=True):
        assert back.dtype == np.float32 and not back.flags.writeable
        largest = float(np.abs(floats).max())
        if largest > 1e-30:  # below that the scale has fewer bits
            assert np.abs(back.astype(np.float64) - floats).max() <= largest / 127 * 0.502
        else:
            assert np.abs(back).max() <= 1.01e-30
    assert deltas.encode(found) == data


def test_bytes_by_hand() -> None:
    """The example of the specification."""
    data = bytes.fromhex("0000803E 7F0081 00008035 01FF")
    values = [floats.tolist() for floats in deltas.decode(data, [3, 2])]
    assert values == [[31.75, 0, -31.75], [2**-20, -(2**-20)]]
    assert deltas.encode([np.array([31.75, 0, -31.75], np.float32)]) == data[:7]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 65_025.0])
def test_refuses_floats_that_no_file_can_hold(value: float) -> None:
    """Not finite, or beyond the largest scale."""
    with pytest.raises(UsageError, match=r"a float of (nan|inf|65025) at a concept neuron"):
        deltas.encode([np.array([0.5, value], np.float32)])
    dog = concept()
    param = next(iter(dog.indices))
    values = {**floats_for(dog)}
    values[param] = np.full_like(values[param], value)
    with pytest.raises(UsageError, match="at a concept neuron"):
        dog.with_deltas(values)


def test_refuses_floats_that_do_not_go_with_the_indices() -> None:
    """A parameter missing, one too many, or another length; and sections that are none."""
    dog = concept()
    values = dict(floats_for(dog))
    param = next(iter(values))
    for wrong in (
        {key: floats for key, floats in values.items() if key != param},
        {**values, "down.attn1.to_k.weight": values[param]},
        {**values, param: values[param][1:]},
        {**values, param: values[param][:, None]},
    ):
        with pytest.raises(UsageError, match="dog: floats that do not go with the index sets"):
            dog.with_deltas(wrong)
    with pytest.raises(UsageError, match="dog: 5 bytes of deltas"):
        replace(dog, parts=(Part("deltas", b"12345"),))
    with pytest.raises(UsageError, match="expected"):
        replace(dog.with_deltas(values), indices={param: dog.indices[param]})
    empty = replace(dog, indices={})
    assert empty.with_deltas({}) == empty
    with pytest.raises(UsageError, match="bytes of deltas"):
        replace(empty, parts=(Part("deltas", b""),))


def test_floats_are_part_of_a_concept_but_not_of_its_content_id() -> None:
    """Equality and the exact id see them; without them both are what they were."""
    dog = concept()
    one, two = dog.with_deltas(floats_for(dog)), dog.with_deltas(floats_for(dog, seed=1))
    assert one.id == two.id == dog.id
    assert len({dog, one, two}) == 3 and dog != one != two
    assert (dog.exact_id, len({dog.exact_id, one.exact_id, two.exact_id})) == (dog.id, 3)
    assert one.exact_id.startswith(f"{dog.id}+") and len(one.exact_id) == 129
    assert one.with_deltas({}) == dog and not dog.deltas and dog.floats is None and dog.largest == 0
    assert one.with_deltas(one.deltas) == one
    assert one.largest == max(float(np.abs(floats).max()) for floats in one.deltas.values()) > 0.01
    with pytest.raises(TypeError):
        one.deltas["x"] = np.zeros(1)  # type: ignore[index]


def test_a_file_with_floats_is_version_1_1_and_every_other_one_1_0() -> None:
    """There and back, with a byte per neuron and four per tensor more; the header alone tells of them."""
    dog, hat = concept("dog"), concept("hat")
    plain, data = dumps(Cone((dog, hat))), dumps(Cone((dog.with_deltas(floats_for(dog)), hat)))
    assert (plain[10], data[10]) == (0, 1)
    again = loads(data)
    assert again == Cone((dog.with_deltas(floats_for(dog)), hat))
    assert dumps(again) == data
    assert list(again["dog"].deltas) == list(again["dog"].indices)
    section = 4 * len(dog.indices) + dog.neurons
    assert section < len(data) - len(plain) < section + 80
    assert dumps(Cone(tuple(each.with_deltas({}) for each in again.concepts))) == plain


def test_the_header_alone_tells_of_floats(tmp_path: object) -> None:
    """How many bytes, and the exact id."""
    from pathlib import Path

    dog, hat = concept("dog"), concept("hat")
    dog = dog.with_deltas(floats_for(dog))
    file = Path(str(tmp_path)) / "both.cone"
    file.write_bytes(dumps(Cone((dog, hat))))
    first, second = read_header(file).concepts
    assert dog.floats is not None
    assert (first.floats, first.exact_id) == (len(dog.floats.data), dog.exact_id)
    assert (second.floats, second.exact_id) == (0, hat.id)


def test_a_reader_of_1_0_has_the_integers() -> None:
    """To it the section is one of a type that it does not know: the header without that entry gives the same sets."""
    dog = concept()
    full = dog.with_deltas(floats_for(dog))
    header, payload = split(dumps(Cone((full,))))
    sections = header["concepts"][0]["sections"]
    sections[1]["type"] = "x-unknown"
    found = loads(forge(header, payload))["dog"]
    assert found.id == dog.id and not found.deltas
    assert full.floats is not None and found.parts == (Part("x-unknown", full.floats.data),)


def test_merge_and_extract_keep_floats_and_merge_does_not_confuse_them() -> None:
    """The same sets with other floats are another concept: neither is dropped in silence."""
    dog, hat = concept("dog"), concept("hat")
    full = dog.with_deltas(floats_for(dog))
    both = loads(dumps(merge(Cone((hat,)), Cone((full,)))))
    assert extract(both, "dog") == Cone((full,))
    assert merge(Cone((full,)), both) == both
    for other in (dog, dog.with_deltas(floats_for(dog, seed=1))):
        with pytest.raises(NameClashError, match="two concepts have the name 'dog'"):
            merge(Cone((full,)), Cone((other,)))


def test_diff_tells_floats() -> None:
    """Of equal index sets it says that one has floats, or that they differ, and nothing for equal ones."""
    dog = concept("dog")
    one, two = dog.with_deltas(floats_for(dog)), dog.with_deltas(floats_for(dog, seed=1))
    [change] = diff(Cone((dog,)), Cone((one,))).metadata
    assert (change.key, change.a) == ("dog.deltas", None)
    assert (change.b["floats"], change.b["largest"]) == (dog.neurons, one.largest)
    assert {each.key for each in diff(Cone((one,)), Cone((two,))).metadata} == {
        "dog.deltas.largest",
        "dog.deltas.sha256",
    }
    assert diff(Cone((one,)), Cone((one,))).same
    assert not diff(Cone((one,)), Cone((two,))).same


def test_other_sections_and_keys_stay_where_they_are() -> None:
    """New floats take the place of the old ones, with the unknown keys of their section; others are not touched."""
    dog = concept()
    parts = (Part("x-first", b"1"), Part("deltas", deltas.encode(floats_for(dog).values()), {"x-note": 1}))
    full = replace(dog, parts=(*parts, Part("x-last", b"2")))
    again = loads(dumps(Cone((full,))))["dog"]
    assert again == full
    changed = again.with_deltas(floats_for(dog, seed=1))
    assert [part.type for part in changed.parts] == ["x-first", "deltas", "x-last"]
    assert changed.parts[1].extra == {"x-note": 1} and changed.parts[1].data != parts[1].data
    assert [part.type for part in changed.with_deltas({}).parts] == ["x-first", "x-last"]


def test_a_scale_has_room_for_its_multiples() -> None:
    """The largest float is finite in float16 too, and nothing on the way overflows."""
    [largest] = deltas.decode(struct.pack("<fb", deltas.MOST, deltas.STEPS), [1])
    assert np.isfinite(np.float16(largest)).all() and largest[0] == deltas.LARGEST
