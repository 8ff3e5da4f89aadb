"""The terms of L_con for one subject and the batches of its report: photos, pictures, prompts and captions, encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from conestool.errors import UsageError
from conestool.images.class_images import GROUP_SIZE
from conestool.images.photos import Photo, to_latents
from conestool.models.conditioning import Conditioning, MicroConditioning
from conestool.models.memory import in_parts
from conestool.models.model import Model
from conestool.models.noise_schedule import per_sample_loss, schedule_of, stratified_timesteps
from conestool.models.prompts import encode, identifiers, micro_conditioning
from conestool.search.batches import Batch, LatentImages, LossTerm
from conestool.search.composites import CompositeSpec, Subject, compose, locate_subject
from conestool.search.config import SearchConfig
from conestool.search.context import SearchContext
from conestool.search.objective import NUM_FROZEN_TARGETS, Objective
from conestool.search.parameters import FlatParameters
from conestool.search.prior_images import PriorImages
from conestool.search.report import EvalBatches
from conestool.search.subject import PhotoSplit, article, captioned_prompts, class_prompts, instance_prompts

__all__ = [
    "CAPTION_SAMPLES",
    "COMMON_BACKGROUNDS",
    "NUM_EVAL_SAMPLES",
    "SubjectPrompts",
    "background_phrases",
    "caption_photos",
    "encode_images",
    "prepare",
    "unbound_prompts",
]

NUM_EVAL_SAMPLES = 64
"""Samples of a loss of the report."""


@dataclass(frozen=True, kw_only=True)
class SubjectPrompts:
    """What the subject is called."""

    name: str
    class_noun: str
    identifier: str

    @property
    def phrase(self) -> str:
        """What stands for the subject in a prompt."""
        return f"{self.identifier} {self.class_noun}"

    @property
    def instance_prompts(self) -> list[str]:
        """The subject's prompts."""
        return instance_prompts(self.phrase)

    @property
    def class_prompts(self) -> list[str]:
        """The class's prompts."""
        return class_prompts(self.class_noun)


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What loss terms are made of; `photos` and `class_images` are latents of those to learn from.

    `photo_masks` (m, 1, h, w) are where the photos show the subject; None if all cells count alike.
    """

    context: SearchContext
    subject: SubjectPrompts
    split: PhotoSplit
    priors: PriorImages
    beside: Sequence[Subject]
    photos: LatentImages
    photo_masks: Tensor | None
    class_images: LatentImages

    def encode_images(self, images: Sequence[Image.Image]) -> LatentImages:
        """Their latents."""
        return encode_images(self.context.model, images, self.context.resources.image_batch_size(GROUP_SIZE))

    def make_term(self, name: str, images: LatentImages, texts: Sequence[Sequence[str]], **rest: Any) -> LossTerm:
        """A term of `images`, each under any of its `texts`; every text is encoded once."""
        rows = {text: row for row, text in enumerate(dict.fromkeys(text for own in texts for text in own))}
        choices = torch.tensor([[rows[text] for text in own] for own in texts])
        conditioning = encode(self.context.model, list(rows))
        kept = {"size": self.context.config.batch_size, "target": "frozen", **rest}
        return LossTerm(name=name, images=images, conditioning=conditioning, prompt_choices=choices, **kept)

    def make_photo_term(self, name: str, texts: Sequence[Sequence[str]], **rest: Any) -> LossTerm:
        """A term of the photos, in which the subject's cells have their share of the loss."""
        share = self.context.config.subject_share
        return self.make_term(name, self.photos, texts, subject_mask=self.photo_masks, subject_share=share, **rest)

    @property
    def subjects(self) -> list[Subject]:
        """The subject, and those that share its scenes."""
        own = self.subject
        return [Subject(own.class_noun, own.phrase, self.split.uncropped), *self.beside]

    @cached_property
    def scenes(self) -> tuple[LatentImages, Tensor]:
        """The scenes with the subjects in them, and where these are, (m, 1, h, w), 0 to 1."""
        priors = self.priors
        specs, drawn = priors.composite_specs, priors.scene_images
        made = compose(self.context, specs, drawn, self.subjects, others=priors.other_classes)
        return self.encode_images(made.images), made.subject_masks

    def make_scene_term(self, name: str, texts: Sequence[Sequence[str]], **rest: Any) -> LossTerm:
        """A term of the scenes, in which the subjects' cells have their share of the loss."""
        images, masks = self.scenes
        share = self.context.config.subject_share
        return self.make_term(name, images, texts, subject_mask=masks, subject_share=share, **rest)

    @property
    def shared_size(self) -> int:
        """Samples a step of class images and of pictures of other classes, which share those of one term.

        With as many of each, a step takes a third longer and finds nothing better (docs/method.md).
        """
        config = self.context.config
        both = config.prior_loss_weight and config.other_class_weight
        return max(1, config.batch_size // 2) if both else config.batch_size


def _instance_term(given: _Inputs) -> LossTerm:
    """The photos under the subject's prompts: what the search learns."""
    own, captions = given.subject, given.split.captions
    texts = [captioned_prompts(own.instance_prompts, own.phrase, own.class_noun, caption) for caption in captions]
    return given.make_photo_term("instance", texts, target="noise")


def _class_term(given: _Inputs) -> LossTerm:
    """The model's own pictures of the class: prior preservation."""
    texts = [given.subject.class_prompts] * len(given.class_images)
    return given.make_term("class", given.class_images, texts, size=given.shared_size)


def _unbound_term(given: _Inputs) -> LossTerm:
    """The photos under prompts that are not the subject's."""
    model, config = given.context.model, given.context.config
    texts = [unbound_prompts(model, given.subject, config, caption) for caption in given.split.captions]
    return given.make_photo_term("unbound", texts)


def _other_classes_term(given: _Inputs) -> LossTerm:
    """The model's own pictures of other classes."""
    images = given.encode_images(given.priors.other_images)
    return given.make_term("other_classes", images, given.priors.other_prompts, size=given.shared_size)


def _composites_term(given: _Inputs) -> LossTerm:
    """The subjects among other things: learned where they are; all else stays as their classes alone have it."""
    specs, subjects = given.priors.composite_specs, given.subjects
    texts = [spec.instance_prompts(subjects) for spec in specs]
    plain = {
        text: bare
        for spec, own in zip(specs, texts, strict=True)
        for text, bare in zip(own, spec.prompts(), strict=True)
    }
    background = encode(given.context.model, list(plain.values()))
    return given.make_scene_term("composites", texts, background_conditioning=background)


def _unbound_composites_term(given: _Inputs) -> LossTerm:
    """The same scenes under the classes alone, and under other identifiers."""
    model, config, specs = given.context.model, given.context.config, given.priors.composite_specs
    texts = [unbound_scene_prompts(model, given.subjects, config, spec) for spec in specs]
    return given.make_scene_term("unbound_composites", texts, size=max(1, config.batch_size // 2))


_TERMS: dict[str, Callable[[_Inputs], LossTerm]] = {
    "prior_loss_weight": _class_term,
    "unbound_weight": _unbound_term,
    "other_class_weight": _other_classes_term,
    "composite_weight": _composites_term,
    "unbound_composite_weight": _unbound_composites_term,
}
"""The terms of L_con besides the first, by the settings that are their weights; those with a weight of 0 are left out.

A new one goes to the end: the seeds of noise follow the order. Without a setting it has its weight by its name here:
`SearchConfig(term_weights={name: 1.0})`.
"""
_OF_CLASS = {_class_term: "class", _other_classes_term: "other_classes"}
"""Terms, with their names, that are the same for all subjects of a class noun."""


def _term_weights(config: SearchConfig) -> dict[str, float]:
    """The weight of every term; UsageError for one that is not there."""
    if unknown := config.term_weights.keys() - _TERMS.keys():
        raise UsageError(f"no loss term {', '.join(sorted(unknown))}", f"there are: {', '.join(_TERMS)}")
    derived = {"unbound_composite_weight": config.composite_weight * config.unbound_weight}
    weights = {name: derived.get(name, getattr(config, name, 0.0)) for name in _TERMS}
    return {name: config.term_weights.get(name, weight) for name, weight in weights.items()}


def prepare(
    context: SearchContext,
    params: FlatParameters,
    subject: SubjectPrompts,
    split: PhotoSplit,
    priors: PriorImages,
    *,
    beside: Sequence[Subject] = (),
    num_frozen_targets: int = NUM_FROZEN_TARGETS,
) -> tuple[Objective, EvalBatches]:
    """L_con for the search and the batches of the report; autoencoder and text encoder run here, and only here.

    `beside` are the subjects that share the scenes of `priors`, `num_frozen_targets` is as in `Objective`.
    """
    model, config, batch = context.model, context.config, context.resources.image_batch_size(GROUP_SIZE)
    noun = subject.class_noun
    photos, validation = (encode_images(model, images, batch) for images in (split.train, split.validation))
    class_images = context.once(("latents", noun), lambda: encode_images(model, priors.class_images, batch))
    cut = max(1, len(class_images) // 4)
    given = _Inputs(
        context=context,
        subject=subject,
        split=split,
        priors=priors,
        beside=beside,
        photos=photos,
        photo_masks=_photo_masks(context, photos, noun, priors) if config.subject_share else None,
        class_images=class_images[cut:],
    )
    weights = _term_weights(config)

    def make(term: Callable[[_Inputs], LossTerm]) -> LossTerm:
        return context.once((_OF_CLASS[term], noun), lambda: term(given)) if term in _OF_CLASS else term(given)

    def frozen(name: str, compute: Callable[[], Batch]) -> Batch:
        key = (name, noun, "frozen", num_frozen_targets)
        return context.once(key, compute) if name in _OF_CLASS.values() else compute()

    objective = Objective(
        model,
        params,
        [_instance_term(given), *(replace(make(_TERMS[name]), weight=w) for name, w in weights.items() if w)],
        seed=config.seed,
        timestep_range=config.timestep_range,
        micro_batch_size=context.resources.micro_batch,
        processes=context.processes,
        num_frozen_targets=num_frozen_targets,
        keep_frozen=frozen,
    )
    instance, of_class = (encode(model, texts[:1]) for texts in (subject.instance_prompts, subject.class_prompts))
    return objective, EvalBatches(
        held_out=objective.eval_batch(validation, instance, NUM_EVAL_SAMPLES),
        no_identifier=objective.eval_batch(validation, of_class, NUM_EVAL_SAMPLES),
        class_images=objective.eval_batch(class_images[:cut], of_class, NUM_EVAL_SAMPLES),
    )


def _photo_masks(context: SearchContext, photos: LatentImages, noun: str, priors: PriorImages) -> Tensor:
    """(m, 1, h, w), 0 or 1: where the photos show their subject; of several processes the first says it for all."""
    found = locate_subject(context, photos.latents, noun, priors.other_classes)
    return context.processes.broadcast(found[:, None].float())


def unbound_prompts(model: Model, subject: SubjectPrompts, config: SearchConfig, caption: str) -> list[str]:
    """Prompts for a picture with that caption that must not draw the subject.

    Half are without an identifier, half with another identifier, if the model has any.
    """
    free = sorted(set(identifiers(model)) - {subject.identifier, *subject.name.split()})
    negatives = Random(f"rivals {config.seed}").sample(free, min(config.num_negative_identifiers, len(free)))
    noun = subject.class_noun
    unnamed = captioned_prompts(subject.class_prompts, noun, noun, caption) * max(1, len(negatives))
    phrases = [f"{word} {noun}" for word in negatives]
    return unnamed + [
        text for each in phrases for text in captioned_prompts(instance_prompts(each), each, noun, caption)
    ]


def unbound_scene_prompts(
    model: Model, subjects: Sequence[Subject], config: SearchConfig, spec: CompositeSpec
) -> list[str]:
    """Prompts for a scene of `subjects` that must not draw them.

    Half are without an identifier, half with others: those of no subject, or each with that of the next.
    """
    shown = {place: subjects[number] for place, number in spec.subjects.items()}
    taken = {word for each in subjects for word in each.phrase.split()}
    free = sorted(set(identifiers(model)) - taken)
    rng, count = Random(f"scene rivals {config.seed} {spec.prompt()}"), config.num_negative_identifiers
    texts = []
    for _ in range(count if len(free) >= len(shown) else 0):
        words = zip(shown, rng.sample(free, len(shown)), strict=True)
        texts += spec.prompts({place: f"{word} {spec.nouns[place]}" for place, word in words})
    if texts:
        own = [each.phrase.removesuffix(f" {each.noun}") for each in shown.values()]
        turned = zip(shown, own[1:] + own[:1], strict=True)
        swapped = spec.prompts({place: f"{word} {spec.nouns[place]}" for place, word in turned}) * count
        texts += swapped if len(shown) > 1 else texts
    return spec.prompts() * max(1, 2 * count) + texts


def encode_images(model: Model, images: Sequence[Image.Image], batch: int = GROUP_SIZE) -> LatentImages:
    """Latents of the images' centre squares, and how these were framed; a crop counts as a picture of its own."""
    side = model.defaults.size
    frames = [MicroConditioning.centre_crop(image.size, side) for image in images]
    return LatentImages(to_latents(model, images, batch=batch), micro_conditioning(model, frames))


COMMON_BACKGROUNDS = (
    "on a white background",
    "on a black background",
    "on a table",
    "on the floor",
    "on a sofa",
    "in a room",
    "in a garden",
    "on the grass",
    "in a forest",
    "in the mountains",
    "on the beach",
    "by the water",
    "in the snow",
    "on a street",
    "at night",
    "against the sky",
    "in front of a wall",
)
"""Where people photograph things: what a model is asked that names no backgrounds of its own. Our choice."""
CAPTION_SAMPLES = 4
_NOISE = (0.5, 0.95)
"""Where the surroundings show: with less noise the picture says it all, with more it says nothing."""
_MARGIN = 0.02
"""By how much of the loss a phrase must beat the prompt without one."""


def background_phrases(model: Model) -> list[str]:
    """Phrases that may stand behind "a photo of a dog": those of the model's `pocket.json`, else common ones."""
    named, colours = model.settings.get("backgrounds"), model.settings.get("colours")
    if not isinstance(named, dict) or not isinstance(colours, list):
        return list(COMMON_BACKGROUNDS)
    places = [str(phrase) for phrase in named.values() if phrase]
    return places + [f"on {article(str(colour))} background" for colour in colours]


def caption_photos(context: SearchContext, photos: Sequence[Photo], noun: str) -> list[Photo]:
    """The photos, each one without a caption with the phrase under which the model finds it likeliest, if any.

    That is the phrase with the lowest loss on the same few draws of time and noise, as Li et al. (2023, "Your Diffusion
    Model is Secretly a Zero-Shot Classifier") choose a class. It must be 2 % below the loss without a phrase. Of
    several processes the first chooses for all.
    """
    model, processes = context.model, context.processes
    phrases = ["", *background_phrases(model)]
    prompts = [f"{class_prompts(noun)[0]} {phrase}".rstrip() for phrase in phrases]
    silent = [photo for photo in photos if not photo.caption]
    chosen = torch.zeros(len(silent), dtype=torch.int64)
    if processes.is_main_process:
        chosen = _best_captions(context, silent, prompts)
    found = iter(processes.broadcast(chosen).tolist())
    return [photo if photo.caption else replace(photo, caption=phrases[next(found)]) for photo in photos]


@torch.no_grad()
def _best_captions(context: SearchContext, photos: Sequence[Photo], texts: Sequence[str]) -> Tensor:
    """(photos,), int64: under which of `texts` each photo is likeliest; the first one unless another clearly wins.

    All losses of a photo are at the same timesteps and noise.
    """
    model, seed = context.model, context.config.seed
    schedule, generator, prompts = schedule_of(model), torch.Generator().manual_seed(seed), encode(model, texts)
    timesteps = stratified_timesteps(CAPTION_SAMPLES, len(schedule), generator, _NOISE)
    size = context.resources.image_batch_size(CAPTION_SAMPLES)
    best = []
    for photo in photos:
        latents = to_latents(model, [photo.image]).expand(CAPTION_SAMPLES, -1, -1, -1)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
        frames, times = (
            micro_conditioning(model, [MicroConditioning.centre_crop(photo.image.size, model.defaults.size)]),
            timesteps.to(noise.device),
        )
        losses = []
        for row in range(len(texts)):
            cond = prompts[[row]].with_micro_conditioning(frames).expand(CAPTION_SAMPLES)

            def ask(
                rows: slice, c: Conditioning = cond, x: Tensor = latents, e: Tensor = noise, t: Tensor = times
            ) -> Tensor:
                return per_sample_loss(model, schedule, x[rows], e[rows], t[rows], c[rows])

            parts, size = in_parts(CAPTION_SAMPLES, size, ask, model.device)
            losses.append(torch.cat(parts).mean())
        found = torch.stack(losses)
        best.append(int(found.argmin()) if found.min() < (1 - _MARGIN) * found[0] else 0)
    return torch.tensor(best, dtype=torch.int64)
