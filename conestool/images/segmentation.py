"""Where in a picture a thing is that the prompt names, by the base model itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from conestool.images.photos import to_latents
from conestool.models.model import Model
from conestool.models.noise_schedule import predict_noise, schedule_of, stratified_timesteps
from conestool.models.prompts import encode

__all__ = ["LOOKS", "extent", "located"]

LOOKS = 6
"""Draws of time and noise for each picture. Our choice."""
NOISE = (0.4, 0.8)
"""Of the schedule: with less the picture says what it shows, with more nothing is left of where it was."""


@torch.no_grad()
def located(
    model: Model,
    pictures: Sequence[Image.Image],
    prompts: Sequence[str],
    instead: Sequence[Sequence[str]],
    seed: int = 0,
    batch: int = 8,
) -> Tensor:
    """Where each of m pictures shows what tells its prompt from those `instead`: (m, h, w), boolean, in cells.

    The prompts `instead`, at least one for each picture, name another thing in its place; they take turns. Where the
    denoiser's answers to both differ by more than the threshold that parts these differences best (Otsu 1979), there
    it is. The difference is that of DiffEdit (Couairon et al. 2023, section 3.2), whose threshold is half of its
    largest value.
    """
    schedule, draw = schedule_of(model), torch.Generator().manual_seed(seed)
    latents, told = to_latents(model, pictures, batch=batch), encode(model, prompts)
    heat = torch.zeros(len(pictures), *latents.shape[-2:], device=latents.device)
    for look in range(LOOKS):
        other = encode(model, [texts[look % len(texts)] for texts in instead])
        times = stratified_timesteps(len(pictures), len(schedule), draw, NOISE).to(latents.device)
        noisy = schedule.add_noise(latents, torch.randn(latents.shape, generator=draw).to(latents), times)
        for rows in torch.split(torch.arange(len(pictures), device=latents.device), batch):
            one, two = (predict_noise(model, schedule, noisy[rows], times[rows], cond[rows]) for cond in (told, other))
            heat[rows] += (one - two).abs().mean(1)
    return torch.stack([each > parting(each) for each in heat])


def parting(values: Tensor) -> float:
    """The value above which lies what differs most from the rest: Otsu's (1979) threshold, without a histogram."""
    ordered = values.flatten().sort().values
    below = torch.arange(1, len(ordered), device=values.device)
    above, sums = len(ordered) - below, ordered.cumsum(0)
    low, high = sums[:-1] / below, (sums[-1] - sums[:-1]) / above
    return float(ordered[int((below * above * (high - low).square()).argmax())])


def extent(mask: Tensor) -> tuple[float, float, float]:
    """Middle row, middle column and side, in cells, of the square that spreads as far as `mask` (h, w), boolean.

    The whole of a mask that has no cell.
    """
    rows, columns = (mask if mask.any() else torch.ones_like(mask)).nonzero(as_tuple=True)
    rows, columns = rows.float() + 0.5, columns.float() + 0.5
    spread = (rows.var(correction=0) + columns.var(correction=0)) / 2
    return float(rows.mean()), float(columns.mean()), max(1.0, float((12 * spread).sqrt()))
