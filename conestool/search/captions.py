"""What photos show besides the subject, in words: given with them, or found by the base model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from conestool.diffusion.conditioning import Conditioning, Frame
from conestool.diffusion.losses import Schedule, sample_losses, schedule_of, stratified_timesteps
from conestool.diffusion.models import Model
from conestool.diffusion.photos import Photo, to_latents
from conestool.diffusion.prompts import encode, frames_on
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.subject import article, class_prompts

__all__ = ["SAMPLES", "describe_photos", "surroundings"]

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
