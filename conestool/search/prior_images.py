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
from conestool.search.composites import CompositeSpec, sample_specs
from conestool.search.config import DEFAULT_RESOURCES, Resources, SearchConfig
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.events import Callback, Progress, no_callback
from conestool.search.subject import class_prompts

__all__ = ["PriorImages", "draw_prior_images", "num_images_to_draw", "num_other_images", "preserved_classes"]

COMMON_CLASSES = ("dog", "horse", "bird", "flower", "boat", "chair", "cup", "bicycle")
"""What a model that names no objects of its own must not forget. Our choice; none of them is in evaluate.wording."""
MAX_CLASSES, NUM_EVAL_CLASSES = 8, 6


@dataclass(frozen=True)
class PriorImages:
    """Pictures of the class; `other_images` of `other_classes` in turns; `scene_images` of the `composite_specs`."""

    class_images: Sequence[Image.Image]
    other_images: Sequence[Image.Image] = ()
    other_classes: Sequence[str] = ()
    scene_images: Sequence[Image.Image] = ()
    composite_specs: Sequence[CompositeSpec] = ()

    @property
    def other_prompts(self) -> list[list[str]]:
        """The prompts of each of `other_images`."""
        return [
            class_prompts(self.other_classes[number % len(self.other_classes)])
            for number in range(len(self.other_images))
        ]


def num_other_images(config: SearchConfig) -> int:
    """How many pictures of other things: as many as class images are learned from. Our choice."""
    return config.num_class_images - config.num_class_images // 4 if config.other_class_weight else 0


def num_scene_images(config: SearchConfig, subjects: int = 1) -> int:
    """How many scenes for one of so many `subjects`: of two or fewer as many as class images are learned from, of more
    as many for all together, but a third of that at least. Our choice."""
    most = config.num_class_images - config.num_class_images // 4 if config.composite_weight else 0
    return max(most // 3, min(most, 2 * most // subjects))


def preserved_classes(model_settings: dict[str, Any], taken: str) -> tuple[str, ...]:
    """Nouns besides `taken` that the model must not forget: some of those in its pocket.json, else common ones.

    The first of the model's own are left to evaluations (half of them, six at most), which thus see nouns that no
    search has seen; of the rest at most eight, evenly spaced, since lists have like beside like.
    """
    own = model_settings.get("objects")
    known = [str(noun) for noun in own] if isinstance(own, list) else []
    free = [noun for noun in known or COMMON_CLASSES if noun.casefold() != taken.casefold()]
    rest = free[min(NUM_EVAL_CLASSES, len(free) // 2) :] if known else free
    return tuple(rest[:: max(1, -(-len(rest) // MAX_CLASSES))])


def draw_prior_images(
    model: Model,
    noun: str,
    config: SearchConfig,
    given: Sequence[Image.Image] | None = None,
    callback: Callback = no_callback,
    resources: Resources = DEFAULT_RESOURCES,
    processes: DistributedState = SINGLE_PROCESS,
    beside: Sequence[str] = (),
) -> PriorImages:
    """What a search needs of the model's pictures, from the cache where they are there; `given` are of the class.

    Subjects of the nouns `beside` share the scenes. PhotoError with fewer than two of the class.
    """
    shared = (config.seed, callback, resources, processes)
    of_class = list(given or draw(model, class_prompts(noun)[0], config.num_class_images, "class images", *shared))
    if len(of_class) < 2:
        raise PhotoError(f"fewer than 2 class images of {noun}", "give several, or let the model draw them")
    count, nouns = num_other_images(config), preserved_classes(model.settings, noun)
    others = draw(model, [class_prompts(each)[0] for each in nouns], count, "other images", *shared) if count else ()
    scenes = sample_specs((noun, *beside), nouns, num_scene_images(config, 1 + len(beside)), config.seed)
    drawn = draw(model, [each.prompt() for each in scenes], len(scenes), "composites", *shared) if scenes else []
    return PriorImages(of_class, others, nouns, drawn, scenes)


def num_images_to_draw(model: Model, noun: str, config: SearchConfig, given: bool) -> int:
    """How many pictures `draw_prior_images` would have to draw, with pictures of the class `given` or not."""
    nouns = preserved_classes(model.settings, noun)
    count = 0 if given else undrawn(model, class_prompts(noun)[0], config.num_class_images, config.seed)
    count += undrawn(model, [class_prompts(each)[0] for each in nouns], num_other_images(config), config.seed)
    scenes = [each.prompt() for each in sample_specs((noun,), nouns, num_scene_images(config), config.seed)]
    return count + undrawn(model, scenes, len(scenes), config.seed)


def draw(
    model: Model,
    prompt: str | Sequence[str],
    count: int,
    what: str,
    seed: int,
    callback: Callback,
    resources: Resources,
    processes: DistributedState,
) -> list[Image.Image]:
    """Pictures by the base model; of several processes the first draws them, and gives them to the others."""

    def tell(done: int, total: int) -> None:
        callback(Progress(what, done, total))

    side = model.defaults.size
    pixels = np.zeros((count, side, side, 3), np.uint8)
    if processes.is_main_process:
        drawn = class_images(model, prompt, count, seed, batch=resources.image_batch_size(GROUP), progress=tell)
        if processes.num_processes == 1:
            return drawn
        pixels = np.stack([np.asarray(image) for image in drawn])
    return [Image.fromarray(each.numpy()) for each in processes.broadcast(torch.from_numpy(pixels))]
