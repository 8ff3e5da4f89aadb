"""What is true of scenes in the terms of the attribute judge: labels for its training and for auxiliary losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from conestool.evaluation.judge import World
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
#: How many places a scene has, and the code of an attribute that nobody can see.
PLACES, ABSENT = len(WORLD.layouts), -100

#: Markings of which headwear leaves next to nothing to see, by animal: what nobody can see is no label.
HIDDEN: dict[str, tuple[str, ...]] = {
    "star": tuple(kind for kind in world.ANIMALS if kind != "frog"),
    "stripes": ("dog", "rabbit", "elephant", "lion"),
}


def hidden(thing: Thing) -> set[str]:
    """Return the heads whose value headwear covers: the marking, and the second colour if only that would show it."""
    if not thing.headwear or thing.kind not in HIDDEN.get(thing.pattern, ()):
        return set()
    return {"pattern"} if thing.second in (thing.ear_colour, thing.muzzle) else {"pattern", "second"}


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


def _codes(thing: Thing) -> list[int]:
    """Return the code of each head of one thing; `ABSENT` where it cannot be seen, as the colour of a hat not worn."""
    labels = labels_of(thing)
    unseen = hidden(thing) | {name for wear in WORLD.wear if not labels[wear] for name in WORLD.details(wear)}
    return [ABSENT if name in unseen else values.index(labels[name]) for name, values in WORLD.heads.items()]


def truth_of(drawn: Sequence[Scene]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the counts (B,), backgrounds (B,) and, over all things in order, the codes of each head (N,)."""
    counts = torch.tensor([len(scene.things) for scene in drawn])
    places = torch.tensor([BACKGROUNDS.index(scene.background) for scene in drawn])
    codes = torch.tensor([_codes(thing) for scene in drawn for thing in scene.things])
    return counts, places, dict(zip(WORLD.heads, codes.unbind(1), strict=True))


def codes_of(drawn: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Return the codes of each head for each place, and the backgrounds: (B, 4, heads) and (B,), both int8.

    Places that are not taken are `ABSENT` too, which cross-entropy ignores.
    """
    things = torch.full((len(drawn), PLACES, len(WORLD.heads)), ABSENT, dtype=torch.int8)
    for row, scene in enumerate(drawn):
        for place, thing in enumerate(scene.things):
            things[row, place] = torch.tensor(_codes(thing))
    places = [BACKGROUNDS.index(scene.background) for scene in drawn]
    return things, torch.tensor(places, dtype=torch.int8)
