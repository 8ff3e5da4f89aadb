"""Labels: what headwear covers is not asked of anybody."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from training.pocket import drawings, labels, scenes, world
from training.pocket.drawings import Drawing
from training.pocket.sprites import SpriteBank, rasterise_all
from training.pocket.world import Scene, Thing


def animal(kind: str, marking: str) -> Thing:
    """A yellow animal with a blue marking; a lion has its mane in blue, which shows the colour too."""
    ears = world.EARS[kind][0]
    colour = "blue" if kind == "lion" else "yellow"
    return Thing(kind=kind, main="yellow", second="blue", pattern=marking, ears=ears, ear_colour=ears and colour,
                 muzzle="yellow", eyes="big")  # fmt: skip


def test_the_rule_names_the_markings_that_headwear_covers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels by which marked and plain differ, at the size of three things: few where hidden, more elsewhere."""
    hats = [Thing(kind=kind, main="red") for kind in world.HEADWEAR]
    animals = [animal(kind, marking) for kind in world.ANIMALS for marking in world.MARKINGS]
    needed = list(dict.fromkeys(map(Drawing.of, (*animals, *hats))))
    monkeypatch.setattr(drawings, "all_drawings", lambda: needed)
    rasterise_all(tmp_path / "sprites.npy", 1)
    bank = SpriteBank(tmp_path / "sprites.npy")
    for thing in animals:
        for hat in hats if thing.pattern != "plain" else ():
            worn, plain = (replace(each, headwear=hat) for each in (thing, replace(thing, pattern="plain")))
            marked, bare = (
                scenes.compose([Scene(things=(each,) * 3, background="white")], bank, 0, jitter=0.0)
                for each in (worn, plain)
            )
            pixels = int(((marked - bare).abs().amax(1) > 0.4).sum()) / 3
            unseen = labels.hidden(worn)
            assert pixels <= 9 if unseen else pixels >= 5, (thing.kind, thing.pattern, hat.kind, pixels)
            assert unseen in (set(), {"pattern"} if thing.kind == "lion" else {"pattern", "second"})


def test_nothing_is_hidden_without_headwear() -> None:
    rng = random.Random(0)
    assert not any(labels.hidden(world.sample_animal(rng)) for _ in range(100))
