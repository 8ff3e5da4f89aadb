"""Loss scaling: float16 gradients neither vanish below its smallest number nor overflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conestool.diffusion.finite import all_finite

__all__ = ["LossScale"]

LARGEST = 65_536.0
PATIENCE = 100


@dataclass
class LossScale:
    """The factor by which the loss is multiplied before the backward pass, and its gradient divided after it.

    Dynamic, as in mixed-precision training (Micikevicius et al. 2018, section 3.2): halved when a gradient overflows,
    doubled after `PATIENCE` that did not. A batch that overflowed is repeated and never skipped, since a search sees
    each batch once. Always a power of two, so that scaling rounds nothing; 1 throughout unless `dynamic`.
    """

    dynamic: bool = False
    value: float = 1.0
    calm: int = 0

    @classmethod
    def of(cls, dtype: torch.dtype) -> LossScale:
        """The scale that a search in `dtype` begins with; only float16 has a range that needs one."""
        return cls(True, LARGEST) if dtype == torch.float16 else cls()

    def retry(self, gradient: Sequence[Tensor]) -> bool:
        """Whether `gradient` overflowed and a lower scale, set by now, may help; at 1 the overflow is the model's."""
        if self.value <= 1 or all_finite(*gradient):
            return False
        self.value, self.calm = self.value / 2, 0
        return True

    def passed(self) -> None:
        """After a gradient without overflow."""
        self.calm += 1
        if self.dynamic and self.calm >= PATIENCE and self.value < LARGEST:
            self.value, self.calm = self.value * 2, 0

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs; empty where nothing is scaled."""
        return {"loss_scale": torch.tensor([self.value, self.calm])} if self.dynamic else {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        if self.dynamic and "loss_scale" in state:
            value, calm = state["loss_scale"].tolist()
            self.value, self.calm = value, int(calm)
