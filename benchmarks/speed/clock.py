"""Times of what is compared, in turn, and how many bytes each needs at most."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """CPU seconds of this process for `work`; on CUDA the time until the device is done with it."""
    if not device.startswith("cuda"):
        begun = time.process_time()
        work()
        return time.process_time() - begun
    torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def take_turns(works: Mapping[str, Callable[[], object]], number: int, device: str = "cpu") -> dict[str, float]:
    """Seconds of each of `works`, one after the other; the first one is another each round, by its `number`."""
    names = list(works)
    turn = number % len(names)
    return {name: seconds(works[name], device) for name in names[turn:] + names[:turn]}


def child_seconds(command: Sequence[str], folder: Path, code: int = 0) -> float:
    """User and system seconds of a child process that must end with `code`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    if done.returncode != code:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.decode()[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def resident_bytes(device: str) -> int:
    """What the process holds now: resident memory, or what PyTorch holds of the CUDA device."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(device: str) -> int:
    """The most that it ever held (on CUDA, since `resident_bytes` was asked)."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
