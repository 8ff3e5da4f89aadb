"""Set laws on concepts: merging in any order, taking apart again, comparing."""

from __future__ import annotations

import tracemalloc
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conestool.concept import Concept, Cone, Indices, Provenance
from conestool.errors import BaseModelMismatchError, NameClashError, UsageError
from conestool.format import dumps, loads
from conestool.ops import Counts, diff, extract, intersection, join, merge, overlap, sharing, union
from tests.support.cones import base, concept

SETS = st.sets(st.integers(0, 50))
K, V, CROSS = "up.attn1.to_k.weight", "up.attn1.to_v.weight", "up.attn2.to_k.weight"


def array(values: set[int] | list[int]) -> Indices:
    """A sorted index set."""
    return np.array(sorted(values), dtype=np.int64)


def cone(*concepts: Concept) -> Cone:
    """A cone of these."""
    return Cone(concepts)


def small(name: str, **indices: list[int]) -> Concept:
    """A concept with these indices: k, v and cross stand for param names."""
    params = {"k": K, "v": V, "cross": CROSS}
    return Concept(name, name, f"sks{name}", {params[key]: array(value) for key, value in indices.items()}, base())


@given(SETS, SETS)
def test_set_operations_are_those_of_python(a: set[int], b: set[int]) -> None:
    """Union and intersection of sorted arrays."""
    assert join(array(a), array(b)).tolist() == sorted(a | b)
    assert intersection(array(a), array(b)).tolist() == sorted(a & b)


def test_merge_in_any_order_and_grouping() -> None:
    """The same concepts, the same content id, the same file."""
    parts = [cone(concept("dog")), cone(concept("hat")), cone(concept("mug"))]
    merged = [merge(*order) for order in permutations(parts)]
    merged += [merge(merge(a, b), c) for a, b, c in permutations(parts)]
    merged += [merge(a, merge(b, c)) for a, b, c in permutations(parts)]
    assert len({found.id for found in merged}) == 1
    assert len({dumps(found) for found in merged}) == 1
    assert merged[0].names == ("dog", "hat", "mug")


def test_merge_is_idempotent() -> None:
    """A file with itself, and a concept that is there already, add nothing; there is no empty cone."""
    both = merge(cone(concept("dog")), cone(concept("hat")))
    assert merge(both, both) == merge(both, cone(concept("hat"))) == merge(both) == both
    assert not merge(Cone((concept("dog"),), {"x": 1}), cone(concept("hat"))).unknown_fields, "they speak of their file"
    with pytest.raises(UsageError, match="nothing to merge"):
        merge()


def test_merge_then_extract_is_identity() -> None:
    """By id, by metadata and by bytes, through a file."""
    dog = cone(concept("dog", origin=Provenance(notes="x", parameters={"a": (1, 2)}), unknown_fields={"x-a": 1}))
    both = loads(dumps(merge(cone(concept("hat")), dog)))
    again = extract(both, "Dog")
    assert again == dog
    assert again.id == dog.id
    assert dumps(again) == dumps(dog)


def test_extract_names_what_there_is() -> None:
    """For a name that is not there."""
    with pytest.raises(UsageError, match="cat") as caught:
        extract(merge(cone(concept("dog")), cone(concept("hat"))), "cat")
    assert caught.value.hint and "dog, hat" in caught.value.hint


def test_merge_refuses_other_base_models() -> None:
    """Both concepts are named, and both models; a copy under another name is the same, and keeps its description."""
    one, two = concept("dog"), concept("hat", info=base(1, id="other"))
    with pytest.raises(BaseModelMismatchError, match=r"dog and hat .*\(tiny, other\): different weights") as caught:
        merge(cone(one), cone(two))
    assert caught.value.exit_code == 5
    merged = merge(cone(one), cone(concept("hat", info=base(0, id="copy", dtype="float16"))))
    assert [found.base.id for found in merged.concepts] == ["tiny", "copy"]


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        (concept("dog"), concept("Dog"), "name 'dog'"),
        (concept("dog"), concept("dog", origin=Provenance(seed=1)), "name 'dog'"),
        (concept("dog", "sks"), concept("hat", "SKS"), "identifier 'sks'"),
        (concept("straße", "ß"), concept("STRASSE", "sks"), "name 'strasse'"),
    ],
)
def test_merge_refuses_equal_names_and_identifiers(one: Concept, two: Concept, words: str) -> None:
    """Case aside, by full case folding, although a file may hold both; the remedy is in the hint."""
    with pytest.raises(NameClashError, match=words) as caught:
        merge(cone(one), cone(two))
    assert (caught.value.hint and "--identifier" in caught.value.hint) or "name" in words
    if one.name == "straße":
        both = Cone((one, two))
        assert both["STRASSE"] == two and both["straße"] == one


def test_union_and_overlap_by_hand() -> None:
    """Three concepts, two of which share two weights of one tensor."""
    three = cone(small("a", k=[1, 2, 3], v=[0]), small("b", k=[2, 3, 4]), small("c", cross=[9]))
    assert {param: values.tolist() for param, values in union(three).items()} == {K: [1, 2, 3, 4], V: [0], CROSS: [9]}
    assert overlap(three) == {("a", "b"): 2, ("a", "c"): 0, ("b", "c"): 0}


def test_sharing_by_hand() -> None:
    """Every neuron that more than one concept holds counts once for each of them, and once in all."""
    four = cone(
        small("a", k=[1, 2, 3], v=[0]), small("b", k=[2, 3, 4]), small("c", k=[3], cross=[9]), small("d", v=[5])
    )
    found = sharing(four)
    assert found.together == 7
    assert found.shares == {"a": 2, "b": 2, "c": 1, "d": 0}


def test_sharing_takes_no_memory_for_the_size_of_tensors() -> None:
    """A file of a kilobyte may name tensors of 2^31 - 1 weights."""
    largest = base().model_copy(update={"tensors": {K: [2**31 - 1]}})
    two = cone(*(Concept(name, name, name, {K: array([5, 2**31 - 2])}, largest) for name in "ab"))
    tracemalloc.start()
    found = sharing(two)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.together, found.shares) == (2, {"a": 2, "b": 2})
    assert peak < 1e6


def test_diff_by_hand() -> None:
    """Counts per param and per layer, and the metadata that differs."""
    found = diff(cone(small("a", k=[1, 2, 3], v=[0])), cone(small("b", k=[2, 3, 4], cross=[9])))
    assert found.total == Counts(2, 2, 2)
    assert found.params == {K: Counts(1, 1, 2), V: Counts(1, 0, 0), CROSS: Counts(0, 1, 0)}
    assert found.layers == {"up.attn1": Counts(2, 1, 2), "up.attn2": Counts(0, 1, 0)}
    assert found.params[K].jaccard == 0.5
    assert found.total.jaccard == pytest.approx(1 / 3)
    keys = {change.key: (change.a, change.b) for change in found.metadata}
    assert keys == {"a.name": ("a", "b"), "a.class_noun": ("a", "b"), "a.identifier": ("sksa", "sksb")}
    assert not found.same


def test_diff_of_equals_is_empty() -> None:
    """Also of two files without neurons."""
    assert diff(cone(concept("dog")), cone(concept("dog"))).same
    nothing = diff(cone(small("a")), cone(small("a")))
    assert nothing.same
    assert nothing.total.jaccard == 1


def test_diff_finds_metadata_and_missing_concepts() -> None:
    """Down to the key, and by concept in merged files."""
    old = cone(concept("dog", origin=Provenance(seed=1, parameters={"steps": 2})), concept("hat"))
    new = cone(concept("dog", origin=Provenance(seed=1, parameters={"steps": 3})), concept("mug"))
    changes = {change.key: change for change in diff(old, new).metadata}
    assert set(changes) == {"dog.origin.parameters.steps", "hat", "mug"}
    assert (changes["dog.origin.parameters.steps"].a, changes["dog.origin.parameters.steps"].b) == (2, 3)
    assert changes["hat"].b is None and changes["mug"].a is None


def test_diff_finds_neurons_that_are_those_of_another_concept() -> None:
    """All of them together zero the same weights; what each concept zeroes is not the same."""
    old, new = cone(small("a", k=[1, 2]), small("b", k=[2, 3])), cone(small("a", k=[2, 3]), small("b", k=[1, 2]))
    found = diff(old, new)
    assert found.total.same and not found.same
    assert [change.key for change in found.metadata] == ["a.id", "b.id"]


def test_equality_of_concepts(tmp_path: Path) -> None:
    """Equal by indices and metadata; a changed index or note makes another."""
    one = small("a", k=[1, 2])
    assert one == small("a", k=[1, 2])
    assert hash(one) == hash(small("a", k=[1, 2]))
    assert one != small("a", k=[1, 3])
    assert one != Concept("a", "a", "sksa", one.indices, base(), Provenance(notes="x"))
    assert one != "a"
