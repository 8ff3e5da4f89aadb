"""The learned mask of several concepts at once: one gate per weight, moved by the losses of all subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from conestool.search.methods.base import Ranking
from conestool.search.methods.mask import masked, move, strong
from conestool.search.objective import Objective

__all__ = ["JointMask"]


@dataclass
class JointMask:
    """One gate per weight, at 1/2 - `margin` where a concept shuts it and at 1/2 + `caution` elsewhere.

    A weight is shut while its gate is below 1/2. Reopening is quick, and shutting takes as long as in `mask`, whose
    gates start at 1: with both at the same distance many weights are shut at once and overshoot, and reopening alone
    does better. Each step runs every subject's batch under the hard mask of the union and moves all gates along the sum
    of their straight-through gradients theta * dL_con/dtheta, as method `mask` does (Adam's step with its denominator
    floored at its `floor` quantile over all weights); those of weights that no concept shut rise by `pull` besides, so
    that only strong effects shut one. With `reopen_only` nothing new is shut. `owned` is boolean,
    (concepts, n). Our choice; the paper says only that a few further steps help.
    """

    objectives: Sequence[Objective]
    owned: Tensor
    steps: int = 20
    rate: float = 0.05
    margin: float = 0.1
    caution: float = 0.5
    reopen_only: bool = False
    momentum: float = 0.9
    decay: float = 0.95
    floor: float = 0.98
    pull: float = 0.01
    gates: Tensor = field(init=False)
    asked: Tensor = field(init=False)
    second: Tensor = field(init=False)
    seen: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        theta = self.objectives[0].theta
        self.gates = torch.where(self.owned.any(0), 0.5 - self.margin, 0.5 + self.caution)
        self.asked = torch.zeros(len(self.objectives), len(theta), device=theta.device)
        self.second = torch.zeros_like(theta, dtype=torch.float32)

    @property
    def shut(self) -> Tensor:
        """The weights that are shut now, boolean, (n,)."""
        return self.gates < 0.5

    def step(self, index: int) -> float:
        """Learn from batch `index` of every subject; returns their mean L_con under the hard mask before the step."""
        theta = self.objectives[0].theta
        effect, total = torch.zeros_like(self.second), 0.0
        for asked, objective in zip(self.asked, self.objectives, strict=True):
            use = partial(self.observe, list(objective.parts(theta, asked, effect)))
            total += objective.gradient(masked(objective.parts(theta, self.gates)), index, use)
        self.seen += 1
        self.second.lerp_(effect.square_(), 1 - self.decay)
        bias = 1 - self.momentum**self.seen, 1 - self.decay**self.seen
        move(self.gates, self.asked.sum(0), self.second, bias, self.rate, strong(self.second, self.floor))
        free = ~self.owned.any(0)
        self.gates[free] = 1.0 if self.reopen_only else (self.gates[free] + self.pull).clamp_(max=1)
        return total / len(self.objectives)

    def observe(self, parts: Sequence[tuple[Tensor, ...]], number: int, gradient: Tensor) -> None:
        """Take a parameter's gradient into the part of a subject's running mean, and of the sum of all effects."""
        theta, mean, whole = parts[number]
        mean.lerp_(gradient.mul_(theta), 1 - self.momentum)
        whole += gradient

    def state(self) -> dict[str, Tensor]:
        """Gates, both moments (the first one per concept) and the number of steps done."""
        seen = torch.tensor(self.seen)
        return {"gates": self.gates, "asked": self.asked, "second": self.second, "seen": seen}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.gates, self.asked = state["gates"].to(self.gates), state["asked"].to(self.asked)
        self.second, self.seen = state["second"].to(self.second), int(state["seen"])

    def ranking(self) -> Ranking:
        """How far each gate fell; those that fell below 1/2 are shut."""
        return Ranking(1 - self.gates, int(self.shut.sum()))

    def divided(self) -> Tensor:
        """What each concept shuts now, boolean, (concepts, n).

        Every concept keeps what is still shut of its own; a weight that nobody owned goes to the concept whose loss
        asked for it most, by the running mean of theta * gradient.
        """
        fresh = self.shut & ~self.owned.any(0)
        wanted = self.asked.argmax(0)
        claims = torch.arange(len(self.asked), device=wanted.device)[:, None] == wanted
        return (self.owned & self.shut) | (claims & fresh)
