"""What the witness learns from, and how its answers are counted."""

from __future__ import annotations

import random

from benchmarks.plural import shares
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
