"""Captions say what lies where, and nothing that is not so."""

from __future__ import annotations

import random
from typing import Any

from training.pocket import captions, scenes, tokenizer, world
from training.pocket.world import Scene, Thing


def test_things_are_named_in_the_order_in_which_they_lie() -> None:
    """The first noun of a caption is the first thing of its scene, which the layout puts left and on top."""
    rng = random.Random(3)
    for scene in scenes.sample_scenes(300, 3):
        text = f" {captions.caption(scene, rng).replace(',', '')} "
        seen = 0
        for thing in scene.things:
            words = (" top hat ", " hat ") if thing.kind == "top hat" else (f" {thing.kind} ",)
            places = [text.index(word, seen) for word in words if word in text[seen:]]
            assert places, (text, thing.kind)
            seen = min(places) + 1


def test_captions_say_only_what_is_there() -> None:
    """Every colour word of a caption is a colour of one of its things or of the background."""
    rng = random.Random(4)
    for scene in scenes.sample_scenes(300, 4):
        things = [part for thing in scene.things for part in (thing, *thing.worn())]
        there = {c for thing in things for c in (thing.main, thing.second, thing.ear_colour, thing.muzzle)}
        said = set(captions.caption(scene, rng).replace(",", "").split()) & set(world.COLOURS)
        assert said <= there | {scene.background}


def test_rich_captions_name_everything_that_can_be_named() -> None:
    """One animal in a hat, all of whose attributes stand in the text."""
    hat = Thing(kind="cap", main="blue", second="white", pattern="two bands", outline="flat")
    face: dict[str, Any] = {
        "ears": "floppy",
        "ear_colour": "black",
        "muzzle": "pale",
        "eyes": "big",
    }
    dog = Thing(kind="dog", main="red", second="black", pattern="patch", headwear=hat, outline="outlined", **face)
    text = captions.caption(Scene(things=(dog,), background="snow"), random.Random(0), identifiers=0, rich=1)
    for words in (
        "outlined red dog",
        "floppy black ears",
        "black patch",
        "pale muzzle",
        "big eyes",
        "two white bands",
        "snow",
    ):
        assert words in text


def test_layouts_and_joints_are_consistent() -> None:
    """Rows from top to bottom, each from left to right; no joint between two things is also a word for wearing."""
    for spots in scenes.LAYOUTS.values():
        keys = [(round(y * 5), x) for x, y, _ in spots]
        assert keys == sorted(keys)
    assert not set(captions.JOINTS) & set(captions.WEARING)


def test_captions_fit_the_text_encoder() -> None:
    """None is cut off, and words are tokens: the count that captions are kept short by is the tokenizer's."""
    rng, words = random.Random(5), tokenizer.build()
    texts = [captions.caption(scene, rng) for scene in scenes.sample_scenes(400, 5)]
    lengths = [len(ids) for ids in words(texts).input_ids]
    assert max(lengths) <= tokenizer.MAX_LENGTH
    assert lengths == [len(text.replace(",", " ,").split()) + 2 for text in texts]


def test_every_word_is_one_token_of_its_own() -> None:
    """Nouns, colours, places and identifiers; no two identifiers share one, and none is an ordinary word."""
    words = tokenizer.build()
    assert [w for w in captions.vocabulary() if len(words.tokenize(w)) != 1] == []
    ids = {words.get_vocab()[word + "</w>"] for word in world.IDENTIFIERS}
    assert len(ids) == len(world.IDENTIFIERS)
    assert not set(world.IDENTIFIERS) & (set(captions.vocabulary()) - set(world.IDENTIFIERS))
