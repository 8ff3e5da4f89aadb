"""The terms of L_con for one subject and the batches of its report: photos, pictures, prompts and captions, encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from PIL import Image
from torch import Tensor

from conestool.images.class_images import GROUP
from conestool.images.photos import Photo, to_latents
from conestool.models.conditioning import Conditioning, Frame
from conestool.models.model import Model
from conestool.models.noise_schedule import Schedule, sample_losses, schedule_of, stratified_timesteps
from conestool.models.prompts import encode, frames_on, identifiers
from conestool.search.batches import LatentImages, LossTerm
from conestool.search.composites import Subject, compose
from conestool.search.config import DEFAULT_RESOURCES, Resources, SearchConfig
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.objective import NUM_FROZEN_TARGETS, Objective
from conestool.search.parameters import FlatParameters
from conestool.search.prior_images import PriorImages
from conestool.search.report import EvalBatches
from conestool.search.subject import PhotoSplit, article, captioned_prompts, class_prompts, instance_prompts

__all__ = [
    "CAPTION_SAMPLES",
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


@dataclass(frozen=True)
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


def prepare(
    model: Model,
    params: FlatParameters,
    subject: SubjectPrompts,
    split: PhotoSplit,
    priors: PriorImages,
    config: SearchConfig,
    resources: Resources = DEFAULT_RESOURCES,
    processes: DistributedState = SINGLE_PROCESS,
    beside: Sequence[Subject] = (),
    num_frozen_targets: int = NUM_FROZEN_TARGETS,
) -> tuple[Objective, EvalBatches]:
    """L_con for the search and the batches of the report; autoencoder and text encoder run here, and only here.

    `beside` are the subjects that share the scenes of `priors`, `num_frozen_targets` is as in `Objective`.
    """
    batch = resources.image_batch_size(GROUP)
    photos, report, prior = (
        encode_images(model, images, batch) for images in (split.train, split.validation, priors.class_images)
    )
    cut = max(1, len(prior) // 4)
    instance, of_class = encode(model, subject.instance_prompts), encode(model, subject.class_prompts)
    sizes = config.term_sizes()
    terms = [instance_term(model, subject, photos, split.captions, sizes["instance"])]
    if "class" in sizes:
        terms.append(
            LossTerm("class", prior[cut:], of_class, config.prior_loss_weight, sizes["class"], target="frozen")
        )
    if "unbound" in sizes:
        terms.append(unbound_term(model, subject, photos, split.captions, config))
    if "other_classes" in sizes:
        prompts, prompt_choices = encode_choices(model, priors.other_prompts)
        shown = encode_images(model, priors.other_images, batch)
        terms.append(
            LossTerm(
                "other_classes",
                shown,
                prompts,
                config.other_class_weight,
                sizes["other_classes"],
                target="frozen",
                prompt_choices=prompt_choices,
            )
        )
    if "composites" in sizes and priors.composite_specs:
        subjects = [Subject(subject.class_noun, subject.phrase, split.uncropped), *beside]
        terms.append(composites_term(model, subjects, priors, config, batch, processes))
    objective = Objective(
        model,
        params,
        terms,
        config.seed,
        config.timestep_range,
        resources.max_samples,
        processes=processes,
        num_frozen_targets=num_frozen_targets,
    )
    return objective, EvalBatches(
        held_out=objective.eval_batch(report, instance[:1], NUM_EVAL_SAMPLES),
        no_identifier=objective.eval_batch(report, of_class[:1], NUM_EVAL_SAMPLES),
        class_images=objective.eval_batch(prior[:cut], of_class[:1], NUM_EVAL_SAMPLES),
    )


def instance_term(
    model: Model, subject: SubjectPrompts, photos: LatentImages, captions: Sequence[str], size: int
) -> LossTerm:
    """The photos under the subject's prompts: what the search photoss."""
    own = [
        captioned_prompts(subject.instance_prompts, subject.phrase, subject.class_noun, caption) for caption in captions
    ]
    prompts, prompt_choices = encode_choices(model, own)
    return LossTerm("instance", photos, prompts, 1.0, size, prompt_choices=prompt_choices)


def unbound_term(
    model: Model, subject: SubjectPrompts, photos: LatentImages, captions: Sequence[str], config: SearchConfig
) -> LossTerm:
    """The photos under prompts that are not the subject's."""
    prompts, prompt_choices = encode_choices(
        model, [unbound_prompts(model, subject, config, caption) for caption in captions]
    )
    size = config.term_sizes()["unbound"]
    return LossTerm(
        "unbound", photos, prompts, config.unbound_weight, size, target="frozen", prompt_choices=prompt_choices
    )


def composites_term(
    model: Model,
    subjects: Sequence[Subject],
    priors: PriorImages,
    config: SearchConfig,
    batch: int,
    processes: DistributedState,
) -> LossTerm:
    """The `subjects` among other things: photosed where they are; all else stays as their classes alone have it."""
    composites = compose(
        model,
        priors.composite_specs,
        priors.scene_images,
        subjects,
        priors.other_classes,
        config.seed,
        batch,
        processes,
    )
    bound = encode(model, [spec.instance_prompt(subjects) for spec in composites.specs])
    plain = encode(model, [spec.prompt() for spec in composites.specs])
    own = torch.arange(len(composites.specs))[:, None]
    shown, size = encode_images(model, composites.images, batch), config.term_sizes()["composites"]
    return LossTerm(
        "composites", shown, bound, config.composite_weight, size, "frozen", own, plain, composites.subject_masks
    )


def encode_choices(model: Model, prompts: Sequence[Sequence[str]]) -> tuple[Conditioning, Tensor]:
    """Conditioning of all prompts, each once, and which of its rows may go with each picture, (m, p), int64.

    `prompts` are those of each of the m pictures, p for each.
    """
    rows = {text: row for row, text in enumerate(dict.fromkeys(text for texts in prompts for text in texts))}
    return encode(model, list(rows)), torch.tensor([[rows[text] for text in texts] for texts in prompts])


def unbound_prompts(model: Model, subject: SubjectPrompts, config: SearchConfig, caption: str) -> list[str]:
    """Prompts for a picture with that caption that must not draw the subject.

    Half are without an identifier, half with another identifier, if the model has any.
    """
    free = sorted(set(identifiers(model)) - {subject.identifier, *subject.name.split()})
    rivals = Random(f"rivals {config.seed}").sample(free, min(config.num_negative_identifiers, len(free)))
    noun = subject.class_noun
    bare = captioned_prompts(subject.class_prompts, noun, noun, caption) * max(1, len(rivals))
    phrases = [f"{word} {noun}" for word in rivals]
    return bare + [text for each in phrases for text in captioned_prompts(instance_prompts(each), each, noun, caption)]


def encode_images(model: Model, images: Sequence[Image.Image], batch: int = GROUP) -> LatentImages:
    """Latents of the images' centre squares, and how these were framed; a crop counts as a picture of its own."""
    side = model.defaults.size
    frames = [Frame.centre(image.size, side) for image in images]
    return LatentImages(to_latents(model, images, batch=batch), frames_on(model, frames))


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
NOISE = (0.5, 0.95)
"""Where the surroundings show: with less noise the picture says it all, with more it says nothing."""
MARGIN = 0.02
"""By how much of the loss a phrase must beat the prompt without one."""


def background_phrases(model: Model) -> list[str]:
    """Phrases that may stand behind "a photo of a dog": those of the model's `pocket.json`, else common ones."""
    named, colours = model.settings.get("backgrounds"), model.settings.get("colours")
    if not isinstance(named, dict) or not isinstance(colours, list):
        return list(COMMON_BACKGROUNDS)
    places = [str(phrase) for phrase in named.values() if phrase]
    return places + [f"on {article(str(colour))} background" for colour in colours]


def caption_photos(
    model: Model,
    photos: Sequence[Photo],
    noun: str,
    seed: int,
    batch: int = CAPTION_SAMPLES,
    processes: DistributedState = SINGLE_PROCESS,
) -> list[Photo]:
    """The photos, each one without a caption with the phrase under which the model finds it likeliest, if any.

    That is the phrase with the lowest loss on the same few draws of time and noise, as Li et al. (2023, "Your Diffusion
    Model is Secretly a Zero-Shot Classifier") choose a class. It must be 2 % below the loss without a phrase. At most
    `batch_size` samples go through the denoiser at once; of several `processes` the first chooses for all.
    """
    phrases = ["", *background_phrases(model)]
    prompts = [f"{class_prompts(noun)[0]} {phrase}".rstrip() for phrase in phrases]
    silent = [photo for photo in photos if not photo.caption]
    chosen = torch.zeros(len(silent), dtype=torch.int64)
    if processes.is_main_process:
        chosen = best_captions(model, silent, prompts, seed, batch)
    found = iter(processes.broadcast(chosen).tolist())
    return [photo if photo.caption else replace(photo, caption=phrases[next(found)]) for photo in photos]


def best_captions(model: Model, photos: Sequence[Photo], texts: Sequence[str], seed: int, batch: int) -> Tensor:
    """(photos,), int64: under which of `texts` each photo is likeliest; the first one unless another clearly wins."""
    schedule, generator = schedule_of(model), torch.Generator().manual_seed(seed)
    prompts, timesteps = encode(model, texts), stratified_timesteps(CAPTION_SAMPLES, len(schedule), generator, NOISE)
    losses = [losses_per_prompt(model, schedule, photo, prompts, timesteps, seed, batch) for photo in photos]
    wins = [int(each.argmin()) if each.min() < (1 - MARGIN) * each[0] else 0 for each in losses]
    return torch.tensor(wins, dtype=torch.int64)


@torch.no_grad()
def losses_per_prompt(
    model: Model, schedule: Schedule, photo: Photo, prompts: Conditioning, timesteps: Tensor, seed: int, batch: int
) -> Tensor:
    """(p,), fp32: mean loss of the photo under each of `sample_prompts` (p rows), at the same timesteps and noise."""
    latents = to_latents(model, [photo.image]).expand(len(timesteps), -1, -1, -1)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    frames = frames_on(model, [Frame.centre(photo.image.size, model.defaults.size)])
    times = timesteps.to(latents.device)

    def loss(row: int) -> Tensor:
        cond = prompts[[row]].framed(frames).expand(len(times))
        parts = [
            sample_losses(model, schedule, latents[rows], noise[rows], times[rows], cond[rows])
            for rows in torch.split(torch.arange(len(times)), batch)
        ]
        return torch.cat(parts).mean()

    return torch.stack([loss(row) for row in range(len(prompts))]).cpu()
