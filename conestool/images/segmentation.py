"""Masks of what a prompt names in an image, by the base model itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from conestool.models.conditioning import Conditioning
from conestool.models.memory import in_parts
from conestool.models.model import Model
from conestool.models.noise_schedule import predict_noise, schedule_of, stratified_timesteps
from conestool.models.prompts import encode

NUM_SAMPLES = 6
"""Draws of timestep and noise for each image. Our choice."""
_TIMESTEP_RANGE = (0.4, 0.8)
"""Shares of the schedule: with less noise the image decides what is predicted, with more nothing is left of it."""
_SMALLEST = torch.finfo(torch.float32).tiny


@torch.no_grad()
def diffedit_difference(
    model: Model,
    latents: Tensor,
    prompts: Sequence[str],
    other_prompts: Sequence[Sequence[str]],
    seed: int = 0,
    batch: int = 8,
) -> Tensor:
    """How much each of m images, `latents` (m, c, h, w), shows of what its prompt names and `other_prompts` do not.

    (m, h, w), at least 0. The `other_prompts`, at least one for each image, name another thing in its place; they take
    turns. It is by how much the denoiser's outputs for both differ, in units of Otsu's (1979) threshold of these
    differences: above 1 is what the prompt names. The difference is that of DiffEdit (Couairon et al. 2023, section
    3.2), whose threshold is half of the largest.
    """
    schedule, generator = schedule_of(model), torch.Generator().manual_seed(seed)
    named, count = encode(model, prompts), len(latents)
    difference = torch.zeros(count, *latents.shape[-2:], device=latents.device)
    for number in range(NUM_SAMPLES):
        other = encode(model, [texts[number % len(texts)] for texts in other_prompts])
        timesteps = stratified_timesteps(count, len(schedule), generator, _TIMESTEP_RANGE).to(latents.device)
        noisy = schedule.add_noise(latents, torch.randn(latents.shape, generator=generator).to(latents), timesteps)

        def differ(
            rows: slice, noisy: Tensor = noisy, times: Tensor = timesteps, other: Conditioning = other
        ) -> Tensor:
            one, two = (predict_noise(model, schedule, noisy[rows], times[rows], cond[rows]) for cond in (named, other))
            return (one - two).abs().mean(1)

        parts, batch = in_parts(count, batch, differ, model.device)
        difference += torch.cat(parts)
    return torch.stack([each / max(otsu_threshold(each), _SMALLEST) for each in difference])


def otsu_threshold(values: Tensor) -> float:
    """The value above which lies what differs most from the rest: Otsu's (1979) threshold, without a histogram."""
    ordered = values.flatten().sort().values
    below = torch.arange(1, len(ordered), device=values.device)
    above, sums = len(ordered) - below, ordered.cumsum(0)
    low, high = sums[:-1] / below, (sums[-1] - sums[:-1]) / above
    return float(ordered[int((below * above * (high - low).square()).argmax())])


def bounding_square(mask: Tensor) -> tuple[float, float, float]:
    """Middle row, middle column and side, in latents, of the square that spreads as far as `mask` (h, w), boolean.

    The whole of a mask that is empty.
    """
    rows, columns = (mask if mask.any() else torch.ones_like(mask)).nonzero(as_tuple=True)
    rows, columns = rows.float() + 0.5, columns.float() + 0.5
    spread = (rows.var(correction=0) + columns.var(correction=0)) / 2
    return float(rows.mean()), float(columns.mean()), max(1.0, float((12 * spread).sqrt()))
