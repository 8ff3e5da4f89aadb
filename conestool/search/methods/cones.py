"""Method `cones`: the paper's Algorithm 1, made to work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from conestool.search.config import MethodConfig, at_least, setting
from conestool.search.methods.base import Method, Ranking, search_method
from conestool.search.objective import Objective
from conestool.search.parameters import approx_quantile


@dataclass(frozen=True, kw_only=True)
class ConesConfig(MethodConfig):
    """The paper's Algorithm 1; how many to zero is chosen by the loss."""

    lr: float = setting(
        0.2, "Fall of the mask over all steps at the strongest effects of the first batch.", at_least(0)
    )

    def doubts(self, eps: float) -> list[str]:
        """A step that weights of so few bits do not feel."""
        if self.lr / self.steps >= eps:
            return []
        return ["method cones moves its mask by less than these weights resolve; use --dtype float32 or float16"]


@search_method("cones", ConesConfig)
@dataclass
class Cones(Method):
    """M = 1; K times: g = dL_con/dtheta at theta * M; S += theta * g; M <- clip(M - rho * theta * g, 0, 1).

    Source: Cones (ICML 2023), Algorithm 1. Ours: rho = lr / (K * q), where q is the 99th percentile of |theta * g|
    on the first batch, since the paper's 2e-5 means nothing at another scale of gradients; the clip, without which M
    can diverge; and S / K instead of a sum compared with an absolute threshold.
    """

    objective: Objective
    config: ConesConfig
    mask: Tensor = field(init=False)
    total: Tensor = field(init=False)
    rho: float = field(init=False, default=0.0)
    steps_done: int = field(init=False, default=0)
    state_names: ClassVar = ("mask", "total", "rho", "steps_done")

    def __post_init__(self) -> None:
        self.mask = torch.ones_like(self.objective.weights, dtype=torch.float32)
        self.total = torch.zeros_like(self.mask)

    def step(self, index: int) -> float:
        """One iteration of the algorithm on batch `index`; returns L_con under the mask before it."""
        parts, weights = self.objective.split_by_parameter, self.objective.weights
        gradient: dict[int, Tensor] = {}
        masked = (own * mask for own, mask in parts(weights, self.mask))
        loss = self.objective.gradient(masked, index, gradient.__setitem__)
        effects = [gradient[number].mul_(own) for number, (own,) in enumerate(parts(weights))]
        if not self.steps_done:
            rho = self.config.lr / (
                self.config.steps * max(float(approx_quantile(torch.cat(effects).abs_(), 0.99)), 1e-30)
            )
            self.rho = float(torch.tensor(rho))  # in fp32, as it is saved
        for effect, (total, mask) in zip(effects, parts(self.total, self.mask), strict=True):
            total += effect
            mask.sub_(effect.mul_(self.rho)).clamp_(0, 1)
        self.steps_done += 1
        return loss

    def ranking(self) -> Ranking:
        """The mean scores S / K; how many to zero is left to the caller (the paper publishes no threshold)."""
        return Ranking(self.total / max(1, self.steps_done))
