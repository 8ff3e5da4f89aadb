"""Concepts in a pipeline's weights, on top of each other, and every bit back in whatever order they leave.

Each application is a layer that remembers the scalars it changed. Taking one out unwinds the layers above it, one by
one and exactly, and then puts those back. The layers belong to the denoiser: swapped schedulers, LoRAs loaded beside
its weights, a move to another device, torch.compile before or after, and other pipelines around it do not matter.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from conestool.apply.edits import (
    Change,
    Strength,
    check_base,
    check_info,
    gather,
    plan,
    scale_tensor,
    scaled,
    scatter,
)
from conestool.concept import Cone
from conestool.errors import UsageError
from conestool.models.base_info import begin_patch, describe, end_patch
from conestool.models.kv_weights import bare
from conestool.models.model import Model, wrap

__all__ = ["applied", "load_cones", "refuse_layers", "shut", "unload_cones"]


@dataclass(eq=False)
class Layer:
    """One application: what is changed how, the scalars before, and whether `load_cones` made it."""

    changes: list[tuple[nn.Parameter, Change]]
    loaded: bool
    saved: list[Tensor] = field(default_factory=list)

    def apply(self) -> None:
        """Change the scalars, and remember them."""
        self.saved = []
        for param, change in self.changes:
            self.saved.append(gather(param, change.index))
            scale_tensor(param.data, change)

    def undo(self) -> None:
        """Put the remembered scalars back."""
        for (param, change), values in reversed(list(zip(self.changes, self.saved, strict=False))):
            scatter(param.data, change.index, values)

    def intact(self) -> bool:
        """Whether the scalars are what `apply` made of them; a later change of dtype does not count."""
        return all(
            torch.equal(gather(param, change.index), scaled(values, change).to(param.device, param.dtype))
            for (param, change), values in zip(self.changes, self.saved, strict=True)
        )


LAYERS: WeakKeyDictionary[nn.Module, list[Layer]] = WeakKeyDictionary()


@contextmanager
def applied(
    pipe: Any, cone: Cone, *, strength: Strength = 1.0, check: bool = True, force: bool = False
) -> Iterator[Any]:
    """Within it the concepts of `cone` are shut in `pipe` (a pipeline or a Model); yields `pipe`.

    Afterwards every weight has its former bits, also after an exception; contexts may be nested, also with the same
    concepts. Another base model raises BaseModelMismatchError unless `force`; `check=False` saves the hashing (a second
    or two for SD 1.5, once per pipeline). UsageError for a pipeline whose weights cannot be changed in place: offloaded
    module by module or in groups, quantised, fused, or compiled with frozen weights.
    """
    denoiser, layer = add_layer(wrap(pipe), cone, strength, check, force, loaded=False)
    try:
        yield pipe
    finally:
        remove_layers(denoiser, [layer], force=True)


def load_cones(pipe: Any, cone: Cone, *, strength: Strength = 1.0, check: bool = True, force: bool = False) -> None:
    """Shut the concepts of `cone` in `pipe` until `unload_cones`; the arguments and errors are those of `applied`.

    May be called again: concepts loaded one after the other multiply where they share a neuron; merge them first to let
    the larger strength hold.
    """
    add_layer(wrap(pipe), cone, strength, check, force, loaded=True)


def unload_cones(pipe: Any, *, force: bool = False) -> None:
    """Take out all that `load_cones` loaded: every weight has its former bits. Nothing happens if nothing is loaded.

    UsageError, and no change, if something else has changed the concept neurons since (fuse_lora, training): undo that
    first, or put the former values back all the same with `force`.
    """
    denoiser = bare(wrap(pipe).denoiser)
    remove_layers(denoiser, [layer for layer in LAYERS.get(denoiser, ()) if layer.loaded], force)


def shut(pipe: Any, cone: Cone, *, strength: Strength = 1.0, check: bool = True, force: bool = False) -> None:
    """Shut the concepts of `cone` in `pipe` for good; for a while, use `applied` or `load_cones`."""
    model = wrap(pipe)
    refuse_layers(model)
    if check:
        check_base(model, cone, force=force)
    for param, change in list(plan(model, cone, strength)):
        scale_tensor(param.data, change)
    model.forget()


def add_layer(
    model: Model, cone: Cone, strength: Strength, check: bool, force: bool, loaded: bool
) -> tuple[nn.Module, Layer]:
    """Apply `cone` on top of what is applied already; the denoiser and its new layer."""
    denoiser = bare(model.denoiser)
    refuse_copies(model)
    info = describe(model) if check else None
    if info:
        check_info(model.id, info, cone, force)
    layer = Layer(list(plan(model, cone, strength)), loaded)
    begin_patch(model, info)
    try:
        layer.apply()
    except BaseException:
        layer.undo()
        end_patch(denoiser)
        raise
    LAYERS.setdefault(denoiser, []).append(layer)
    return denoiser, layer


def remove_layers(denoiser: nn.Module, leaving: Collection[Layer], force: bool) -> None:
    """Take layers out of the pile; UsageError, with the pile as it was, if one is not intact, unless `force`."""
    pile = LAYERS.get(denoiser, [])
    leaving = [layer for layer in pile if layer in leaving]
    if not leaving:
        return
    lifted: list[Layer] = []
    while len(lifted) < len(pile) - pile.index(leaving[0]):
        layer = pile[-1 - len(lifted)]
        if not (force or layer.intact()):
            put_back(lifted)
            raise UsageError(
                "the concept neurons have changed since the concepts were loaded",
                "undo that first (unfuse_lora), or put the former values back with unload_cones(pipe, force=True)",
            )
        layer.undo()
        lifted.append(layer)
    put_back([layer for layer in lifted if layer not in leaving])
    pile[:] = [layer for layer in pile if layer not in leaving]
    for _ in leaving:
        end_patch(denoiser)


def put_back(lifted: Collection[Layer]) -> None:
    """Apply layers again that were lifted from the top down."""
    for layer in reversed(list(lifted)):
        layer.apply()


def refuse_layers(model: Model) -> None:
    """Refuse to make a model permanent or write it while concepts are applied to its weights in memory."""
    if LAYERS.get(bare(model.denoiser)):
        raise UsageError(
            f"{model.id} has concepts applied to its weights", "leave `applied`, or call unload_cones first"
        )


def refuse_copies(model: Model) -> None:
    """Refuse a denoiser that does not compute with the parameters that it shows, but with copies kept elsewhere."""
    modules = list(model.denoiser.modules())
    registries: list[Any] = [module._diffusers_hook for module in modules if hasattr(module, "_diffusers_hook")]
    if any(registry.get_hook("group_offloading") is not None for registry in registries):
        raise UsageError(
            f"{model.id} is offloaded in groups, from copies of its weights",
            "use enable_model_cpu_offload instead of enable_group_offload",
        )
    compiled = bare(model.denoiser) is not model.denoiser or any(module._compiled_call_impl for module in modules)
    inductor = sys.modules.get("torch._inductor.config")
    if compiled and getattr(inductor, "freezing", False):
        raise UsageError(
            f"{model.id} is compiled with frozen weights",
            "set torch._inductor.config.freezing = False and compile anew",
        )
