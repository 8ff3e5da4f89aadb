"""Captions say what lies where."""

from __future__ import annotations

import random

from training.pocket import captions, scenes


def test_things_are_named_in_the_order_in_which_they_lie() -> None:
    """The first noun of a caption is the first thing of its scene, which the layout puts left and on top."""
    rng = random.Random(3)
    for _ in range(200):
        scene = scenes.sample_scene(rng, scenes.WIDE)
        text = " ".join(captions.caption(scene, rng).replace(",", "").split()) + " "
        seen = 0
        for item in scene.items:
            for thing in (item, item.wears):
                if thing:
                    assert f" {thing.word} " in text[seen:], (text, thing.word)
                    seen = text.index(f" {thing.word} ", seen) + 1


def test_layouts_are_in_reading_order() -> None:
    """Rows from top to bottom, each from left to right; places on one row share their height."""
    for spots in scenes.LAYOUTS.values():
        keys = [(round(y / 12), x) for x, y, _ in spots]
        assert keys == sorted(keys)


def test_side_by_side_and_worn_are_worded_differently() -> None:
    """ "a dog with a cap" is a dog that wears one: no joint between two things is also a word for wearing."""
    assert not set(captions.JOINTS) & set(captions.WEARING)
