"""Several processes at one search: each takes its rows of every batch, and what they find is added up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from conestool.errors import DeviceError

__all__ = ["ALONE", "Processes"]


@dataclass(frozen=True)
class Processes:
    """Process `rank` of `size` that share one search through torch.distributed's default group.

    All of them draw the same batches and keep the same scores; gradients, losses and kept answers are sums over rows,
    so that one process and several differ in the order of summation alone. All must make the same calls.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that reads and writes files."""
        return self.rank == 0

    def rows(self, count: int) -> Tensor:
        """Which of `count` rows are this process's: every `size`-th, so that all get their share of every term."""
        return torch.arange(self.rank, count, self.size)

    def add(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' `tensor`, in place; bit for bit the same in each."""
        if self.size > 1:
            with company():
                dist.all_reduce(tensor)
        return tensor

    def total(self, value: float, device: torch.device) -> float:
        """The sum of all processes' `value`."""
        return float(self.add(torch.tensor(value, dtype=torch.float64, device=device))) if self.size > 1 else value

    def any(self, holds: bool) -> bool:
        """Whether it holds for any process."""
        return self.total(float(holds), torch.device("cpu")) > 0

    def give(self, tensor: Tensor) -> Tensor:
        """The first process's `tensor`, in place."""
        if self.size > 1:
            with company():
                dist.broadcast(tensor, 0)
        return tensor

    def same(self, digest: str) -> bool:
        """Whether all processes hold the same hexadecimal `digest`."""
        own = torch.tensor(list(bytes.fromhex(digest)))
        return not self.any(not torch.equal(self.give(own.clone()), own))


@contextmanager
def company() -> Iterator[None]:
    """Turn the loss of another process into a DeviceError; that one says itself what happened, if it could."""
    try:
        yield
    except RuntimeError as error:
        raise DeviceError(
            "another process of the search ended", "if it did not say why, memory may have run out there"
        ) from error


ALONE = Processes()
