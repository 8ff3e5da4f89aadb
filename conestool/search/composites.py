"""Subjects among other things: their photos put in the place of their classes in scenes that the base model draws.

Photos show a subject alone and large, and what is learned from them alone is weak where it stands small, late in a
prompt, and beside others. Ours; the cut-outs are found by `images.segmentation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from conestool.images.class_images import GROUP_SIZE
from conestool.images.pasting import paste_subject
from conestool.images.photos import square, to_latents
from conestool.images.segmentation import diffedit_difference
from conestool.search.context import SearchContext
from conestool.search.subject import joined, phrasings

_MAX_OBJECTS = 4
"""Things of a scene at most."""
_SIDE_RANGE = 0.3, 0.6
"""The smallest and the largest side that a subject is given, as shares of the scene's."""


@dataclass(frozen=True)
class Subject:
    """A subject: its class noun, its phrase ("sks dog"), and photos of it."""

    noun: str
    phrase: str
    photos: Sequence[Image.Image]


@dataclass(frozen=True)
class CompositeSpec:
    """Things by their nouns, in the order of the prompt; `subjects` has for some of the places the subject's number."""

    nouns: tuple[str, ...]
    subjects: Mapping[int, int]

    def prompt(self, words: Mapping[int, str] | None = None) -> str:
        """ "a photo of a cat, a car and a dog", with other words at some of the places."""
        return self.prompts(words)[0]

    def prompts(self, words: Mapping[int, str] | None = None) -> list[str]:
        """All phrasings of it; where words stand must not decide what they mean."""
        return phrasings(joined([(words or {}).get(place, noun) for place, noun in enumerate(self.nouns)]))

    def instance_prompts(self, subjects: Sequence[Subject]) -> list[str]:
        """The prompts with the subjects' phrases."""
        return self.prompts({place: subjects[number].phrase for place, number in self.subjects.items()})


@dataclass(frozen=True)
class Composites:
    """m scenes with subjects in them, and how much of every cell of the latents is theirs, (m, 1, h, w), 0 to 1."""

    specs: Sequence[CompositeSpec]
    images: Sequence[Image.Image]
    subject_masks: Tensor


def sample_specs(nouns: Sequence[str], others: Sequence[str], count: int, seed: int) -> list[CompositeSpec]:
    """`count` scenes of two to four things: the first subject of `nouns` at every place in turn, and at random some of
    the other subjects, as many as there is room for, and some of the `others`."""
    rng = Random(f"scenes {seed} {' '.join(nouns)}")
    free = [noun for noun in others if noun not in nouns]
    specs = []
    for index in range(count):
        size = 2 + index % (_MAX_OBJECTS - 1)
        chosen = rng.sample(range(1, len(nouns)), min(len(nouns), size) - 1)
        rest = rng.sample(free, min(size - 1 - len(chosen), len(free)))
        things = [(nouns[number], number) for number in chosen] + [(noun, -1) for noun in rest]
        rng.shuffle(things)
        things.insert(index // (_MAX_OBJECTS - 1) % (len(things) + 1), (nouns[0], 0))
        subjects = {place: number for place, (_, number) in enumerate(things) if number >= 0}
        specs.append(CompositeSpec(tuple(noun for noun, _ in things), subjects))
    return specs


def compose(
    context: SearchContext,
    specs: Sequence[CompositeSpec],
    drawn: Sequence[Image.Image],
    subjects: Sequence[Subject],
    *,
    others: Sequence[str],
) -> Composites:
    """Put photos of the `subjects` into the `drawn` scenes, where the base model drew their classes.

    Both are found by asking the model what changes when another of the nouns `others` takes the class's place. Of
    several processes all have what the first one finds.
    """
    model, seed, processes = context.model, context.config.seed, context.processes
    batch = context.resources.image_batch_size(GROUP_SIZE)
    images = [image.convert("RGB") for image in drawn]
    side = model.defaults.size // model.vae_scale_factor
    subject_masks = torch.zeros(len(images), 1, side, side)
    for number, subject in enumerate(subjects):
        places = [(row, place) for row, s in enumerate(specs) for place, who in s.subjects.items() if who == number]
        if not places:
            continue
        photos = [square(photo, model.defaults.size) for photo in subject.photos]
        cuts = locate_subject(context, to_latents(model, photos, batch=batch), subject.noun, others)
        scenes = to_latents(model, [drawn[row] for row, _ in places], batch=batch)
        spots = _locate(context, scenes, [(specs[row], place) for row, place in places], others, seed + 1)
        for turn, ((row, _), spot) in enumerate(zip(places, spots, strict=True)):
            photo, cut = photos[turn % len(photos)], cuts[turn % len(cuts)]
            images[row], region = paste_subject(images[row], spot, photo, cut, sides=_SIDE_RANGE)
            subject_masks[row, 0] = torch.maximum(subject_masks[row, 0], region)
    pixels = processes.broadcast(torch.from_numpy(np.stack([np.asarray(image) for image in images])))
    return Composites(specs, [Image.fromarray(each.numpy()) for each in pixels], processes.broadcast(subject_masks))


def locate_subject(context: SearchContext, latents: Tensor, noun: str, others: Sequence[str]) -> Tensor:
    """Where photos, as `latents` (m, c, h, w), show the thing that `noun` names, (m, h, w), boolean.

    Asked is what changes when another noun takes its place. Of several processes each asks for itself.
    """
    alone = CompositeSpec((noun,), {0: 0})
    return _locate(context, latents, [(alone, 0)] * len(latents), others, context.config.seed)


def _locate(
    context: SearchContext,
    latents: Tensor,
    shown: Sequence[tuple[CompositeSpec, int]],
    others: Sequence[str],
    seed: int,
) -> Tensor:
    """Where pictures, as `latents`, show what is at a place of their scenes, (m, h, w), boolean."""
    free = [[noun for noun in others if noun not in spec.nouns] or ["thing"] for spec, _ in shown]
    instead = [[s.prompt({at: noun}) for noun in nouns] for (s, at), nouns in zip(shown, free, strict=True)]
    batch = context.resources.image_batch_size(GROUP_SIZE)
    return diffedit_difference(context.model, latents, [spec.prompt() for spec, _ in shown], instead, seed, batch) > 1
