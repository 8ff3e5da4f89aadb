"""What pictures show of a subject and of their prompt, attribute by attribute, by the judge of pocket's world."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conestool.evaluation.alignment import Images, pixels
from conestool.evaluation.judge import SIDE, AttributeJudge, Reading, load_judge
from conestool.evaluation.prompts import Prompt


def attributes_of(readings: Sequence[Reading], names: Sequence[str]) -> dict[str, str]:
    """Return what an individual is, as most pictures of it alone read: the named attributes that it has."""
    firsts = [reading.things[0] for reading in readings]
    found = {name: Counter(thing[name] for thing in firsts).most_common(1)[0][0] for name in names}
    return {name: value for name, value in found.items() if value}


def kept(thing: Mapping[str, str], wanted: Mapping[str, str]) -> float:
    """Return the share of the `wanted` attributes that a thing has."""
    return sum(thing[name] == value for name, value in wanted.items()) / len(wanted)


@dataclass
class AttributeMetric:
    """Pocket's judge of attributes, in both measures of our own definition.

    Image: of the attributes that the subject has in most of its photos (what it wears aside), the share that is read of
    the thing in the picture that has most of them. Text: the share of the background, things and worn things that the
    rest of the prompt names and that are read in the picture.
    """

    judge: AttributeJudge
    name: str = "attributes"

    def read(self, images: Images) -> list[Reading]:
        """Return what is in each picture."""
        return self.judge.read(pixels(images, SIDE)) if images else []

    def image(self, pictures: Images, photos: Images, base_images: Images) -> Tensor | None:
        """See the class; `base_images` are not used."""
        wanted = attributes_of(self.read(photos), self.judge.world.identity)
        shares = [max(kept(thing, wanted) for thing in reading.things) for reading in self.read(pictures)]
        return torch.tensor(shares)

    def text(self, pictures: Images, prompts: Sequence[Prompt]) -> Tensor | None:
        """See the class; NaN where the rest of a prompt names nothing that the judge knows."""
        return torch.tensor(
            [
                self.obeyed(reading, prompt.background_text)
                for reading, prompt in zip(self.read(pictures), prompts, strict=True)
            ]
        )

    def obeyed(self, reading: Reading, rest: str) -> float:
        """Return the share of what the words of a prompt without its subject ask for that a reading has."""
        background, things = self.asked(rest)
        seen = reading.classes(self.judge.world.wear)
        checks = [reading.background == background] if background else []
        checks += [bool(seen & set(classes)) for classes in things]
        return sum(checks) / len(checks) if checks else float("nan")

    def asked(self, rest: str) -> tuple[str, list[tuple[str, ...]]]:
        """Return the background ("" if none) and, for each thing, the classes that words ask for."""
        world, words = self.judge.world, f" {' '.join(rest.lower().split())} "
        background = ""
        for place, phrases in world.phrases.items():
            for phrase in phrases:
                if f" {phrase} " in words:
                    background, words = place, words.replace(f" {phrase} ", " ")
        nouns = {value for name in ("class", *world.wear) for value in world.heads[name] if value} | set(world.kinds)
        found = []
        for noun in sorted(nouns, key=len, reverse=True):
            if f" {noun} " in words:
                found.append(world.classes(noun))
                words = words.replace(f" {noun} ", " ")
        return background, found

    def presence(self, pictures: Images, noun: str) -> float | None:
        """Return the share of pictures with a `noun`; None without pictures, or for a word of another world."""
        wanted, world = set(self.judge.world.classes(noun)), self.judge.world
        if not wanted or not pictures:
            return None
        seen = [bool(reading.classes(world.wear) & wanted) for reading in self.read(pictures)]
        return sum(seen) / len(seen)


def judge_for(settings: Mapping[str, Any]) -> AttributeMetric | None:
    """Return the packaged judge as a metric if it knows the objects that a model's pocket.json lists, else None."""
    objects = settings.get("objects")
    if not isinstance(objects, list) or not objects:
        return None
    judge = load_judge()
    return AttributeMetric(judge) if set(map(str, objects)) <= set(judge.world.heads["class"]) else None
