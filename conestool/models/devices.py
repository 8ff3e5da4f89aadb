"""Which device and dtype a model gets, what to say without enough memory, and numbers that are none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from conestool.errors import DeviceError, NonFiniteError, OutOfMemoryError, UsageError, is_out_of_memory
from conestool.models.model import Model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LARGE_MODEL_BYTES = 1 << 30
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_AMPERE = 8
"""The generation of NVIDIA's cards from which on they compute in bfloat16."""


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name` (auto, cpu, mps, cuda or cuda:n); auto takes CUDA, then MPS, then the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdecimal()) or (index and kind != "cuda"):
        raise DeviceError(f"unknown device {name!r}", "use auto, cpu, mps, cuda or cuda:0")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"no device {name}: this machine has {torch.cuda.device_count()} CUDA devices", "use auto")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("no device mps: this machine has no Apple GPU, or PyTorch was built without it", "use auto")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device, stored: torch.dtype | None = None, size: int = 0) -> torch.dtype:
    """The dtype called `name`; auto is float32, but on a CUDA device a 16-bit model's own, and bfloat16 for large ones.

    `stored` is the dtype of the file and `size` its bytes. What the device has no arithmetic for becomes float16. On
    the CPU 16-bit arithmetic is slow, on MPS it drifts.
    """
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise UsageError(f"unknown dtype {name!r}", f"use auto, {', '.join(DTYPES)}")
    if device.type != "cuda" or (size < _LARGE_MODEL_BYTES and stored in (None, torch.float32)):
        return torch.float32
    has_bfloat16 = bool(torch.version.hip) or torch.cuda.get_device_capability(device)[0] >= _AMPERE
    return torch.bfloat16 if has_bfloat16 and stored != torch.float16 else torch.float16


def move_to_device(pipe: Any, device: torch.device, offload: bool = False) -> Any:
    """The pipeline on `device`, with `offload` only the part that computes; DeviceError if it does not fit."""
    with memory_errors(device):
        if not offload:
            return pipe.to(device)
        pipe.enable_model_cpu_offload(device=device)
        return pipe


@contextmanager
def compute_deterministically() -> Iterator[None]:
    """Within it a CUDA device repeats its results as far as PyTorch has kernels that do, and takes longer."""
    backends = torch.backends
    switches = [(backends.cuda.matmul, "allow_tf32"), (backends.cudnn, "allow_tf32"), (backends.cudnn, "benchmark")]
    before = [getattr(*switch) for switch in switches]
    algorithms, workspace = torch.get_deterministic_debug_mode(), os.environ.get(_WORKSPACE)
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        for switch in switches:
            setattr(*switch, False)
        yield
    finally:
        torch.set_deterministic_debug_mode(algorithms)
        for switch, value in zip(switches, before, strict=True):
            setattr(*switch, value)
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)


@contextmanager
def memory_errors(device: torch.device) -> Iterator[None]:
    """Turn an out-of-memory inside it into an OutOfMemoryError that names the device."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{device} is out of memory", "fewer or smaller pictures at once, or bfloat16"
        ) from error


def check_finite(values: Tensor | float, what: str, dtype: torch.dtype) -> None:
    """Raise NonFiniteError unless all of `values` are finite; `dtype` is what they were computed in."""
    tensor = torch.as_tensor(values)
    if all_finite(tensor):
        return
    wrong = "NaN" if bool(tensor.isnan().any()) else "infinite"
    raise NonFiniteError(f"{what} is {wrong} in {dtype_name(dtype)}", precision_hint(dtype))


def all_finite(*parts: Tensor) -> bool:
    """Whether no value is NaN or infinite: finite sums say so in one pass; only others need a second look."""
    sums = torch.stack([part.sum() for part in parts])
    return bool(sums.isfinite().all()) or all(bool(part.isfinite().all()) for part in parts)


def check_weights(model: Model) -> None:
    """Raise NonFiniteError if a weight of any part of the pipeline is NaN or infinite; names the first such tensor."""
    for part, name, weight in _named_weights(model.pipe):
        if weight.device.type != "meta" and weight.is_floating_point() and not all_finite(weight):
            what = "NaN" if bool(weight.isnan().any()) else "infinite"
            raise NonFiniteError(
                f"{model.id}: {part}: {name} holds {what} values",
                "the base model is damaged, or too large for --dtype float16: load it as float32, or get another copy",
            )


def _named_weights(pipe: Any) -> Iterator[tuple[str, str, Tensor]]:
    """Part, name and values of every parameter of a pipeline's modules."""
    for part, module in pipe.components.items():
        if isinstance(module, nn.Module):
            yield from ((part, name, weight.detach()) for name, weight in module.named_parameters())


def dtype_name(dtype: torch.dtype) -> str:
    """The dtype as the command line calls it."""
    return str(dtype).removeprefix("torch.")


def precision_hint(dtype: torch.dtype) -> str:
    """What to try where arithmetic in `dtype` broke down."""
    if dtype == torch.float32:
        return "the base model may be damaged: try another copy or another model, or a smaller rate of the method"
    return "try --dtype float32, or bfloat16, whose range is as large"
