"""What a found set does to losses that the search never saw, beside controls; and how many weights it takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from conestool.concept import Losses
from conestool.errors import UsageError
from conestool.models.kv_weights import kv_weights
from conestool.search.batches import Batch
from conestool.search.methods.base import Ranking
from conestool.search.objective import Objective
from conestool.search.parameters import FlatParameters, topk_mask

_MARGIN = 0.02


@dataclass(frozen=True, kw_only=True)
class EvalBatches:
    """Fixed latents, timesteps and noise: held-out photos with and without the identifier, and unseen class images."""

    held_out: Batch
    no_identifier: Batch
    class_images: Batch


def evaluate_losses(objective: Objective, eval_batches: EvalBatches, mask: Tensor, seed: int) -> Losses:
    """Mean losses before and after zeroing `mask` (boolean, (n,)), and as many random weights instead."""
    params, untouched = objective.params, objective.weights
    return Losses(
        held_out_before=objective.loss(untouched, eval_batches.held_out),
        held_out_after=objective.loss(params.zeroed(mask), eval_batches.held_out),
        random_after=objective.loss(params.zeroed(random_mask_like(params, mask, seed)), eval_batches.held_out),
        no_identifier_before=objective.loss(untouched, eval_batches.no_identifier),
        no_identifier_after=objective.loss(params.zeroed(mask), eval_batches.no_identifier),
        class_before=objective.loss(untouched, eval_batches.class_images),
        class_after=objective.loss(params.zeroed(mask), eval_batches.class_images),
    )


def quality_warnings(losses: Losses) -> list[str]:
    """What a user should be warned of: no better than random indices, or the class itself was harmed."""
    before, after, control = losses.held_out_before, losses.held_out_after, losses.random_after
    if before is None or after is None or control is None:
        return []
    found = []
    if min(before, control) - after < _MARGIN * before:
        found.append("no better than random indices: the photos' loss fell by less than 2 % more than with those")
    if losses.class_before and losses.class_after and losses.class_after > 1.25 * losses.class_before:
        found.append("the class itself changed: its loss rose by more than a quarter; try a higher prior weight")
    return found


def random_mask_like(params: FlatParameters, mask: Tensor, seed: int) -> Tensor:
    """Boolean (n,): in every parameter as many weights as `mask` (n,) has there, at random (CPU generator)."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for size, count in zip(params.sizes, params.count_per_parameter(mask), strict=True):
        part = torch.zeros(size, dtype=torch.bool)
        part[torch.randperm(size, generator=generator)[:count]] = True
        parts.append(part)
    return torch.cat(parts).to(mask.device)


def magnitude_mask_like(params: FlatParameters, mask: Tensor, weights: Tensor) -> Tensor:
    """Boolean (n,): in every parameter as many weights as `mask` (n,) has there, those of largest magnitude."""
    parts = []
    for part, count in zip(torch.split(weights, params.sizes), params.count_per_parameter(mask), strict=True):
        chosen = torch.zeros_like(part, dtype=torch.bool)
        chosen[part.abs().sort(descending=True, stable=True).indices[:count]] = True
        parts.append(chosen)
    return torch.cat(parts)


DENSITY_GRID = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


@dataclass(frozen=True)
class Selection:
    """The weights to zero (boolean, (n,)) and how their number came about: "given", "method" or "loss"."""

    mask: Tensor
    rule: str


def select_density(objective: Objective, ranking: Ranking, density: float | None, batch: Batch) -> Selection:
    """Turn a ranking into a set of weights; densities are shares of all K/V weights, of whatever layers it ranks.

    `density` in (0, 1) fixes the number. Without it the method's own count counts, and where it has none (or 0: too
    few steps to cross any threshold), the candidate density with the lowest L_con on `batch` (fixed noise on the
    training photos and class images).
    """
    total = sum(weight.numel() for weight in kv_weights(objective.model.denoiser).values())
    if density is not None:
        if not 0 < density < 1:
            raise UsageError(f"density {density} is not between 0 and 1", "0.01 zeroes 1 % of the K/V weights")
        return Selection(topk_mask(ranking.scores, max(1, round(density * total))), "given")
    if ranking.count:
        return Selection(topk_mask(ranking.scores, ranking.count), "method")
    counts = [max(1, round(candidate * total)) for candidate in DENSITY_GRID]
    losses = [objective.loss(objective.params.zeroed(topk_mask(ranking.scores, count)), batch) for count in counts]
    return Selection(topk_mask(ranking.scores, counts[losses.index(min(losses))]), "loss")
