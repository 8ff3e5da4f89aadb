"""The terms of L_con for one subject and the probes of its report: photos, pictures, prompts and captions, encoded."""

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
from conestool.search.batches import Pictures, Term
from conestool.search.composites import Player, stage
from conestool.search.config import PLENTY, Resources, Settings
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.objective import POOL, Objective
from conestool.search.parameters import Layout
from conestool.search.prior_images import Priors
from conestool.search.report import Probes
from conestool.search.subject import Split, article, captioned_prompts, class_prompts, instance_prompts

__all__ = ["PROBES", "SAMPLES", "Words", "describe_photos", "encoded", "prepare", "surroundings", "unbound_prompts"]

PROBES = 64
"""Samples of a loss of the report."""


@dataclass(frozen=True)
class Words:
    """What the subject is called."""

    name: str
    class_noun: str
    identifier: str

    @property
    def phrase(self) -> str:
        """What stands for the subject in a prompt."""
        return f"{self.identifier} {self.class_noun}"

    @property
    def instance(self) -> list[str]:
        """The subject's prompts."""
        return instance_prompts(self.phrase)

    @property
    def of_class(self) -> list[str]:
        """The class's prompts."""
        return class_prompts(self.class_noun)


def prepare(
    model: Model,
    layout: Layout,
    words: Words,
    pictures: Split,
    priors: Priors,
    settings: Settings,
    resources: Resources = PLENTY,
    processes: DistributedState = SINGLE_PROCESS,
    beside: Sequence[Player] = (),
    pool: int = POOL,
) -> tuple[Objective, Probes]:
    """L_con for the search and the probes for the report; autoencoder and text encoder run here, and only here.

    `beside` are the subjects that share the scenes of `priors`, `pool` how many answers are kept (see `Objective`).
    """
    batch = resources.pictures(GROUP)
    learn, report, prior = (
        encoded(model, images, batch) for images in (pictures.learn, pictures.report, priors.of_class)
    )
    cut = max(1, len(prior) // 4)
    instance, of_class = encode(model, words.instance), encode(model, words.of_class)
    sizes = settings.sizes()
    terms = [instance_term(model, words, learn, pictures.captions, sizes["instance"])]
    if "class" in sizes:
        terms.append(Term("class", prior[cut:], of_class, settings.prior_weight, sizes["class"], keep=True))
    if "contrast" in sizes:
        terms.append(contrast_term(model, words, learn, pictures.captions, settings))
    if "others" in sizes:
        prompts, choices = worded(model, priors.prompts)
        shown = encoded(model, priors.others, batch)
        terms.append(Term("others", shown, prompts, settings.others, sizes["others"], keep=True, choices=choices))
    if "scenes" in sizes and priors.scenes:
        players = [Player(words.class_noun, words.phrase, pictures.whole), *beside]
        terms.append(scenes_term(model, players, priors, settings, batch, processes))
    objective = Objective(
        model, layout, terms, settings.seed, settings.noise, resources.samples, processes=processes, pool=pool
    )
    return objective, Probes(
        held_out=objective.probe(report, instance[:1], PROBES),
        no_identifier=objective.probe(report, of_class[:1], PROBES),
        class_images=objective.probe(prior[:cut], of_class[:1], PROBES),
    )


def instance_term(model: Model, words: Words, learn: Pictures, captions: Sequence[str], size: int) -> Term:
    """The photos under the subject's prompts: what the search learns."""
    own = [captioned_prompts(words.instance, words.phrase, words.class_noun, caption) for caption in captions]
    prompts, choices = worded(model, own)
    return Term("instance", learn, prompts, 1.0, size, choices=choices)


def contrast_term(model: Model, words: Words, learn: Pictures, captions: Sequence[str], settings: Settings) -> Term:
    """The photos under prompts that are not the subject's."""
    prompts, choices = worded(model, [unbound_prompts(model, words, settings, caption) for caption in captions])
    size = settings.sizes()["contrast"]
    return Term("contrast", learn, prompts, settings.contrast, size, keep=True, choices=choices)


def scenes_term(
    model: Model, players: Sequence[Player], priors: Priors, settings: Settings, batch: int, processes: DistributedState
) -> Term:
    """The `players` among other things: learned where they are; all else stays as their classes alone have it."""
    staged = stage(model, priors.scenes, priors.drawn, players, priors.nouns, settings.seed, batch, processes)
    bound = encode(model, [scene.bound(players) for scene in staged.scenes])
    plain = encode(model, [scene.prompt() for scene in staged.scenes])
    own = torch.arange(len(staged.scenes))[:, None]
    shown, size = encoded(model, staged.images, batch), settings.sizes()["scenes"]
    return Term("scenes", shown, bound, settings.scenes, size, True, own, plain, staged.regions)


def worded(model: Model, prompts: Sequence[Sequence[str]]) -> tuple[Conditioning, Tensor]:
    """Conditioning of all prompts, each once, and which of its rows may go with each picture, (m, p), int64.

    `prompts` are those of each of the m pictures, p for each.
    """
    rows = {text: row for row, text in enumerate(dict.fromkeys(text for texts in prompts for text in texts))}
    return encode(model, list(rows)), torch.tensor([[rows[text] for text in texts] for texts in prompts])


def unbound_prompts(model: Model, words: Words, settings: Settings, caption: str) -> list[str]:
    """Prompts for a picture with that caption that must not draw the subject.

    Half are without an identifier, half with rivals, if the model has any.
    """
    free = sorted(set(identifiers(model)) - {words.identifier, *words.name.split()})
    rivals = Random(f"rivals {settings.seed}").sample(free, min(settings.rivals, len(free)))
    noun = words.class_noun
    bare = captioned_prompts(words.of_class, noun, noun, caption) * max(1, len(rivals))
    phrases = [f"{word} {noun}" for word in rivals]
    return bare + [text for each in phrases for text in captioned_prompts(instance_prompts(each), each, noun, caption)]


def encoded(model: Model, images: Sequence[Image.Image], batch: int = GROUP) -> Pictures:
    """Latents of the images' centre squares, and how these were framed; a crop counts as a picture of its own."""
    side = model.defaults.size
    frames = [Frame.centre(image.size, side) for image in images]
    return Pictures(to_latents(model, images, batch=batch), frames_on(model, frames))


COMMON = (
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
SAMPLES = 4
NOISE = (0.5, 0.95)
"""Where the surroundings show: with less noise the picture says it all, with more it says nothing."""
MARGIN = 0.02
"""By how much of the loss a phrase must beat the prompt without one."""


def surroundings(model: Model) -> list[str]:
    """Phrases that may stand behind "a photo of a dog": those of the model's `pocket.json`, else common ones."""
    named, colours = model.settings.get("backgrounds"), model.settings.get("colours")
    if not isinstance(named, dict) or not isinstance(colours, list):
        return list(COMMON)
    places = [str(phrase) for phrase in named.values() if phrase]
    return places + [f"on {article(str(colour))} background" for colour in colours]


def describe_photos(
    model: Model,
    photos: Sequence[Photo],
    noun: str,
    seed: int,
    batch: int = SAMPLES,
    processes: DistributedState = SINGLE_PROCESS,
) -> list[Photo]:
    """The photos, each one without a caption with the phrase under which the model finds it likeliest, if any.

    That is the phrase with the lowest loss on the same few draws of time and noise, as Li et al. (2023, "Your Diffusion
    Model is Secretly a Zero-Shot Classifier") choose a class. It must be 2 % below the loss without a phrase. At most
    `batch` samples go through the denoiser at once; of several `processes` the first chooses for all.
    """
    phrases = ["", *surroundings(model)]
    prompts = [f"{class_prompts(noun)[0]} {phrase}".rstrip() for phrase in phrases]
    silent = [photo for photo in photos if not photo.caption]
    chosen = torch.zeros(len(silent), dtype=torch.int64)
    if processes.is_main_process:
        chosen = likeliest(model, silent, prompts, seed, batch)
    found = iter(processes.broadcast(chosen).tolist())
    return [photo if photo.caption else replace(photo, caption=phrases[next(found)]) for photo in photos]


def likeliest(model: Model, photos: Sequence[Photo], texts: Sequence[str], seed: int, batch: int) -> Tensor:
    """(photos,), int64: under which of `texts` each photo is likeliest; the first one unless another clearly wins."""
    schedule, generator = schedule_of(model), torch.Generator().manual_seed(seed)
    prompts, timesteps = encode(model, texts), stratified_timesteps(SAMPLES, len(schedule), generator, NOISE)
    losses = [losses_under(model, schedule, photo, prompts, timesteps, seed, batch) for photo in photos]
    wins = [int(each.argmin()) if each.min() < (1 - MARGIN) * each[0] else 0 for each in losses]
    return torch.tensor(wins, dtype=torch.int64)


@torch.no_grad()
def losses_under(
    model: Model, schedule: Schedule, photo: Photo, prompts: Conditioning, timesteps: Tensor, seed: int, batch: int
) -> Tensor:
    """(p,), fp32: mean loss of the photo under each of `prompts` (p rows), at the same timesteps and noise."""
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
