"""Loss scaling: float16 gradients neither vanish below its smallest number nor overflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conestool.diffusion.finite import all_finite

__all__ = ["LossScale"]

MAX_SCALE = 65_536.0
GROWTH_INTERVAL = 100


@dataclass
class LossScale:
    """The factor by which the loss is multiplied before the backward pass, and its gradient divided after it.

    Dynamic, as in mixed-precision training (Micikevicius et al. 2018, section 3.2): halved when a gradient overflows,
    doubled after `GROWTH_INTERVAL` that did not. A batch that overflowed is repeated, since a search sees each batch
    once; torch.amp.GradScaler, whose names these are, would skip it. Always a power of two, so that scaling rounds
    nothing; 1 throughout unless `dynamic`.
    """

    dynamic: bool = False
    value: float = 1.0
    growth_tracker: int = 0

    @classmethod
    def of(cls, dtype: torch.dtype) -> LossScale:
        """The scale that a search in `dtype` begins with; only float16 has a range that needs one."""
        return cls(True, MAX_SCALE) if dtype == torch.float16 else cls()

    def backoff(self, gradient: Sequence[Tensor]) -> bool:
        """Whether `gradient` overflowed and a lower scale, set by now, may help; at 1 the overflow is the model's."""
        if self.value <= 1 or all_finite(*gradient):
            return False
        self.value, self.growth_tracker = self.value / 2, 0
        return True

    def update(self) -> None:
        """After a gradient without overflow."""
        self.growth_tracker += 1
        if self.dynamic and self.growth_tracker >= GROWTH_INTERVAL and self.value < MAX_SCALE:
            self.value, self.growth_tracker = self.value * 2, 0

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs; empty where nothing is scaled."""
        return {"loss_scale": torch.tensor([self.value, self.growth_tracker])} if self.dynamic else {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        if self.dynamic and "loss_scale" in state:
            value, growth_tracker = state["loss_scale"].tolist()
            self.value, self.growth_tracker = value, int(growth_tracker)
