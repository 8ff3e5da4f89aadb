"""What a pass through a denoiser takes in memory, found without computing or allocating anything."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from conestool.diffusion.conditioning import Conditioning
from conestool.diffusion.families import Family
from conestool.diffusion.quiet import quiet
from conestool.diffusion.weights import kv_weights

__all__ = ["Imagined", "Meter", "coder_bytes"]


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors made within it that are alive: `live` now, and the most at once as `peak`.

    Storages that were there before do not count, views count once, and what a kernel needs inside is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self.known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(each.untyped_storage()) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, Tensor) and id(each.untyped_storage()) not in given:
                self.note(each.untyped_storage())
        return out

    def note(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed."""
        key, size = id(storage), storage.nbytes()
        if key in self.known or not size:
            return

        def freed(_: Any) -> None:
            self.live -= size
            self.known.pop(key, None)

        self.known[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)


@dataclass
class Imagined:
    """A denoiser of the same configuration as `denoiser`, in `dtype`, whose weights take no memory.

    It is asked for latents of the shape `latents` (c, h, w) under `cond`, which has one row.
    """

    family: Family
    denoiser: Any
    latents: tuple[int, ...]
    cond: Conditioning
    dtype: torch.dtype
    mode: FakeTensorMode = field(default_factory=FakeTensorMode, repr=False)
    known: dict[tuple[int, bool, bool], int] = field(default_factory=dict, repr=False)

    @cached_property
    def twin(self) -> nn.Module:
        """The denoiser of fake weights; those of K and V alone want gradients."""
        with self.mode:
            made = imagined(self.denoiser, self.dtype)
            for parameter in kv_weights(made).values():
                parameter.requires_grad_(True)
                parameter.register_post_accumulate_grad_hook(used)  # type: ignore[no-untyped-call]
        return made

    def pass_bytes(self, samples: int, *, learning: bool = True, checkpointing: bool = False) -> int:
        """The most bytes alive at once in a pass of so many samples, beside the weights.

        With `learning` forward and backward, each gradient of the K/V weights being used up as soon as it is there;
        else the forward pass alone.
        Attention is counted as the CPU's fused kernel keeps it, as those of GPUs do.
        """
        key = (samples, learning, checkpointing)
        if key not in self.known:
            self.known[key] = self.measure(*key)
        return self.known[key]

    def measure(self, samples: int, learning: bool, checkpointing: bool) -> int:
        """One pass on fake tensors."""
        denoiser: Any = self.twin
        if checkpointing:
            denoiser.enable_gradient_checkpointing(RECOMPUTE)
        with self.mode:
            extra = {key: self.mode.from_tensor(value.cpu()) for key, value in self.cond.extra.items()}
            embeds = self.mode.from_tensor(self.cond.embeds.cpu()).to(self.dtype)
            asked = Conditioning(embeds, extra).expand(samples)
            noisy, times = torch.empty(samples, *self.latents, dtype=self.dtype), torch.full((samples,), 500)
            with Meter() as meter, torch.set_grad_enabled(learning):
                answer = self.family.predict(denoiser, noisy, times, asked).float()
                if learning:
                    torch.autograd.backward(answer.square().mean())
        denoiser.zero_grad(set_to_none=True)
        if checkpointing:
            denoiser.disable_gradient_checkpointing()
        return int(meter.peak)


def used(parameter: Tensor) -> None:
    """What Layout.giving does, without using it."""
    parameter.grad = None


RECOMPUTE = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


def imagined(module: Any, dtype: torch.dtype) -> nn.Module:
    """A module of the same configuration on fake weights in `dtype`, without gradients; call under FakeTensorMode."""
    with quiet():
        made: nn.Module = type(module).from_config(module.config)
    for part in made.modules():  # `.to` cannot replace the data of fake parameters
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
    return made.eval()


def coder_bytes(vae: Any, dtype: torch.dtype, latents: tuple[int, ...], scale: int, pictures: int) -> tuple[int, int]:
    """The most bytes alive at once, beside the weights, while pictures are encoded, and while they are decoded."""
    found = []
    with FakeTensorMode(), torch.no_grad():
        made: Any = imagined(vae, dtype)
        drawn = torch.empty(pictures, *latents, dtype=dtype)
        pixels = torch.empty(pictures, 3, latents[1] * scale, latents[2] * scale, dtype=dtype)
        for work, given in ((made.encode, pixels), (made.decode, drawn)):
            with Meter() as meter:
                work(given)
            found.append(meter.peak)
    return found[0], found[1]
