"""The base model's own pictures, of the class and of other things, against which a concept must not drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from conestool.errors import PhotoError
from conestool.images.class_images import GROUP_SIZE, class_images, count_missing
from conestool.search.composites import CompositeSpec, sample_specs
from conestool.search.config import SearchConfig
from conestool.search.context import SearchContext
from conestool.search.events import Progress
from conestool.search.subject import class_prompts

_COMMON_CLASSES = ("dog", "horse", "bird", "flower", "boat", "chair", "cup", "bicycle")
"""What a model that names no objects of its own must not forget. Our choice; none of them is in evaluate.wording."""
_MAX_CLASSES, _NUM_EVAL_CLASSES = 8, 6


@dataclass(frozen=True, kw_only=True)
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
    free = [noun for noun in known or _COMMON_CLASSES if noun.casefold() != taken.casefold()]
    rest = free[min(_NUM_EVAL_CLASSES, len(free) // 2) :] if known else free
    return tuple(rest[:: max(1, -(-len(rest) // _MAX_CLASSES))])


def draw_prior_images(
    context: SearchContext, noun: str, given: Sequence[Image.Image] | None = None, *, beside: Sequence[str] = ()
) -> PriorImages:
    """What a search needs of the model's pictures, from the cache where they are there; `given` are of the class.

    Subjects of the nouns `beside` share the scenes. PhotoError with fewer than two of the class.
    """
    model, config = context.model, context.config

    def draw(prompt: str | tuple[str, ...], count: int, what: str) -> list[Image.Image]:
        return context.once((prompt, count), lambda: _draw_images(context, prompt, count, what))

    own = given or draw(class_prompts(noun)[0], config.num_class_images, "class images")
    if len(own) < 2:
        raise PhotoError(f"fewer than 2 class images of {noun}", "give several, or let the model draw them")
    nouns, count = preserved_classes(model.settings, noun), num_other_images(config)
    specs = sample_specs((noun, *beside), nouns, num_scene_images(config, 1 + len(beside)), config.seed)
    return PriorImages(
        class_images=own,
        other_images=draw(tuple(class_prompts(each)[0] for each in nouns), count, "other images"),
        other_classes=nouns,
        scene_images=draw(tuple(each.prompt() for each in specs), len(specs), "composites"),
        composite_specs=specs,
    )


def num_images_to_draw(context: SearchContext, noun: str, given: bool) -> int:
    """How many pictures `draw_prior_images` would have to draw, with pictures of the class `given` or not."""
    model, config = context.model, context.config
    nouns = preserved_classes(model.settings, noun)
    count = 0 if given else count_missing(model, class_prompts(noun)[0], config.num_class_images, config.seed)
    count += count_missing(model, [class_prompts(each)[0] for each in nouns], num_other_images(config), config.seed)
    scenes = [each.prompt() for each in sample_specs((noun,), nouns, num_scene_images(config), config.seed)]
    return count + count_missing(model, scenes, len(scenes), config.seed)


def _draw_images(context: SearchContext, prompt: str | Sequence[str], count: int, what: str) -> list[Image.Image]:
    """Pictures by the base model; of several processes the first draws them, and gives them to the others."""

    def tell(done: int, total: int) -> None:
        context.callback(Progress(what, done, total))

    if not count:
        return []
    model, processes = context.model, context.processes
    side = model.defaults.size
    pixels = np.zeros((count, side, side, 3), np.uint8)
    if processes.is_main_process:
        batch = context.resources.image_batch_size(GROUP_SIZE)
        drawn = class_images(model, prompt, count, context.config.seed, batch=batch, progress=tell)
        if processes.num_processes == 1:
            return drawn
        pixels = np.stack([np.asarray(image) for image in drawn])
    return [Image.fromarray(each.numpy()) for each in processes.broadcast(torch.from_numpy(pixels))]
