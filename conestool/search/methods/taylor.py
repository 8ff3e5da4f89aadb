"""Method `taylor`: one pass, the mean of theta * gradient."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from conestool.search.config import MethodConfig
from conestool.search.methods.base import Method, Ranking, search_method
from conestool.search.objective import Objective


@dataclass(frozen=True, kw_only=True)
class TaylorConfig(MethodConfig):
    """The mean of theta * gradient at the untouched weights; how many to zero is chosen by the loss."""


@search_method("taylor", TaylorConfig)
@dataclass
class Taylor(Method):
    """Score S_i = mean over batches of theta_i * dL_con/dtheta_i, the first-order fall of L_con when theta_i -> 0.

    Source: the paper's statistic (weight times gradient), without its mask updates; averaged in fp32, because sums
    make any threshold depend on the number of steps.
    """

    objective: Objective
    config: TaylorConfig
    total: Tensor = field(init=False)
    steps_done: int = field(init=False, default=0)
    state_names: ClassVar = ("total", "steps_done")

    def __post_init__(self) -> None:
        self.total = torch.zeros_like(self.objective.weights, dtype=torch.float32)

    def step(self, index: int) -> float:
        """Add batch `index` at the untouched weights; returns its L_con."""
        parts = list(self.objective.split_by_parameter(self.total, self.objective.weights))

        def callback(number: int, gradient: Tensor) -> None:
            total, weights = parts[number]
            total.addcmul_(gradient, weights)

        loss = self.objective.gradient(self.objective.weights, index, callback)
        self.steps_done += 1
        return loss

    def ranking(self) -> Ranking:
        """The mean scores; how many to zero is left to the caller."""
        return Ranking(self.total / max(1, self.steps_done))
