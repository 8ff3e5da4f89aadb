"""With how much memory a search makes do: the same search, and the same result but for the order of sums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from conestool.diffusion.models import Model
from conestool.errors import UsageError
from conestool.search.layout import Layout, borrowed
from conestool.search.settings import require

__all__ = ["PLENTY", "Resources", "aside", "at_work"]

AT_ONCE = 32


@dataclass(frozen=True)
class Resources:
    """How a search spends memory and time; nothing of it goes into the file.

    `micro_batch` is how many samples go through the model at once (None: a step's whole batch, up to 32, and eight
    pictures where it draws or encodes); gradients of the parts are added in fp32. `gradient_checkpointing` recomputes
    activations in the backward pass instead of keeping them. `offload_scores` keeps the search's own vectors (several
    fp32 numbers for every K/V weight) in the machine's memory, where its steps then run, instead of on the device.
    """

    micro_batch: int | None = None
    gradient_checkpointing: bool = False
    offload_scores: bool = False

    def __post_init__(self) -> None:
        require(self.micro_batch is None or self.micro_batch >= 1, "micro_batch", self.micro_batch, "at least 1")

    @property
    def samples(self) -> int:
        """The most samples that the denoiser sees at once."""
        return self.micro_batch or AT_ONCE

    def pictures(self, usual: int) -> int:
        """The most pictures that are drawn or encoded at once, where it is `usual` with memory to spare."""
        return min(usual, self.samples)


PLENTY = Resources()


@contextmanager
def at_work(model: Model, resources: Resources) -> Iterator[Layout]:
    """The K/V weights of `model`, borrowed for a search; afterwards the model is as it was, bit for bit."""
    home = torch.device("cpu") if resources.offload_scores else model.device
    with borrowed(model.denoiser, home) as layout, ExitStack() as stack:
        if resources.gradient_checkpointing:
            stack.enter_context(checkpointed(model.denoiser))
        yield layout


@contextmanager
def checkpointed(denoiser: Any) -> Iterator[None]:
    """Within it the denoiser's blocks keep their inputs alone for the backward pass, and compute the rest again."""
    if denoiser.is_gradient_checkpointing:
        yield
        return
    try:
        denoiser.enable_gradient_checkpointing()
    except ValueError as error:
        raise UsageError(
            f"{type(denoiser).__name__} cannot recompute activations", "search without gradient checkpointing"
        ) from error
    try:
        yield
    finally:
        denoiser.disable_gradient_checkpointing()


@contextmanager
def aside(model: Model) -> Iterator[None]:
    """Within it autoencoder and text encoders lie in the machine's memory, if the model is on a device with its own.

    For once latents and text are encoded. Parts that accelerate moves by hooks of its own are left to it.
    """
    moved = [] if model.device.type == "cpu" else [part for part in resting(model) if device_of(part) == model.device]
    try:
        for part in moved:
            part.to("cpu")
        release(model.device)
        yield
    finally:
        for part in moved:
            part.to(model.device)


def resting(model: Model) -> list[nn.Module]:
    """The modules of the pipeline that a step of the search does not call."""
    parts = [part for part in model.pipe.components.values() if isinstance(part, nn.Module)]
    return [part for part in parts if part is not model.denoiser and not hasattr(part, "_hf_hook")]


def device_of(module: nn.Module) -> torch.device | None:
    """Where a module's first parameter lies, None if it has none."""
    return next((parameter.device for parameter in module.parameters()), None)


def release(device: torch.device) -> None:
    """Give memory that nothing uses any more back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
