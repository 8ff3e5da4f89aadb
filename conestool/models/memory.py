"""How much memory is free, how many samples fit into it, and doing with less where it runs out."""

from __future__ import annotations

import contextlib
import gc
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from conestool.errors import OutOfMemoryError
from conestool.models.devices import memory_errors

_T = TypeVar("_T")
_SHARE = 0.9
"""Of the free memory, what is planned with."""
_MAX_ENTRIES = 1 << 29
"""What an attention matrix on an Apple GPU stays below: Metal ends the process at 2^31 entries, with 4 bytes each."""
_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass(frozen=True)
class Fit:
    """`samples` of `most` go at once: each takes `each` bytes of the `free` ones; both are 0 where nobody can tell."""

    samples: int
    most: int
    each: int = 0
    free: int = 0


def reclaim(device: torch.device) -> None:
    """Free what an error left behind, and give back what PyTorch keeps of the memory of `device` for later."""
    gc.collect()  # graphs of recomputed activations hold themselves
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken on `device`; on the CPU within the limits of the process and its cgroup."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        used, held = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)(device)  # torch 2.6 lacks it
        return min(free + held, int(share * total)) - used
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory()) - int(torch.mps.current_allocated_memory())
    return min(psutil.virtual_memory().available, *_limits()) if device.type == "cpu" else None


def _limits() -> Iterator[int]:
    """Bytes that limits of this process (ulimit -v) and of its cgroup leave."""
    yield sys.maxsize
    with contextlib.suppress(ImportError):  # Windows
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit - psutil.Process().memory_info().vms
    folder = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no cgroups, or no limit: "max"
        yield int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())


def peak_memory(device: torch.device, *, reset: bool = False) -> int | None:
    """The most bytes at once: on CUDA by PyTorch's counter, on MPS what was taken of the system, else in RAM.

    With `reset` counting begins here, as far as the system lets it. None where it is not told.
    """
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        if reset:
            torch.mps.empty_cache()
        return int(torch.mps.driver_allocated_memory())
    if _STATUS.is_file():  # getrusage would count the parent's memory from before exec
        if reset:
            with contextlib.suppress(OSError):
                _CLEAR_REFS.write_text("5", encoding="ascii")
        lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def that_fit(
    run: Callable[[int], object], most: int, device: torch.device, *, reserve: int = 0, share: float = 1.0
) -> Fit:
    """How many samples `run` can take at once on `device`, at most `most`, by what it takes for one and for two.

    The line through both is followed to nine tenths of what is free without `reserve`, or the `share` of it; a count
    that needs more than half of that is tried, and halved while it does not fit. OutOfMemoryError if one is too many.
    """
    tried = [1, 2] if most > 1 else [1]
    with memory_errors(device):
        run(1)  # also loads kernels and takes workspaces, which stay
    needed, free = [], free_memory(device)
    for count in tried:
        before = peak_memory(device, reset=True)
        try:
            with memory_errors(device):
                run(count)
        except OutOfMemoryError:
            return Fit(1, most, 0, free or 0)
        after = peak_memory(device)
        needed.append(None if before is None or after is None else after - before)
    if free is None or needed[0] is None or needed[-1] is None:
        return Fit(most, most)
    each = max(1, needed[-1] - needed[0] if most > 1 else needed[0])
    room = int(_SHARE * share * (free - reserve)) - needed[0] + each
    samples = min(most, max(1, room // each))
    samples = math.ceil(most / math.ceil(most / samples))  # as few passes, and all alike
    if samples > 2 and samples * each > room / 2:
        samples = shrinking(lambda size: run(size), samples, device)[1]
    return Fit(samples, most, each, free)


def shrinking(work: Callable[[int], _T], size: int, device: torch.device, *, fixed: bool = False) -> tuple[_T, int]:
    """`work(size)`, again with half the `size` wherever memory runs out; and the size with which it went well.

    OutOfMemoryError at size 1, or at once for a `fixed` one.
    """
    while True:
        try:
            with memory_errors(device):
                return work(size), size
        except OutOfMemoryError:
            if size == 1 or fixed:
                raise
        size = -(-size // 2)  # only here the error is gone, and with it all that its traceback held
        reclaim(device)
        warnings.warn(f"{device} ran out of memory: {size} at once from here", stacklevel=2)


def in_parts(
    count: int, size: int, work: Callable[[slice], _T], device: torch.device, *, fixed: bool = False
) -> tuple[list[_T], int]:
    """What `work` makes of 0 to `count` in parts of at most `size`, smaller ones where memory runs out; the size too.

    OutOfMemoryError as in `shrinking`.
    """
    found: list[_T] = []
    start = 0

    def take(some: int) -> _T:
        return work(slice(start, start + some))

    while start < count:
        wanted = min(size, count - start)
        part, taken = shrinking(take, wanted, device, fixed=fixed)
        size = size if taken == wanted else taken
        found.append(part)
        start += taken
    return found, size


@contextmanager
def sliced_attention(device: torch.device) -> Iterator[None]:
    """Within it no attention on an Apple GPU makes a matrix of 2^29 entries, nor keeps one for the backward pass.

    MPS has no fused attention with a derivative: it makes the whole matrix. Here the queries come in slices, each of
    which is computed again in the backward pass. Other devices have kernels of their own.
    """
    if device.type != "mps" or F.scaled_dot_product_attention.__name__ == "sliced":
        yield
        return
    functional: Any = F
    whole = functional.scaled_dot_product_attention

    def sliced(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **more: Any
    ) -> Any:
        if more.get("is_causal"):  # a text encoder's, which is small
            return whole(query, key, value, attn_mask, *rest, **more)
        rows = max(1, (_MAX_ENTRIES - 1) // (query[..., 0, 0].numel() * key.shape[-2]))
        masks = [attn_mask] * query.shape[-2]
        if attn_mask is not None and attn_mask.dim() > 1 and attn_mask.shape[-2] > 1:
            masks = list(attn_mask.split(rows, -2))
        once: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        parts = [
            checkpoint(whole, part, key, value, mask, *rest, **more, **once)
            for part, mask in zip(query.split(rows, -2), masks, strict=False)
        ]
        return torch.cat(parts, -2)

    functional.scaled_dot_product_attention = sliced
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = whole
