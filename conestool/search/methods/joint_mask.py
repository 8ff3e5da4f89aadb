"""The learned mask of several concepts at once: one gate per weight, moved by the losses of all subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from conestool.search.methods.base import Ranking
from conestool.search.methods.mask import adam_step_, masked_weights, rms_floor
from conestool.search.objective import Objective

__all__ = ["JointMask"]


@dataclass
class JointMask:
    """One gate per weight, at 1/2 - `init_margin_on` where a concept zeroes it, else at 1/2 + `init_margin_off`.

    A weight is zeroed while its gate is below 1/2. Reopening is quick, and zeroing takes as long as in `mask`, whose
    gates start at 1: with both at the same distance many weights are zeroed at once and overshoot, and reopening alone
    does better. Each step runs every subject's batch under the hard mask of the union and moves all gates along the sum
    of their straight-through gradients theta * dL_con/dtheta, as method `mask` does (Adam's step with its denominator
    floored at its `eps_quantile` quantile over all weights); those of weights that no concept zeroes rise by `l1`
    besides, so that only strong effects zero one. With `reopen_only` nothing new is zeroed. `owner_mask` is boolean,
    (concepts, n). Our choice; the paper says only that a few further steps help.
    """

    objectives: Sequence[Objective]
    owner_mask: Tensor
    steps: int = 20
    lr: float = 0.05
    init_margin_on: float = 0.1
    init_margin_off: float = 0.5
    reopen_only: bool = False
    momentum: float = 0.9
    decay: float = 0.95
    eps_quantile: float = 0.98
    l1: float = 0.01
    gates: Tensor = field(init=False)
    exp_avg_per_concept: Tensor = field(init=False)
    exp_avg_sq: Tensor = field(init=False)
    steps_done: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        weights = self.objectives[0].weights
        self.gates = torch.where(self.owner_mask.any(0), 0.5 - self.init_margin_on, 0.5 + self.init_margin_off)
        self.exp_avg_per_concept = torch.zeros(len(self.objectives), len(weights), device=weights.device)
        self.exp_avg_sq = torch.zeros_like(weights, dtype=torch.float32)

    @property
    def mask(self) -> Tensor:
        """The weights that are zeroed now, boolean, (n,)."""
        return self.gates < 0.5

    def step(self, index: int) -> float:
        """Learn from batch `index` of every subject; returns their mean L_con under the hard mask before the step."""
        weights = self.objectives[0].weights
        effect, total = torch.zeros_like(self.exp_avg_sq), 0.0
        for exp_avg_per_concept, objective in zip(self.exp_avg_per_concept, self.objectives, strict=True):
            callback = partial(self.observe, list(objective.split_by_parameter(weights, exp_avg_per_concept, effect)))
            total += objective.gradient(
                masked_weights(objective.split_by_parameter(weights, self.gates)), index, callback
            )
        self.steps_done += 1
        self.exp_avg_sq.lerp_(effect.square_(), 1 - self.decay)
        bias = 1 - self.momentum**self.steps_done, 1 - self.decay**self.steps_done
        adam_step_(
            self.gates,
            self.exp_avg_per_concept.sum(0),
            self.exp_avg_sq,
            bias,
            self.lr,
            rms_floor(self.exp_avg_sq, self.eps_quantile),
        )
        unowned = ~self.owner_mask.any(0)
        self.gates[unowned] = 1.0 if self.reopen_only else (self.gates[unowned] + self.l1).clamp_(max=1)
        return total / len(self.objectives)

    def observe(self, parts: Sequence[tuple[Tensor, ...]], number: int, gradient: Tensor) -> None:
        """Take a parameter's gradient into the part of a subject's running mean, and of the sum of all effects."""
        weights, mean, whole = parts[number]
        mean.lerp_(gradient.mul_(weights), 1 - self.momentum)
        whole += gradient

    def state_dict(self) -> dict[str, Tensor]:
        """Gates, both moments (the first one per concept) and the number of steps done."""
        steps_done = torch.tensor(self.steps_done)
        return {
            "gates": self.gates,
            "exp_avg_per_concept": self.exp_avg_per_concept,
            "exp_avg_sq": self.exp_avg_sq,
            "steps_done": steps_done,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume from `state`."""
        self.gates, self.exp_avg_per_concept = (
            state["gates"].to(self.gates),
            state["exp_avg_per_concept"].to(self.exp_avg_per_concept),
        )
        self.exp_avg_sq, self.steps_done = state["exp_avg_sq"].to(self.exp_avg_sq), int(state["steps_done"])

    def ranking(self) -> Ranking:
        """How far each gate fell; those that fell below 1/2 are zeroed."""
        return Ranking(1 - self.gates, int(self.mask.sum()))

    def assign_owners(self) -> Tensor:
        """What each concept zeroes now, boolean, (concepts, n).

        Every concept keeps what is still zeroed of its own; a weight that nobody owned goes to the concept whose loss
        asked for it most, by the running mean of theta * gradient.
        """
        fresh = self.mask & ~self.owner_mask.any(0)
        wanted = self.exp_avg_per_concept.argmax(0)
        claims = torch.arange(len(self.exp_avg_per_concept), device=wanted.device)[:, None] == wanted
        return (self.owner_mask & self.mask) | (claims & fresh)
