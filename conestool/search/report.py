"""What a found set does to losses that the search never saw."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from conestool.records import Losses
from conestool.search.controls import random
from conestool.search.objective import Batch, Objective

__all__ = ["Probes", "doubts", "measure"]

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
