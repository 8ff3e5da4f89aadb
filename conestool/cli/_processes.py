"""Started by torchrun or `accelerate launch`: which process this is, and how it meets the others.

The first process alone speaks and writes. What goes wrong in another is said by whoever it happened to first; the
launcher then ends the rest.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from conestool.errors import DeviceError, UsageError, first_line

if TYPE_CHECKING:
    from conestool.cli._models import Where
    from conestool.search.processes import Processes

__all__ = ["SHARED", "check_command", "join", "leave", "rank", "size", "speaks"]

SHARED = ("find", "tune")
"""The commands that several processes can share."""
PATIENCE = timedelta(days=1)
"""How long a process waits for the others, which may be drawing or loading."""
MEET = timedelta(minutes=10)
GRACE = 2.0
"""Seconds in which the launcher ends this process if the first one failed as it did."""


@dataclass
class Meeting:
    """The store through which the processes met, None before."""

    store: Any = None


meeting = Meeting()


def size() -> int:
    """How many processes were launched together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def check_command(name: str | None) -> None:
    """Refuse a command that several processes would each do in full."""
    if size() > 1 and name not in SHARED:
        raise UsageError(
            f"{name or 'this'} is work for one process", f"launch several for {' and '.join(SHARED)} alone"
        )


def join(where: Where) -> tuple[Where, Processes]:
    """Meet the other processes, if there are any; returns where this one works, and all of them."""
    from conestool.search.processes import ALONE, Processes

    if size() == 1:
        return where, ALONE
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        meeting.store, _, _ = next(rendezvous("env://", timeout=MEET))
        dist.init_process_group(backend, store=meeting.store, rank=rank(), world_size=size(), timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"process {rank()} cannot meet the others: {first_line(error)}", "start them with torchrun"
        ) from error
    return replace(where, device=own_device(where.device)), Processes(rank(), size())


def own_device(name: str) -> str:
    """The device of this process: a CUDA device of its own, or the CPU that all share."""
    import torch

    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if name not in ("auto", "cuda"):
        raise UsageError(f"--device {name}: every process takes a device of its own", "use --device cuda, cpu or auto")
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if int(own.partition(":")[2]) < torch.cuda.device_count():
        torch.cuda.set_device(own)
    return own


def leave() -> None:
    """Part from the others, once all is done."""
    if meeting.store is not None:
        import torch.distributed as dist

        dist.destroy_process_group()
        meeting.store = None


def speaks() -> bool:
    """Whether this process is the one to say what went wrong: the first that asks, once they have met."""
    if size() == 1:
        return True
    if meeting.store is None:
        time.sleep(GRACE if rank() else 0)
        return True
    try:
        return bool(meeting.store.add("conestool/errors", 1) == 1)
    except RuntimeError:  # the store is gone, and with it the process that spoke
        return False
