"""Started by torchrun or `accelerate launch`: which process this is. None of it imports torch before it must.

The first process alone speaks and writes. What goes wrong in another is said by whoever it happened to; the launcher
then ends the rest.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from conestool.errors import LostProcessError, UsageError

if TYPE_CHECKING:
    from conestool.cli._options import Where
    from conestool.search.distributed import DistributedState

SHARED = ("find", "tune")
"""The commands that several processes can share."""
GRACE = 2.0
"""Seconds in which the launcher ends this process if another one has failed."""


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


def join(where: Where) -> tuple[Where, DistributedState]:
    """Meet the other processes, if there are any; returns where this one works, and all of them."""
    from conestool.search.distributed import SINGLE_PROCESS, join

    if size() == 1:
        return where, SINGLE_PROCESS
    processes, device = join(where.device)
    return replace(where, device=device), processes


def leave() -> None:
    """Part from the others, once all is done."""
    if size() > 1 and "accelerate" in sys.modules:
        from accelerate import PartialState

        PartialState().destroy_process_group()


def may_speak(error: BaseException) -> bool:
    """Whether this process is to say what went wrong.

    One that failed by itself waits a little if it is not the first, and one that lost another in any case: if what
    happened is said by now, the launcher ends this process meanwhile. Ctrl-C is the first one's to acknowledge.
    """
    if rank() and isinstance(error, KeyboardInterrupt):
        return False
    if rank() or isinstance(error, LostProcessError):
        time.sleep(GRACE)
    return True
