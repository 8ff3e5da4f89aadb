"""Method `cones`: the paper's Algorithm 1, made to work."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from conestool.search.methods.base import Ranking, method
from conestool.search.objective import Objective
from conestool.search.parameters import approx_quantile

__all__ = ["Cones"]


@method("cones")
@dataclass
class Cones:
    """M = 1; K times: g = dL_con/dtheta at theta * M; S += theta * g; M <- clip(M - rho * theta * g, 0, 1).

    Source: Cones (ICML 2023), Algorithm 1. Ours: rho = lr / (K * q), where q is the 99th percentile of |theta * g|
    on the first batch, since the paper's 2e-5 means nothing at another scale of gradients; the clip, without which M
    can diverge; and S / K instead of a sum compared with an absolute threshold.
    """

    objective: Objective
    steps: int = 60
    lr: float = 0.2
    mask: Tensor = field(init=False)
    total: Tensor = field(init=False)
    rho: float = field(init=False, default=0.0)
    steps_done: int = field(init=False, default=0)

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
            rho = self.lr / (self.steps * max(approx_quantile(torch.cat(effects).abs_(), 0.99), 1e-30))
            self.rho = float(torch.tensor(rho))  # in fp32, as it is saved
        for effect, (total, mask) in zip(effects, parts(self.total, self.mask), strict=True):
            total += effect
            mask.sub_(effect.mul_(self.rho)).clamp_(0, 1)
        self.steps_done += 1
        return loss

    def state_dict(self) -> dict[str, Tensor]:
        """Mask, running sum, rho and the number of steps done."""
        rho, steps_done = torch.tensor(self.rho), torch.tensor(self.steps_done)
        return {"mask": self.mask, "total": self.total, "rho": rho, "steps_done": steps_done}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume from `state`."""
        self.mask, self.total = state["mask"].to(self.mask), state["total"].to(self.total)
        self.rho, self.steps_done = float(state["rho"]), int(state["steps_done"])

    def ranking(self) -> Ranking:
        """The mean scores S / K; how many to zero is left to the caller (the paper publishes no threshold)."""
        return Ranking(self.total / max(1, self.steps_done))
