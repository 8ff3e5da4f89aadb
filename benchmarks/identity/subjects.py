"""Who is shown, in which scenes, and who stands beside them in a line-up."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from conestool.evaluation.alignment import pixels
from conestool.evaluation.attribute_metric import attributes_of
from conestool.evaluation.judge import SIDE, AttributeJudge
from conestool.images.photos import Photo, read_photo, read_photos
from examples.cast import SUBJECTS, draw
from examples.openmoji.draw import UNSEEN
from examples.photos import take_unseen_photo
from training.pocket import captions, scenes, world
from training.pocket.labels import WORLD, labels_of
from training.pocket.sprites import SpriteBank
from training.pocket.world import Scene, Thing

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Settings and rates are chosen on the first four; the rest are looked at for the report only.
DEVELOPMENT = ("rex", "hat", "cat", "car")
TEST = ("luna", "rabbit", "bear", "robot")
#: Drawings of another designer, outside pocket's world.
OUTSIDE = ("openmoji/dog", "openmoji/cat", "openmoji/car", "openmoji/hat")
#: How many stand in a line-up, and the seed that draws the others.
LINE_UP, LINE_UP_SEED = 8, 4400
#: Where a subject is shown: backgrounds, what it wears, in company. Inanimate subjects wear nothing.
BACKGROUNDS = tuple(f"a {{}} {place}" for place in (
    "on the beach", "in a field", "in the snow", "at night", "in front of a brick wall", "on a checkerboard",
    "on the street", "in the forest", "on a yellow background",
))  # fmt: skip
WEARING = ("a {} in a red cap", "a {} wearing glasses", "a {} in a crown", "a {} with a blue scarf")
COMPANY = ("a {} next to a car", "a {} and a house", "a {} next to a green boat", "a {} and a frog")


@dataclass(frozen=True)
class Subject:
    """A subject: its key, which is its folder below examples/, and its class noun."""

    key: str
    noun: str
    thing: Thing | None = None

    @property
    def half(self) -> str:
        """Tell the half it belongs to: development, test or outside."""
        return "development" if self.key in DEVELOPMENT else "test" if self.key in TEST else "outside"

    @property
    def name(self) -> str:
        """The name of its concept."""
        return self.key.replace("/", "-")

    @property
    def identifier(self) -> str:
        """One of its own among all subjects, so that any of them can stand in one picture."""
        return world.IDENTIFIERS[(*DEVELOPMENT, *TEST, *OUTSIDE).index(self.key)]

    @cached_property
    def photos(self) -> list[Photo]:
        """Its photos."""
        return read_photos([EXAMPLES / self.key])[0]

    @property
    def unseen_photos(self) -> list[Image.Image]:
        """A photo beside those in its folder, from which nothing is learned."""
        if self.thing is None:
            return [read_photo(UNSEEN / f"{self.noun}.jpg").image]
        thing = self.thing
        return [take_unseen_photo(self.key, lambda side: draw(thing, side))]

    @property
    def description(self) -> str | None:
        """All that words can say of it, as a caption would, without an article; None if it is not of pocket's world."""
        if self.thing is None:
            return None
        phrase = captions.thing_phrase(random.Random(LINE_UP_SEED), self.thing, captions.ATTRIBUTES)
        return phrase.partition(" ")[2]

    def templates(self) -> Iterator[str]:
        """Yield the scenes it is shown in."""
        yield from BACKGROUNDS
        yield from WEARING if self.noun in world.ANIMALS else ()
        yield from (template for template in COMPANY if f" {self.noun}" not in template)


def subject_of(key: str) -> Subject:
    """Return the subject whose photos lie in examples/KEY."""
    thing = next((each.thing for each in SUBJECTS if each.folder == key), None)
    kind = thing.kind if thing else key.rpartition("/")[2]
    return Subject(key, "hat" if kind in world.HATS else kind, thing)


class LineUp:
    """The subject and seven individuals of its class, by what they are and by how the judge sees them."""

    def __init__(self, subject: Subject, judge: AttributeJudge, bank: SpriteBank) -> None:
        rng, self.judge = random.Random(LINE_UP_SEED), judge
        photos = pixels([photo.image for photo in subject.photos], SIDE)
        own = labels_of(subject.thing) if subject.thing else attributes_of(judge.read(photos), WORLD.identity)
        self.wanted = {name: own[name] for name in WORLD.identity if own.get(name)}
        others = [_another(rng, subject) for _ in range(LINE_UP - 1)]
        told = [{name: value for name, value in labels_of(each).items() if name in self.wanted} for each in others]
        self.attributes = [self.wanted, *told]
        alone = [Scene(things=(each,), background="plain") for each in others for _ in range(len(photos))]
        drawn = scenes.compose(alone, bank, LINE_UP_SEED)
        shown = torch.split(torch.cat([photos, drawn]), len(photos))
        self.features = torch.stack([self.features_of(each).mean(0) for each in shown])
        self.centre = self.features.mean(0)

    @torch.no_grad()
    def features_of(self, images: Tensor) -> Tensor:
        """Return the judge's features (N, 256) of the only thing in each of the images (N, 3, 64, 64)."""
        squares, _ = self.judge.crops(images, torch.ones(len(images), dtype=torch.long))
        return self.judge.features(squares)


def _another(rng: random.Random, subject: Subject) -> Thing:
    """Draw another individual of the subject's class."""
    kind = subject.thing.kind if subject.thing else subject.noun
    if kind in world.ANIMALS:
        return world.sample_animal(rng, kind)
    if kind in world.THINGS:
        return world.sample_thing(rng, kind)
    return world.sample_wearable(rng, kind if kind in world.HATS else "top hat")
