"""Several processes at one search, through accelerate: each takes its rows of every batch, and results are sums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import PartialState, utils
from torch import Tensor

from conestool.errors import DeviceError, LostProcessError, UsageError, first_line, is_out_of_memory

_TIMEOUT = timedelta(days=1)
"""How long a process waits for the others, which may be drawing or loading."""


@dataclass(frozen=True)
class DistributedState:
    """Process `process_index` of `num_processes` that share one search.

    All of them draw the same batches and keep the same scores; gradients, losses and frozen targets are sums over rows,
    so that one process and several differ in the order of summation alone. All must make the same calls.
    """

    process_index: int = 0
    num_processes: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that reads and writes files."""
        return self.process_index == 0

    def shard(self, count: int) -> Tensor:
        """Which of `count` rows are this process's: every n-th, so that all get their share of every term."""
        return torch.arange(self.process_index, count, self.num_processes)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' `tensor`; bit for bit the same in each."""
        if self.num_processes > 1:
            with _distributed_errors():
                tensor = utils.reduce(tensor, "sum")
        return tensor

    def sum(self, value: float, device: torch.device | str = "cpu") -> float:
        """The sum of all processes' `value`, in float64; no tensor is made for one process, as MPS has no float64."""
        if self.num_processes == 1:
            return value
        return float(self.all_reduce(torch.tensor(value, dtype=torch.float64, device=device)))

    def any(self, holds: bool) -> bool:
        """Whether it holds for any process."""
        return self.sum(float(holds)) > 0

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The main process's `tensor`, in place."""
        if self.num_processes > 1:
            with _distributed_errors():
                utils.broadcast(tensor)
        return tensor

    def assert_equal(self, digest: str) -> str:
        """The hexadecimal `digest`; UsageError in all processes unless all hold the same."""
        own = torch.tensor(list(bytes.fromhex(digest)))
        if self.any(not torch.equal(self.broadcast(own.clone()), own)):
            raise UsageError("the processes were given different photos, settings or base models", "give all the same")
        return digest


SINGLE_PROCESS = DistributedState()
_LOST = ("connection", "peer", "socket", "timed out", "timeout", "remote process")
"""What backends say when another process is gone."""


@contextmanager
def _distributed_errors() -> Iterator[None]:
    """Turn the loss of another process into a LostProcessError; that one says itself what happened, if it could.

    What else goes wrong in a collective, such as memory that runs out here, is no matter of theirs.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or any(word in str(error).lower() for word in _LOST)
        if is_out_of_memory(error) or not lost:
            raise
        hint = "if it did not say why, memory may have run out there"
        raise LostProcessError("another process of the search ended", hint) from error


def join(device: str) -> tuple[DistributedState, str]:
    """Meet the other processes that torchrun or `accelerate launch` started; returns the device of this one too.

    Each takes a CUDA device of its own, or the CPU that all share. Tensors on either can be exchanged.
    """
    if device not in ("auto", "cuda", "cpu"):
        hint = "use --device cuda, cpu or auto"
        raise UsageError(f"--device {device}: every process takes a device of its own", hint)
    cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    try:
        state = PartialState(cpu=cpu, backend="gloo" if cpu else "cpu:gloo,cuda:nccl", timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"cannot meet the other processes: {first_line(error)}", "start them with torchrun"
        ) from error
    own = DistributedState(state.process_index, state.num_processes)
    return own, "cpu" if cpu else f"cuda:{state.local_process_index}"
