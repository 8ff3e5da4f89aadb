"""The learned mask of several concepts at once: one gate per weight, moved by the losses of all subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from conestool.search.config import DECAY, SHARE, Config, above, at_least, count, setting
from conestool.search.methods.base import Method, Ranking
from conestool.search.methods.mask import LOCAL_SAMPLE, MOMENTS, adam_step_, masked_weights, rms_floor
from conestool.search.objective import Objective

_MARGIN = (lambda value: 0 < value <= 0.5, "above 0 and at most 0.5")


@dataclass(frozen=True, kw_only=True)
class JointMaskConfig(Config):
    """The parameters of the mask that `tune` trains; those that `MaskConfig` has too mean the same.

    Reopening is quick, and zeroing takes as long as in `mask`, whose gates start at 1: with both margins alike many
    weights are zeroed at once and overshoot, and reopening alone does better. With much smaller or fewer steps hardly a
    gate comes down, and nothing is learned from scenes. Our choices.
    """

    steps: int = setting(60, "Steps, each with all subjects.", count(1, 1_000_000), "N")
    lr: float = setting(0.2, "Largest move of a gate in a step.", above(0))
    reopen_only: bool = setting(False, "Reopen neurons that hurt the others; zero no new ones.")
    init_margin_on: float = setting(0.1, "How far below 1/2 gates of zeroed weights start.", _MARGIN)
    init_margin_off: float = setting(0.5, "How far above 1/2 all other gates start.", _MARGIN)
    l1: float = setting(0.02, "Rise in a step of the gates of weights that no concept zeroes.", at_least(0))
    final_lr_factor: float = setting(0.0, "Part of lr and l1 that is left at the last step; they fall linearly.", SHARE)
    eps_quantile: float = setting(
        0.98, "Quantile of the root-mean-squares below which Adam's denominator never falls.", SHARE
    )
    eps_per_tensor: float = setting(
        0.5, "0: that quantile over all weights; 1: of each parameter; else between them.", SHARE
    )
    beta1: float = setting(0.9, "Decay of the running mean of theta * gradient.", DECAY)
    beta2: float = setting(0.95, "Decay of the running mean of its square.", DECAY)


@dataclass
class JointMask(Method):
    """One gate per weight, which is zeroed while its gate is below 1/2.

    Each step runs every subject's batch under the hard mask of the union and moves all gates along the sum of their
    straight-through gradients theta * dL_con/dtheta, as method `mask` does. `owner_mask` is boolean, (concepts, n). Our
    choice; the paper says only that a few further steps help.
    """

    objectives: Sequence[Objective]
    owner_mask: Tensor
    config: JointMaskConfig
    gates: Tensor = field(init=False)
    exp_avg_per_concept: Tensor = field(init=False)
    exp_avg_sq: Tensor = field(init=False)
    unowned: Tensor = field(init=False)
    steps_done: int = field(init=False, default=0)
    state_names: ClassVar = ("gates", "exp_avg_per_concept", "exp_avg_sq", "steps_done")

    def __post_init__(self) -> None:
        weights = self.objectives[0].weights
        on, off = 0.5 - self.config.init_margin_on, 0.5 + self.config.init_margin_off
        self.gates = torch.where(self.owner_mask.any(0), on, off)
        shape = (len(self.objectives), len(weights))
        self.exp_avg_per_concept = torch.zeros(shape, device=weights.device, dtype=MOMENTS)
        self.exp_avg_sq = torch.zeros_like(weights, dtype=MOMENTS)
        self.unowned = (~self.owner_mask.any(0)).to(MOMENTS)

    @property
    def mask(self) -> Tensor:
        """The weights that are zeroed now, boolean, (n,)."""
        return self.gates < 0.5

    def step(self, index: int) -> float:
        """Learn from batch `index` of every subject; returns their mean L_con under the hard mask before the step."""
        config, first = self.config, self.objectives[0]
        effects: list[list[Tensor]] = []
        total = 0.0
        for objective in self.objectives:
            parts: dict[int, Tensor] = {}
            masked = masked_weights(objective.split_by_parameter(first.weights, self.gates))
            total += objective.gradient(masked, index, parts.__setitem__)
            effects.append([parts[number] for number in range(len(parts))])
        left = 1 - (1 - config.final_lr_factor) * self.steps_done / config.steps
        self.steps_done += 1
        bias = 1 - config.beta1**self.steps_done, 1 - config.beta2**self.steps_done
        vectors = (first.weights, self.exp_avg_sq, *self.exp_avg_per_concept)
        for number, (own, exp_avg_sq, *means) in enumerate(first.split_by_parameter(*vectors)):
            asked = [each[number].mul_(own) for each in effects]
            for mean, effect in zip(means, asked, strict=True):
                mean.copy_(mean.float().lerp_(effect, 1 - config.beta1))
            whole = reduce(torch.add, asked)
            exp_avg_sq.copy_(exp_avg_sq.float().mul_(config.beta2).addcmul_(whole, whole, value=1 - config.beta2))
        share = config.eps_per_tensor
        overall = rms_floor(self.exp_avg_sq, config.eps_quantile) ** (1 - share)
        rise = 1.0 if config.reopen_only else left * config.l1
        vectors = (self.gates, self.exp_avg_sq, self.unowned, *self.exp_avg_per_concept)
        for gates, exp_avg_sq, unowned, *means in first.split_by_parameter(*vectors):
            total_mean = reduce(torch.add, (mean.float() for mean in means))
            floor = overall * rms_floor(exp_avg_sq, config.eps_quantile, LOCAL_SAMPLE) ** share
            adam_step_(gates, total_mean, exp_avg_sq, bias, left * config.lr, floor)
            gates.add_(unowned, alpha=rise).clamp_(max=1)
        return total / len(self.objectives)

    def count(self) -> int:
        """The gates below 1/2."""
        return int(self.mask.sum())

    def ranking(self) -> Ranking:
        """How far each gate fell; those that fell below 1/2 are zeroed."""
        return Ranking(1 - self.gates, self.count())

    def assign_owners(self) -> Tensor:
        """What each concept zeroes now, boolean, (concepts, n).

        Every concept keeps what is still zeroed of its own; a weight that nobody owned goes to the concept whose loss
        asked for it most, by the running mean of theta * gradient.
        """
        fresh = self.mask & ~self.owner_mask.any(0)
        wanted = self.exp_avg_per_concept.argmax(0)
        claims = torch.arange(len(self.exp_avg_per_concept), device=wanted.device)[:, None] == wanted
        return (self.owner_mask & self.mask) | (claims & fresh)
