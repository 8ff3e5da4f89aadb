"""Method `tstat`: one pass, the mean of theta * gradient over its standard deviation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from conestool.search.config import SHARE, MethodConfig, setting
from conestool.search.methods.base import Method, Ranking, search_method
from conestool.search.objective import Objective
from conestool.search.parameters import approx_quantile


@dataclass(frozen=True, kw_only=True)
class TStatConfig(MethodConfig):
    """Mean over standard deviation of theta * gradient; how many to zero is chosen by the loss."""

    eps_quantile: float = setting(0.5, "Quantile of all standard deviations that is added to each.", SHARE)


@search_method("tstat", TStatConfig)
@dataclass
class TStatistic(Method):
    """Score t_i = mean / (std + eps) of theta_i * dL_con/dtheta_i over batches.

    Our choice: consistent small effects beat rare large ones, so the picks spread over the layers and stay where the
    first order holds. eps is the `eps_quantile` quantile of all std, so that weights without any effect do not win.
    """

    objective: Objective
    config: TStatConfig
    total: Tensor = field(init=False)
    squares: Tensor = field(init=False)
    steps_done: int = field(init=False, default=0)
    state_names: ClassVar = ("total", "squares", "steps_done")

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

    def ranking(self) -> Ranking:
        """The t-statistics; how many to zero is left to the caller."""
        mean = self.total / max(1, self.steps_done)
        std = (self.squares / max(1, self.steps_done) - mean.square()).clamp_min(0).sqrt()
        return Ranking(
            mean / (std + approx_quantile(std, self.config.eps_quantile)).clamp_min(torch.finfo(std.dtype).tiny)
        )
