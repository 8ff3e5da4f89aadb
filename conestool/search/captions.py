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
from conestool.search.subject import article, class_prompts

__all__ = ["describe_photos", "surroundings"]

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


def describe_photos(model: Model, photos: Sequence[Photo], noun: str, seed: int) -> list[Photo]:
    """The photos, each one without a caption with the phrase under which the model finds it likeliest, if any.

    That is the phrase with the lowest loss on the same few draws of time and noise, as Li et al. (2023, "Your Diffusion
    Model is Secretly a Zero-Shot Classifier") choose a class. It must be 2 % below the loss without a phrase.
    """
    phrases = ["", *surroundings(model)]
    schedule, generator = schedule_of(model), torch.Generator().manual_seed(seed)
    prompts = encode(model, [f"{class_prompts(noun)[0]} {phrase}".rstrip() for phrase in phrases])
    timesteps = stratified_timesteps(SAMPLES, len(schedule), generator, NOISE)
    out = []
    for photo in photos:
        if not photo.caption:
            losses = losses_under(model, schedule, photo, prompts, timesteps, seed)
            best = int(losses.argmin())
            photo = replace(photo, caption=phrases[best] if losses[best] < (1 - MARGIN) * losses[0] else "")
        out.append(photo)
    return out


@torch.no_grad()
def losses_under(
    model: Model, schedule: Schedule, photo: Photo, prompts: Conditioning, timesteps: Tensor, seed: int
) -> Tensor:
    """(p,), fp32: mean loss of the photo under each of `prompts` (p rows), at the same timesteps and noise."""
    latents = to_latents(model, [photo.image]).expand(len(timesteps), -1, -1, -1)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    frames = frames_on(model, [Frame.centre(photo.image.size, model.defaults.size)])
    rows = [prompts[[row]].framed(frames).expand(len(timesteps)) for row in range(len(prompts))]
    losses = [sample_losses(model, schedule, latents, noise, timesteps.to(latents.device), row).mean() for row in rows]
    return torch.stack(losses).cpu()
