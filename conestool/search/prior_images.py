"""The base model's own pictures, of the class and of other things, against which a concept must not drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from conestool.errors import PhotoError
from conestool.images.class_images import GROUP, class_images, undrawn
from conestool.models.model import Model
from conestool.search.composites import Scene, plan
from conestool.search.config import PLENTY, Resources, Settings
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.events import Progress, Report, ignore
from conestool.search.subject import class_prompts

__all__ = ["Priors", "draw_priors", "other_images", "other_nouns", "to_draw"]

NOUNS = ("dog", "horse", "bird", "flower", "boat", "chair", "cup", "bicycle")
"""What a model that names no objects of its own must not forget. Our choice; none of them is in evaluate.wording."""
MOST, LEFT = 8, 6


@dataclass(frozen=True)
class Priors:
    """Pictures of the class; `others` of `nouns`, one after the other and then again; and those `drawn` of `scenes`."""

    of_class: Sequence[Image.Image]
    others: Sequence[Image.Image] = ()
    nouns: Sequence[str] = ()
    drawn: Sequence[Image.Image] = ()
    scenes: Sequence[Scene] = ()

    @property
    def prompts(self) -> list[list[str]]:
        """The prompts of each of `others`."""
        return [class_prompts(self.nouns[number % len(self.nouns)]) for number in range(len(self.others))]


def other_images(settings: Settings) -> int:
    """How many pictures of other things: as many as class images are learned from. Our choice."""
    return settings.class_images - settings.class_images // 4 if settings.others else 0


def scene_images(settings: Settings, subjects: int = 1) -> int:
    """How many scenes for one of so many `subjects`: of two or fewer as many as class images are learned from, of more
    as many for all together, but a third of that at least. Our choice."""
    most = settings.class_images - settings.class_images // 4 if settings.scenes else 0
    return max(most // 3, min(most, 2 * most // subjects))


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
    processes: DistributedState = SINGLE_PROCESS,
    beside: Sequence[str] = (),
) -> Priors:
    """What a search needs of the model's pictures, from the cache where they are there; `given` are of the class.

    Subjects of the nouns `beside` share the scenes. PhotoError with fewer than two of the class.
    """
    shared = (settings.seed, progress, resources, processes)
    of_class = list(given or draw(model, class_prompts(noun)[0], settings.class_images, "class images", *shared))
    if len(of_class) < 2:
        raise PhotoError(f"fewer than 2 class images of {noun}", "give several, or let the model draw them")
    count, nouns = other_images(settings), other_nouns(model.settings, noun)
    others = draw(model, [class_prompts(each)[0] for each in nouns], count, "other images", *shared) if count else ()
    scenes = plan((noun, *beside), nouns, scene_images(settings, 1 + len(beside)), settings.seed)
    drawn = draw(model, [each.prompt() for each in scenes], len(scenes), "scenes", *shared) if scenes else []
    return Priors(of_class, others, nouns, drawn, scenes)


def to_draw(model: Model, noun: str, settings: Settings, given: bool) -> int:
    """How many pictures `draw_priors` would have to draw, with pictures of the class `given` or not."""
    nouns = other_nouns(model.settings, noun)
    count = 0 if given else undrawn(model, class_prompts(noun)[0], settings.class_images, settings.seed)
    count += undrawn(model, [class_prompts(each)[0] for each in nouns], other_images(settings), settings.seed)
    scenes = [each.prompt() for each in plan((noun,), nouns, scene_images(settings), settings.seed)]
    return count + undrawn(model, scenes, len(scenes), settings.seed)


def draw(
    model: Model,
    prompt: str | Sequence[str],
    count: int,
    what: str,
    seed: int,
    progress: Report,
    resources: Resources,
    processes: DistributedState,
) -> list[Image.Image]:
    """Pictures by the base model; of several processes the first draws them, and gives them to the others."""

    def tell(done: int, total: int) -> None:
        progress(Progress(what, done, total))

    side = model.defaults.size
    pixels = np.zeros((count, side, side, 3), np.uint8)
    if processes.is_main_process:
        drawn = class_images(model, prompt, count, seed, batch=resources.pictures(GROUP), progress=tell)
        if processes.num_processes == 1:
            return drawn
        pixels = np.stack([np.asarray(image) for image in drawn])
    return [Image.fromarray(each.numpy()) for each in processes.broadcast(torch.from_numpy(pixels))]
