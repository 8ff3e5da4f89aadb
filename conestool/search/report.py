"""What a found set does to losses that the search never saw, beside controls; and how many weights it takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from conestool.concept import Losses
from conestool.errors import UsageError
from conestool.search.batches import Batch
from conestool.search.methods.base import Ranking
from conestool.search.objective import Objective
from conestool.search.parameters import Layout, top

__all__ = ["CANDIDATES", "Choice", "Probes", "choose", "doubts", "largest", "measure", "random"]

MARGIN = 0.02


@dataclass(frozen=True)
class Probes:
    """Fixed latents, timesteps and noise: held-out photos with and without the identifier, and unseen class images."""

    held_out: Batch
    no_identifier: Batch
    class_images: Batch


def measure(objective: Objective, probes: Probes, shut: Tensor, seed: int) -> Losses:
    """Mean losses before and after shutting (boolean, (n,)), and after shutting as many random weights instead."""
    untouched, found = objective.theta, objective.theta * ~shut
    control = objective.theta * ~random(objective.layout, shut, seed)
    return Losses(
        held_out_before=objective.loss(untouched, probes.held_out),
        held_out_after=objective.loss(found, probes.held_out),
        random_after=objective.loss(control, probes.held_out),
        no_identifier_before=objective.loss(untouched, probes.no_identifier),
        no_identifier_after=objective.loss(found, probes.no_identifier),
        class_before=objective.loss(untouched, probes.class_images),
        class_after=objective.loss(found, probes.class_images),
    )


def doubts(losses: Losses) -> list[str]:
    """What a user should be warned of: no better than random indices, or the class itself was harmed."""
    before, after, control = losses.held_out_before, losses.held_out_after, losses.random_after
    if before is None or after is None or control is None:
        return []
    found = []
    if min(before, control) - after < MARGIN * before:
        found.append("no better than random indices: the photos' loss fell by less than 2 % more than with those")
    if losses.class_before and losses.class_after and losses.class_after > 1.25 * losses.class_before:
        found.append("the class itself changed: its loss rose by more than a quarter; try a higher prior weight")
    return found


def random(layout: Layout, shut: Tensor, seed: int) -> Tensor:
    """Boolean (n,): in every parameter as many weights as `shut` (n,) has there, at random (CPU generator)."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for size, count in zip(layout.sizes, layout.counts(shut), strict=True):
        part = torch.zeros(size, dtype=torch.bool)
        part[torch.randperm(size, generator=generator)[:count]] = True
        parts.append(part)
    return torch.cat(parts).to(shut.device)


def largest(layout: Layout, shut: Tensor, theta: Tensor) -> Tensor:
    """Boolean (n,): in every parameter as many weights as `shut` (n,) has there, those of largest magnitude."""
    parts = []
    for part, count in zip(torch.split(theta, layout.sizes), layout.counts(shut), strict=True):
        chosen = torch.zeros_like(part, dtype=torch.bool)
        chosen[part.abs().sort(descending=True, stable=True).indices[:count]] = True
        parts.append(chosen)
    return torch.cat(parts)


CANDIDATES = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


@dataclass(frozen=True)
class Choice:
    """The weights to shut (boolean, (n,)) and how their number came about: "given", "method" or "loss"."""

    shut: Tensor
    rule: str


def choose(objective: Objective, ranking: Ranking, density: float | None, probe: Batch) -> Choice:
    """Turn a ranking into a set of weights.

    `density` in (0, 1) fixes the number. Without it the method's own count counts, and where it has none (or 0: too
    few steps to cross any threshold), the candidate density with the lowest L_con on `probe` (fixed noise on the
    training photos and class images).
    """
    total = ranking.scores.numel()
    if density is not None:
        if not 0 < density < 1:
            raise UsageError(f"density {density} is not between 0 and 1", "0.01 shuts 1 % of the K/V weights")
        return Choice(top(ranking.scores, max(1, round(density * total))), "given")
    if ranking.count:
        return Choice(top(ranking.scores, ranking.count), "method")
    sets = [top(ranking.scores, max(1, round(candidate * total))) for candidate in CANDIDATES]
    losses = [objective.loss(objective.theta * ~shut, probe) for shut in sets]
    return Choice(sets[losses.index(min(losses))], "loss")
