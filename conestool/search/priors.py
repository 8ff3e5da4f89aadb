"""The base model's own pictures, of the class and of other things, against which a concept must not drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from conestool.diffusion.models import Model
from conestool.diffusion.prior import GROUP, class_images, undrawn
from conestool.errors import PhotoError
from conestool.search.events import Progress, Report, ignore
from conestool.search.processes import ALONE, Processes
from conestool.search.resources import PLENTY, Resources
from conestool.search.settings import Settings
from conestool.search.subject import class_prompts

__all__ = ["Priors", "draw_priors", "other_images", "other_nouns", "to_draw"]

NOUNS = ("dog", "horse", "bird", "flower", "boat", "chair", "cup", "bicycle")
"""What a model that names no objects of its own must not forget. Our choice; none of them is in evaluate.wording."""
MOST, LEFT = 8, 6


@dataclass(frozen=True)
class Priors:
    """Pictures of the class, and `others` of `nouns`, one after the other and then again from the first."""

    of_class: Sequence[Image.Image]
    others: Sequence[Image.Image] = ()
    nouns: Sequence[str] = ()

    @property
    def prompts(self) -> list[list[str]]:
        """The prompts of each of `others`."""
        return [class_prompts(self.nouns[number % len(self.nouns)]) for number in range(len(self.others))]


def other_images(settings: Settings) -> int:
    """How many pictures of other things: as many as class images are learned from. Our choice."""
    return settings.class_images - settings.class_images // 4 if settings.others else 0


def other_nouns(settings: dict[str, Any], taken: str) -> tuple[str, ...]:
    """Nouns besides `taken` that the model must not forget: some of those in its pocket.json, else common ones.

    The first of the model's own are left to evaluations (half of them, six at most), which thus see nouns that no
    search has seen; of the rest at most eight, evenly spaced, since lists have like beside like.
    """
    own = settings.get("objects")
    known = [str(noun) for noun in own] if isinstance(own, list) else []
    free = [noun for noun in known or NOUNS if noun.casefold() != taken.casefold()]
    rest = free[min(LEFT, len(free) // 2) :] if known else free
    return tuple(rest[:: max(1, -(-len(rest) // MOST))])


def draw_priors(
    model: Model,
    noun: str,
    settings: Settings,
    given: Sequence[Image.Image] | None = None,
    progress: Report = ignore,
    resources: Resources = PLENTY,
    processes: Processes = ALONE,
) -> Priors:
    """What a search needs of the model's pictures, from the cache where they are there; `given` are of the class.

    PhotoError with fewer than two of the class.
    """
    shared = (settings.seed, progress, resources, processes)
    of_class = list(given or draw(model, class_prompts(noun)[0], settings.class_images, "class images", *shared))
    if len(of_class) < 2:
        raise PhotoError(f"fewer than 2 class images of {noun}", "give several, or let the model draw them")
    count, nouns = other_images(settings), other_nouns(model.settings, noun)
    if not count:
        return Priors(of_class)
    prompts = [class_prompts(each)[0] for each in nouns]
    return Priors(of_class, draw(model, prompts, count, "other images", *shared), nouns)


def to_draw(model: Model, noun: str, settings: Settings, given: bool) -> int:
    """How many pictures `draw_priors` would have to draw, with pictures of the class `given` or not."""
    of_class, others = class_prompts(noun)[0], [class_prompts(each)[0] for each in other_nouns(model.settings, noun)]
    count = 0 if given else undrawn(model, of_class, settings.class_images, settings.seed)
    return count + undrawn(model, others, other_images(settings), settings.seed)


def draw(
    model: Model,
    prompt: str | Sequence[str],
    count: int,
    what: str,
    seed: int,
    progress: Report,
    resources: Resources,
    processes: Processes,
) -> list[Image.Image]:
    """Pictures by the base model; of several processes the first draws them, and gives them to the others."""

    def tell(done: int, total: int) -> None:
        progress(Progress(what, done, total))

    side = model.defaults.size
    pixels = np.zeros((count, side, side, 3), np.uint8)
    if processes.first:
        drawn = class_images(model, prompt, count, seed, batch=resources.pictures(GROUP), progress=tell)
        if processes.size == 1:
            return drawn
        pixels = np.stack([np.asarray(image) for image in drawn])
    return [Image.fromarray(each.numpy()) for each in processes.give(torch.from_numpy(pixels))]
