"""What is true of scenes in the terms of the attribute judge: labels for its training and for auxiliary losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from conestool.evaluation.attributes import World
from training.pocket import captions, scenes, world
from training.pocket.world import Scene, Thing

BACKGROUNDS = ("plain", *world.BACKGROUNDS, *world.COLOURS)
COLOURS = ("", *world.COLOURS)
PATTERNS = tuple(dict.fromkeys((*world.MARKINGS, *world.PATTERNS, *world.HAT_PATTERNS)))
WORLD = World(
    heads={
        "class": world.CLASSES,
        "main": tuple(world.COLOURS),
        "second": COLOURS,
        "pattern": PATTERNS,
        "outline": world.OUTLINES,
        "ears": tuple(dict.fromkeys(("", *(e for ears in world.EARS.values() for e in ears)))),
        "ear colour": COLOURS,
        "muzzle": ("", "pale", *world.COLOURS),
        "eyes": ("", *world.EYES),
        "variant": ("", *(v for variants in world.VARIANTS.values() for v in variants)),
        "headwear": ("", *world.HEADWEAR),
        "headwear main": COLOURS,
        "headwear second": COLOURS,
        "headwear pattern": ("", *world.HAT_PATTERNS),
        "other wear": ("", *world.OTHER_WEAR),
        "other wear main": COLOURS,
    },
    backgrounds=BACKGROUNDS,
    layouts=tuple(scenes.LAYOUTS[count] for count in sorted(scenes.LAYOUTS)),
    phrases=captions.PLACES | {colour: (f"{colour} background",) for colour in world.COLOURS},
    kinds={"hat": world.HATS},
    wear=("headwear", "other wear"),
)
#: How many places a scene has, and the code of an attribute of a place that is not taken.
PLACES, ABSENT = len(WORLD.layouts), -100


def labels_of(thing: Thing) -> dict[str, str]:
    """Return the true values of every head for one thing."""
    head, other = thing.headwear, thing.other_wear
    return {
        "class": thing.kind,
        "main": thing.main,
        "second": thing.second,
        "pattern": thing.pattern,
        "outline": thing.outline,
        "ears": thing.ears,
        "ear colour": thing.ear_colour,
        "muzzle": thing.muzzle,
        "eyes": thing.eyes,
        "variant": thing.variant,
        "headwear": head.kind if head else "",
        "headwear main": head.main if head else "",
        "headwear second": head.second if head else "",
        "headwear pattern": head.pattern if head and head.kind in world.HATS else "",
        "other wear": other.kind if other else "",
        "other wear main": other.main if other else "",
    }


def truth_of(drawn: Sequence[Scene]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the counts (B,), backgrounds (B,) and, over all things in order, the values of each head (N,)."""
    counts = torch.tensor([len(scene.things) for scene in drawn])
    places = torch.tensor([BACKGROUNDS.index(scene.background) for scene in drawn])
    labels = [labels_of(thing) for scene in drawn for thing in scene.things]
    heads = {name: torch.tensor([values.index(each[name]) for each in labels]) for name, values in WORLD.heads.items()}
    return counts, places, heads


def codes_of(drawn: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Return the values of each head for each place, and the backgrounds: (B, 4, heads) and (B,), both int8.

    Places that are not taken are `ABSENT`, which cross-entropy ignores.
    """
    things = torch.full((len(drawn), PLACES, len(WORLD.heads)), ABSENT, dtype=torch.int8)
    for row, scene in enumerate(drawn):
        for place, thing in enumerate(scene.things):
            labels = labels_of(thing)
            codes = [values.index(labels[name]) for name, values in WORLD.heads.items()]
            things[row, place] = torch.tensor(codes, dtype=torch.int8)
    places = [BACKGROUNDS.index(scene.background) for scene in drawn]
    return things, torch.tensor(places, dtype=torch.int8)
