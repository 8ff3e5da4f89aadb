"""What the witness learns from, and how its answers are counted."""

from __future__ import annotations

import random

from benchmarks.plural import beyond, each_present, shares
from benchmarks.witness import NAMES, own, with_subjects
from training.pocket import domain, scenes


def test_a_scene_holds_the_subjects_that_its_label_names() -> None:
    """All of them, none twice and no others; and only animals wear something."""
    rng, seen = random.Random(0), set()
    for _ in range(400):
        scene, there = with_subjects(rng, scenes.sample_scene(rng, scenes.WIDE))
        things = [thing for item in scene.items for thing in (item, item.wears) if thing]
        drawn = [thing.drawn for thing in things if thing.drawn]
        assert sorted(drawn) == sorted(own(name) for name in there)
        assert all(item.noun in domain.ANIMALS for item in scene.items if item.wears)
        seen |= there
    assert seen == set(NAMES)


def test_shares_count_pictures_that_hold_all_and_each() -> None:
    """Of four pictures one holds both, three the dog and one the hat."""
    found = shares([[True, True], [True, False], [True, False], [False, False]], ["dog", "hat"])
    assert found == {"all": 0.25, "each": {"dog": 0.75, "hat": 0.25}, "pictures": 4}


def test_a_subject_is_beyond_the_bare_model_where_the_witness_is_surer_than_of_nearly_all_its_pictures() -> None:
    """The dog's log odds are at most -2 in the bare model's pictures, the hat's at most 1."""
    bare = {"log odds": [[-2.0, 1.0], [-5.0, -3.0]], "each": {"dog": 0.0, "hat": 0.5}}
    with_concepts = {"log odds": [[-1.0, 2.0], [-2.0, 2.0], [3.0, 1.0], [-9.0, 0.5]], "each": bare["each"]}
    assert beyond(with_concepts, bare) == {"all": 0.25, "each": {"dog": 0.5, "hat": 0.5}, "pictures": 4}
    assert beyond(bare, bare)["each"] == {"dog": 0.0, "hat": 0.0}


def test_the_table_of_presence_has_a_row_for_every_kind_that_the_witness_saw() -> None:
    """Nothing for groups without pictures, and an empty cell for a subject that a group does not have."""
    bare = {"log odds": [[-2.0], [-5.0]], "each": {"dog": 0.0}}
    rows = {"1 present bare": {"value": bare}, "1 present merged": {"value": bare | {"log odds": [[-1.0], [-3.0]]}}}
    assert each_present(rows, [1, 2], ["dog", "hat"])[-3:] == [
        "| concepts | dog | hat |",
        "|---|---|---|",
        "| 1, merged | 50% |  |",
    ]
