"""Method `tstat`: one pass, the mean of theta * gradient over its standard deviation."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from conestool.search.methods.base import Ranking, method
from conestool.search.objective import Objective
from conestool.search.parameters import quantile

__all__ = ["TStatistic"]


@method("tstat")
@dataclass
class TStatistic:
    """Score t_i = mean / (std + floor) of theta_i * dL_con/dtheta_i over batches.

    Our choice: consistent small effects beat rare large ones, so the picks spread over the layers and stay where the
    first order holds. `floor` is the given quantile of all std, so that weights without any effect do not win.
    """

    objective: Objective
    steps: int = 60
    floor: float = 0.5
    total: Tensor = field(init=False)
    squares: Tensor = field(init=False)
    seen: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.total = torch.zeros_like(self.objective.theta, dtype=torch.float32)
        self.squares = torch.zeros_like(self.total)

    def step(self, index: int) -> float:
        """Add batch `index` at the untouched weights; returns its L_con."""
        parts = list(self.objective.parts(self.objective.theta, self.total, self.squares))

        def use(number: int, gradient: Tensor) -> None:
            theta, total, squares = parts[number]
            effect = gradient.mul_(theta)
            total += effect
            squares.addcmul_(effect, effect)

        loss = self.objective.gradient(self.objective.theta, index, use)
        self.seen += 1
        return loss

    def state(self) -> dict[str, Tensor]:
        """The running sums and the number of batches in them."""
        return {"total": self.total, "squares": self.squares, "seen": torch.tensor(self.seen)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.total, self.squares = state["total"].to(self.total), state["squares"].to(self.squares)
        self.seen = int(state["seen"])

    def ranking(self) -> Ranking:
        """The t-statistics; how many to shut is left to the caller."""
        mean = self.total / max(1, self.seen)
        std = (self.squares / max(1, self.seen) - mean.square()).clamp_min(0).sqrt()
        return Ranking(mean / (std + quantile(std, self.floor)).clamp_min(torch.finfo(std.dtype).tiny))
