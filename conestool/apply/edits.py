"""Concepts as edits of weights: which scalars of which parameters are multiplied by what, and for which models.

A weight of a concept applied at strength s is multiplied by 1 - s, so 1 zeroes it. Where applied concepts share a
neuron the largest strength holds: what is zero once stays zero, and the order does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from conestool._text import quoted
from conestool.concept import BaseModelInfo, Cone
from conestool.errors import BaseModelMismatchError, UsageError
from conestool.fingerprint import Match, match
from conestool.models.base_info import describe_model
from conestool.models.kv_weights import kv_weights
from conestool.models.model import Model

Strength = float | Mapping[str, float]
"""One strength for all concepts, or one by concept name (1.0 for those not named); each from 0 to 1."""


@dataclass(frozen=True)
class WeightEdit:
    """Of one tensor sorted flat indices, int64, and what each weight is multiplied by, fp32; both (k,)."""

    index: Tensor
    scale: Tensor

    def to(self, device: torch.device) -> WeightEdit:
        """The same on a device."""
        return WeightEdit(self.index.to(device), self.scale.to(device))


def check_base(model: Model, cone: Cone, *, allow_base_mismatch: bool = False) -> list[Match]:
    """How `model` matches the base of each concept.

    BaseModelMismatchError if a match is not accepted, unless `allow_base_mismatch`.
    """
    return check_info(model.id, describe_model(model), cone, allow_base_mismatch)


def check_info(model_id: str, info: BaseModelInfo, cone: Cone, allow_base_mismatch: bool) -> list[Match]:
    """The same for a model that is described already."""
    found = [match(concept.base, info) for concept in cone.concepts]
    for concept, outcome in zip(cone.concepts, found, strict=True):
        if not (outcome.accepted or allow_base_mismatch):
            raise BaseModelMismatchError(
                f"{concept.name} was found on {concept.base.id}, and {model_id} is another model: {outcome.text}",
                f"use --model {quoted(concept.base.id)}, or --allow-base-mismatch to try all the same",
            )
    return found


def strengths(cone: Cone, strength: Strength) -> dict[str, float]:
    """Strength by concept name, checked.

    From 0 to 1: below 0 a weight would grow and above 1 change its sign, neither of which the concept was found for.
    """
    if isinstance(strength, Mapping):
        given = {cone[name].name: float(value) for name, value in strength.items()}
    else:
        given = dict.fromkeys(cone.names, float(strength))
    for name, value in given.items():
        if not 0 <= value <= 1:
            raise UsageError(f"strength {value:g} of {name}: expected 0 (untouched) to 1 (zero)")
    return {name: given.get(name, 1.0) for name in cone.names}


def weight_edits(cone: Cone, strength: Strength) -> dict[str, WeightEdit]:
    """By param name what to change."""
    given = strengths(cone, strength)
    used = [concept for concept in cone.concepts if given[concept.name] > 0]
    params = sorted({param for concept in used for param in concept.indices})
    out = {}
    for param in params:
        parts = [(c.indices[param], given[c.name]) for c in used if param in c.indices]
        index = torch.cat([torch.from_numpy(values.copy()).long() for values, _ in parts])
        scale = torch.cat([torch.full((len(values),), 1 - s, dtype=torch.float32) for values, s in parts])
        edit = WeightEdit(index, scale)
        out[param] = _merge_duplicates(edit) if len(parts) > 1 else edit
    return out


def _merge_duplicates(edit: WeightEdit) -> WeightEdit:
    """Each index once, in order, with the smallest of its scales."""
    unique, place = torch.unique(edit.index, return_inverse=True)
    least = torch.ones(len(unique)).scatter_reduce_(0, place, edit.scale, "amin")
    return WeightEdit(unique, least)


def resolve_edits(model: Model, cone: Cone, strength: Strength) -> Iterator[tuple[nn.Parameter, WeightEdit]]:
    """The parameters to change and how, on their device; all are checked before the first is given."""
    weights = kv_weights(model.denoiser)
    wanted = weight_edits(cone, strength)
    check_shapes(weights, cone, model.id)
    for param, edit in wanted.items():
        weight = weights[param]
        yield weight, edit.to(weight.device)


def check_shapes(weights: Mapping[str, Tensor], cone: Cone, model_id: str) -> None:
    """Refuse, even when forced, a model in which the indices would mean other weights."""
    for concept in cone.concepts:
        for param in concept.indices:
            expected = tuple(concept.base.tensors[param])
            shape = tuple(weights[param].shape) if param in weights else None
            if shape != expected:
                raise BaseModelMismatchError(
                    f"{concept.name} does not fit {model_id}: {param} is {shape or 'missing'}, expected {expected}",
                    f"use the base model it was found on: --model {quoted(concept.base.id)}",
                )


def apply_edit_(data: Tensor, edit: WeightEdit) -> None:
    """Multiply in place, in fp32 and rounded once to the tensor's dtype; scale 0 gives +0."""
    scatter(data, edit.index, apply_edit(gather(data, edit.index), edit))


def apply_edit(values: Tensor, edit: WeightEdit) -> Tensor:
    """The `values` (k,) at the edit's indices as `apply_edit_` leaves them, in their dtype."""
    edit = edit.to(values.device)
    product = values.float() * edit.scale
    return torch.where(edit.scale == 0, torch.zeros_like(product), product).to(values.dtype)


def gather(data: Tensor, index: Tensor) -> Tensor:
    """A copy of the scalars at row-major positions `index` (k,), whatever the tensor's strides."""
    return data.detach()[torch.unravel_index(index.to(data.device), data.shape)].clone()


def scatter(data: Tensor, index: Tensor, values: Tensor) -> None:
    """Set the scalars at row-major positions `index`."""
    data[torch.unravel_index(index.to(data.device), data.shape)] = values.to(data.device, data.dtype)
