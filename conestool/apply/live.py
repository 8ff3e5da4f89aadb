"""Concepts in a pipeline's weights, on top of each other, and every bit back in whatever order they leave.

Each application remembers the scalars it changed. Taking one out unwinds the applications above it, one by one and
exactly, and then puts those back. Applications belong to the denoiser: swapped schedulers, LoRAs loaded beside
its weights, a move to another device, torch.compile before or after, and other pipelines around it do not matter.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from conestool.apply.edits import (
    Strength,
    WeightEdit,
    apply_edit,
    apply_edit_,
    check_info,
    gather,
    resolve_edits,
    scatter,
    strengths,
)
from conestool.concept import Cone
from conestool.errors import UsageError
from conestool.models.base_info import describe_model, freeze_identity, unfreeze_identity
from conestool.models.kv_weights import unwrap_compiled
from conestool.models.model import Model


@dataclass(eq=False)
class _Application:
    """One application: what is changed how, the scalars before, and whether `load_cones` made it."""

    edits: list[tuple[nn.Parameter, WeightEdit]]
    loaded: bool
    saved: list[Tensor] = field(default_factory=list)

    def apply(self) -> None:
        """Change the scalars, and remember them."""
        self.saved = []
        for param, edit in self.edits:
            self.saved.append(gather(param, edit.index))
            apply_edit_(param.data, edit)

    def undo(self) -> None:
        """Put the remembered scalars back."""
        for (param, edit), values in reversed(list(zip(self.edits, self.saved, strict=False))):
            scatter(param.data, edit.index, values)

    def is_unmodified(self) -> bool:
        """Whether the scalars are what `apply` made of them; a later change of dtype does not count."""
        return all(
            torch.equal(gather(param, edit.index), apply_edit(values, edit).to(param.device, param.dtype))
            for (param, edit), values in zip(self.edits, self.saved, strict=True)
        )


_APPLIED: WeakKeyDictionary[nn.Module, list[_Application]] = WeakKeyDictionary()


@contextmanager
def apply_cones(
    pipe: Any,
    cone: Cone,
    *,
    strength: Strength = 1.0,
    verify_base_model: bool = True,
    allow_base_mismatch: bool = False,
) -> Iterator[Any]:
    """Within it the concepts of `cone` are zeroed in `pipe` (a pipeline or a Model); yields `pipe`.

    Afterwards every weight has its former bits, also after an exception; contexts may be nested, also with the same
    concepts. Another base model raises BaseModelMismatchError unless `allow_base_mismatch`; `verify_base_model=False`
    saves the hashing (a second or two for SD 1.5, once per pipeline). UsageError for a pipeline whose weights cannot be
    changed in place: offloaded module by module or in groups, quantised, fused, or compiled with frozen weights.
    """
    denoiser, application = _add_application(
        Model.from_pipeline(pipe), cone, strength, verify_base_model, allow_base_mismatch, loaded=False
    )
    try:
        yield pipe
    finally:
        _remove_applications(denoiser, [application], discard_changes=True)


def load_cones(
    pipe: Any,
    cone: Cone,
    *,
    strength: Strength = 1.0,
    verify_base_model: bool = True,
    allow_base_mismatch: bool = False,
) -> None:
    """Zero the concepts of `cone` in `pipe` until `unload_cones`; the arguments and errors are those of `apply_cones`.

    May be called again: concepts loaded one after the other multiply where they share a neuron; merge them first to let
    the larger strength hold.
    """
    _add_application(Model.from_pipeline(pipe), cone, strength, verify_base_model, allow_base_mismatch, loaded=True)


def unload_cones(pipe: Any, *, discard_changes: bool = False) -> None:
    """Take out all that `load_cones` loaded: every weight has its former bits. Nothing happens if nothing is loaded.

    UsageError, and no change, if something else has changed the concept neurons since (fuse_lora, training): undo that
    first, or put the former values back all the same with `discard_changes`.
    """
    denoiser = unwrap_compiled(Model.from_pipeline(pipe).denoiser)
    _remove_applications(
        denoiser, [application for application in _APPLIED.get(denoiser, ()) if application.loaded], discard_changes
    )


@contextmanager
def applied_in_turn(
    pipe: Any, cone: Cone, strength: Strength = 1.0, *, allow_base_mismatch: bool = False
) -> Iterator[Callable[[str], AbstractContextManager[None]]]:
    """Yields a function that takes a concept's name and returns a context in which that concept alone is zeroed.

    For many short turns, such as one for each call of the denoiser: all is checked once. Errors as in `apply_cones`.
    """
    model = Model.from_pipeline(pipe)
    with apply_cones(model, cone, strength=0.0, allow_base_mismatch=allow_base_mismatch):
        turns = {
            concept.name: _Application(list(resolve_edits(model, Cone((concept,)), given)), loaded=False)
            for concept in cone.concepts
            for given in [strengths(cone, strength)[concept.name]]
        }

        @contextmanager
        def zeroed(name: str) -> Iterator[None]:
            try:
                turns[name].apply()
                yield
            finally:
                turns[name].undo()

        yield zeroed


def _add_application(
    model: Model, cone: Cone, strength: Strength, verify_base_model: bool, allow_base_mismatch: bool, loaded: bool
) -> tuple[nn.Module, _Application]:
    """Apply `cone` on top of what is applied already; the denoiser and the new application."""
    denoiser = unwrap_compiled(model.denoiser)
    _refuse_copies(model)
    info = describe_model(model) if verify_base_model else None
    if info:
        check_info(model.id, info, cone, allow_base_mismatch)
    application = _Application(list(resolve_edits(model, cone, strength)), loaded)
    applied = _APPLIED.setdefault(denoiser, [])
    if not applied:
        freeze_identity(model, info)
    try:
        application.apply()
    except BaseException:
        application.undo()
        if not applied:
            unfreeze_identity(denoiser)
        raise
    applied.append(application)
    return denoiser, application


def _remove_applications(denoiser: nn.Module, removed: Collection[_Application], discard_changes: bool) -> None:
    """Take applications out of the pile; UsageError, with the pile as it was, if one was modified."""
    applied = _APPLIED.get(denoiser, [])
    removed = [application for application in applied if application in removed]
    if not removed:
        return
    popped: list[_Application] = []
    while len(popped) < len(applied) - applied.index(removed[0]):
        application = applied[-1 - len(popped)]
        if not (discard_changes or application.is_unmodified()):
            _reapply(popped)
            raise UsageError(
                "the concept neurons have changed since the concepts were loaded",
                "undo that first (unfuse_lora), or force it with unload_cones(pipe, discard_changes=True)",
            )
        application.undo()
        popped.append(application)
    _reapply([application for application in popped if application not in removed])
    applied[:] = [application for application in applied if application not in removed]
    if not applied:
        unfreeze_identity(denoiser)


def _reapply(popped: Collection[_Application]) -> None:
    """Apply again what was popped from the top down."""
    for application in reversed(list(popped)):
        application.apply()


def refuse_applied(model: Model) -> None:
    """Refuse to make a model permanent or write it while concepts are applied to its weights in memory."""
    if _APPLIED.get(unwrap_compiled(model.denoiser)):
        raise UsageError(
            f"{model.id} has concepts applied to its weights", "leave `apply_cones`, or call unload_cones first"
        )


def _refuse_copies(model: Model) -> None:
    """Refuse a denoiser that does not compute with the parameters that it shows, but with copies kept elsewhere."""
    modules = list(model.denoiser.modules())
    registries: list[Any] = [module._diffusers_hook for module in modules if hasattr(module, "_diffusers_hook")]
    if any(registry.get_hook("group_offloading") is not None for registry in registries):
        raise UsageError(
            f"{model.id} is offloaded in groups, from copies of its weights",
            "use enable_model_cpu_offload instead of enable_group_offload",
        )
    compiled = unwrap_compiled(model.denoiser) is not model.denoiser or any(
        module._compiled_call_impl for module in modules
    )
    inductor = sys.modules.get("torch._inductor.config")
    if compiled and getattr(inductor, "freezing", False):
        raise UsageError(
            f"{model.id} is compiled with frozen weights",
            "set torch._inductor.config.freezing = False and compile anew",
        )
