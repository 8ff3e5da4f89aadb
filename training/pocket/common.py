"""Checkpoints written atomically, the training log, mixed precision, and several processes working as one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint to a temporary neighbour, then rename: a stop never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(state, temporary)
    temporary.replace(path)


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write a NumPy file to a temporary neighbour, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.save(file, array)
    temporary.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """Return a checkpoint on the CPU, None where there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def log_line(path: Path, **values: object) -> None:
    """Append one JSON line and print it."""
    line = json.dumps(values)
    print(line, flush=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def mixed_precision(device: torch.device) -> torch.autocast:
    """Return bfloat16 autocast where the device computes it fast; AVX2 alone only emulates it."""
    slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    return torch.autocast(device.type, torch.bfloat16, enabled=not slow)


class Team:
    """The processes of one run (``torchrun``), or this one alone; gradients or weights are averaged in one buffer."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1:
            dist.init_process_group("gloo")

    @property
    def leads(self) -> bool:
        """Tell whether this process logs and saves."""
        return self.rank == 0

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes."""
        self._average([p.grad for p in parameters if p.grad is not None])

    def average_weights(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replace every weight by its mean over the processes (local SGD, Stich 2019); moments stay as they are."""
        self._average([p.data for p in parameters])

    def _average(self, tensors: list[torch.Tensor]) -> None:
        if self.size == 1:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def agree(self, value: float) -> float:
        """Return the leader's value, so that all stop at the same step."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(box, 0)
        return float(box)

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1:
            dist.destroy_process_group()
