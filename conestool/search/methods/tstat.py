"""Method `tstat`: one pass, the mean of theta * gradient over its standard deviation."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from conestool.search.methods.base import Ranking, method
from conestool.search.objective import Objective
from conestool.search.parameters import approx_quantile

__all__ = ["TStatistic"]


@method("tstat")
@dataclass
class TStatistic:
    """Score t_i = mean / (std + eps) of theta_i * dL_con/dtheta_i over batches.

    Our choice: consistent small effects beat rare large ones, so the picks spread over the layers and stay where the
    first order holds. eps is the `eps_quantile` quantile of all std, so that weights without any effect do not win.
    """

    objective: Objective
    steps: int = 60
    eps_quantile: float = 0.5
    total: Tensor = field(init=False)
    squares: Tensor = field(init=False)
    steps_done: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.total = torch.zeros_like(self.objective.weights, dtype=torch.float32)
        self.squares = torch.zeros_like(self.total)

    def step(self, index: int) -> float:
        """Add batch `index` at the untouched weights; returns its L_con."""
        parts = list(self.objective.split_by_parameter(self.objective.weights, self.total, self.squares))

        def callback(number: int, gradient: Tensor) -> None:
            weights, total, squares = parts[number]
            effect = gradient.mul_(weights)
            total += effect
            squares.addcmul_(effect, effect)

        loss = self.objective.gradient(self.objective.weights, index, callback)
        self.steps_done += 1
        return loss

    def state_dict(self) -> dict[str, Tensor]:
        """The running sums and the number of batches in them."""
        return {"total": self.total, "squares": self.squares, "steps_done": torch.tensor(self.steps_done)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume from `state`."""
        self.total, self.squares = state["total"].to(self.total), state["squares"].to(self.squares)
        self.steps_done = int(state["steps_done"])

    def ranking(self) -> Ranking:
        """The t-statistics; how many to zero is left to the caller."""
        mean = self.total / max(1, self.steps_done)
        std = (self.squares / max(1, self.steps_done) - mean.square()).clamp_min(0).sqrt()
        return Ranking(mean / (std + approx_quantile(std, self.eps_quantile)).clamp_min(torch.finfo(std.dtype).tiny))
