"""The world: what is kept out of training, and drawings whose colours can be filled in afterwards."""

from __future__ import annotations

import io
import random
from collections import Counter

import numpy as np
import resvg_py
import torch
from PIL import Image

from examples.cast import SUBJECTS, photos
from training.pocket import drawings, scenes, world
from training.pocket.drawings import Colours, Drawing
from training.pocket.sprites import CHANNELS, SpriteBank


def test_training_never_draws_a_combination_that_is_kept_out() -> None:
    """Neither as a thing nor as what one wears; outside training such combinations come."""
    things = [t for scene in scenes.sample_scenes(3000, 1) for t in scene.things]
    assert not any(world.kept_out(part) for thing in things for part in (thing, *thing.worn()))
    others = [t for scene in scenes.sample_scenes(1000, 1, training=False) for t in scene.things]
    assert 0.05 < sum(map(world.kept_out, others)) / len(others) < 0.15


def test_what_is_kept_out_is_new_only_as_a_combination() -> None:
    """Every class with every main colour, and every class with every marking, stays in training."""
    rng = random.Random(2)
    things = [world.sample_individual(rng, alone=0.3) for _ in range(40_000)]
    pairs = Counter((t.kind, t.main) for t in things) + Counter((t.kind, t.pattern) for t in things if t.is_animal)
    assert all(pairs[kind, colour] for kind in world.CLASSES for colour in world.COLOURS)
    assert all(pairs[kind, marking] for kind in world.ANIMALS for marking in world.MARKINGS)


def _reference(thing: world.Thing, size: int) -> np.ndarray:
    """The drawing rasterised in its own colours: premultiplied RGBA (4, size, size) in [0, 1]."""
    second = world.COLOURS.get(thing.second, (0, 0, 0))
    svg = Drawing.of(thing).svg(Colours(world.COLOURS[thing.main], second))
    data = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    rgba = np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGBA"), dtype=np.float32) / 255
    return np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], 2).transpose(2, 0, 1)


def test_colours_filled_in_afterwards_are_those_of_the_drawing() -> None:
    """Of every class, an individual from shares of its colours looks as if drawn in them, but for rounding."""
    rng = random.Random(3)
    for kind in (*world.CLASSES, *world.OTHER_WEAR):
        thing = _individual(rng, kind)
        shares = torch.from_numpy(drawings.rasterise(Drawing.of(thing), 48))[None]
        bank = SpriteBank.__new__(SpriteBank)
        bank.palette = torch.tensor([(0, 0, 0), *world.COLOURS.values()]).float() / 255
        rows = {"": 0} | {word: row + 1 for row, word in enumerate(world.COLOURS)}
        filled = bank.coloured(shares, torch.tensor([[0, rows[thing.main], rows[thing.second]]]))[0].numpy()
        assert shares.shape[1] == CHANNELS
        assert np.abs(filled - _reference(thing, 48)).max() < 0.03, thing


def _individual(rng: random.Random, kind: str) -> world.Thing:
    if kind in world.EARS:
        return world.sample_animal(rng, kind)
    return world.sample_thing(rng, kind) if kind in world.VARIANTS else world.sample_wearable(rng, kind)


def test_the_rule_does_not_change() -> None:
    """Subjects are chosen by it and checkpoints trained by it: some combinations on both sides, as they were."""
    looks = (("white", "brown", "patch"), ("black", "white", "stripes"), ("blue", "yellow", "spots"))
    things = [world.Thing(kind=kind, main=a, second=b, pattern=c) for kind in ("dog", "cat") for a, b, c in looks]
    kept = [(thing.kind, thing.main) for thing in things if world.kept_out(thing)]
    assert kept == [("dog", "white"), ("dog", "black")]


def test_every_attribute_changes_the_drawing() -> None:
    """No two values of an attribute draw the same."""
    looks = Counter(drawing.svg(Colours((250, 20, 20), (20, 20, 250))) for drawing in drawings.all_drawings())
    assert set(looks.values()) == {1}


def test_example_subjects_are_kept_out_of_training() -> None:
    """All eight are combinations that training never draws, two of them are of one class, and no two look alike."""
    things = [subject.thing for subject in SUBJECTS]
    assert len(things) == 8
    assert all(map(world.kept_out, things))
    assert Counter(thing.kind for thing in things)["dog"] == 2
    assert len({(thing.main, thing.second) for thing in things}) == 8
    first, again = photos(SUBJECTS[0]), photos(SUBJECTS[0])
    assert [a.tobytes() for a in first] == [b.tobytes() for b in again], "the same pictures each time"
    assert len({picture.tobytes() for picture in first}) == 5
