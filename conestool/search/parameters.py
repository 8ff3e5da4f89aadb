"""The K/V weights of a denoiser as one flat vector, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn

from conestool.concept import Indices
from conestool.models.kv_weights import execution_device, kv_weights

MAX_SUBSAMPLE = 1_000_000
_CHUNK = 2**20
"""Scores that are looked through together, so that what lies between takes little memory."""
GradientCallback = Callable[[int, Tensor], object]
"""What takes the gradient of one parameter, by its number among them, as a vector of fp32."""


@dataclass
class FlatParameters:
    """Names and parameters of the K/V weights in name order; vectors have their n = sum(numel) entries.

    Vectors lie on the device `score_device`, where it is given, and otherwise with the weights.
    """

    parameters: Mapping[str, nn.Parameter]
    score_device: torch.device | None = None

    @cached_property
    def weights(self) -> Tensor:
        """The weights as they were when this was first asked for, shape (n,), in their own dtype; not to be changed.

        There is one copy, however many objectives share these parameters: a vector of this size counts.
        """
        return torch.cat([p.detach().reshape(-1).to(self.device) for p in self.parameters.values()])

    @property
    def device(self) -> torch.device:
        """Where vectors lie."""
        return self.score_device or next(iter(self.parameters.values())).device

    @property
    def sizes(self) -> list[int]:
        """Number of weights per parameter."""
        return [parameter.numel() for parameter in self.parameters.values()]

    def move(self, device: torch.device) -> None:
        """Let vectors lie on `device` from now on: the copy of the weights, and all that are made of it."""
        self.score_device = device
        self.__dict__["weights"] = self.weights.to(device)

    def zeroed(self, mask: Tensor) -> Iterator[Tensor]:
        """The untouched weights without those in `mask`, boolean (n,) anywhere: a part for each parameter, in turn."""
        for own, part in self.split_by_parameter(self.weights, mask):
            yield own * ~part.to(own.device)

    def get(self) -> Tensor:
        """The weights as they are now, shape (n,), fp32, a copy."""
        return torch.cat([p.detach().reshape(-1).to(self.device).float() for p in self.parameters.values()])

    def split_by_parameter(self, *vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """For one parameter after the other, its part of each of the `vectors` (n,): a view."""
        return zip(*(torch.split(vector, self.sizes) for vector in vectors), strict=True)

    @torch.no_grad()
    def set_(self, weights: Tensor | Iterable[Tensor]) -> None:
        """Set the weights to a vector (n,), or to a part for each parameter, rounded to their own dtype."""
        parts = torch.split(weights, self.sizes) if isinstance(weights, Tensor) else weights
        for part, parameter in zip(parts, self.parameters.values(), strict=True):
            parameter.copy_(part.view_as(parameter))

    @contextmanager
    def stream_gradients(self, callback: GradientCallback) -> Iterator[None]:
        """Give every parameter's gradient to `callback` as soon as a backward pass has it, and keep it no longer.

        `callback` is called with the parameter's number and the gradient (n_i,), fp32, which is its own to change;
        after the last pass with zeros for those that had none.
        """
        missing = dict(enumerate(self.parameters.values()))

        def give(number: int, parameter: Tensor) -> None:
            found, parameter.grad = parameter.grad, None
            missing.pop(number, None)
            if found is not None:
                callback(number, found.reshape(-1).to(self.device).float())

        hooks = []
        for number, parameter in missing.items():
            hook = parameter.register_post_accumulate_grad_hook(partial(give, number))
            hooks.append(hook)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        for number, parameter in missing.items():
            callback(number, torch.zeros(parameter.numel(), device=self.device))

    def indices_from_mask(self, mask: Tensor) -> dict[str, Indices]:
        """The flat indices per param name where the boolean vector `mask` (n,) is true."""
        parts = torch.split(mask, self.sizes)
        return {
            name: part.nonzero().flatten().cpu().numpy().astype(np.int32)
            for name, part in zip(self.parameters, parts, strict=True)
            if bool(part.any())
        }

    def mask_from_indices(self, indices: Mapping[str, Indices]) -> Tensor:
        """Boolean (n,): where `indices` (param name -> positions) point; undoes `indices_from_mask`."""
        parts = []
        for name, parameter in self.parameters.items():
            part = torch.zeros(parameter.numel(), dtype=torch.bool)
            if name in indices:
                part[torch.from_numpy(indices[name].astype(np.int64))] = True
            parts.append(part.to(self.device))
        return torch.cat(parts)

    def count_per_parameter(self, mask: Tensor) -> list[int]:
        """How many weights of each parameter `mask` (n,) selects."""
        return [int(part.sum()) for part in torch.split(mask, self.sizes)]


@contextmanager
def trainable_kv_weights(
    denoiser: nn.Module, score_device: torch.device | None = None, layers: str = "all"
) -> Iterator[FlatParameters]:
    """Give gradients to the K/V weights of the `layers` ("all" or "cross", see `kv_weights`) alone.

    On leaving, weights, flags and mode are as they were, bit for bit. Gradients that were there before are gone, so
    that none is taken for one of ours. The weights' copy, `FlatParameters.weights`, lies on `score_device` as all
    vectors do, by default with the weights.
    """
    params = FlatParameters(kv_weights(denoiser, layers), score_device or execution_device(denoiser))
    _ = params.weights  # as they are before the search
    flags = {parameter: parameter.requires_grad for parameter in denoiser.parameters()}
    training = {module: module.training for module in denoiser.modules()}
    denoiser.eval()
    denoiser.requires_grad_(False)
    for parameter in params.parameters.values():
        parameter.requires_grad_(True)
        parameter.grad = None
    try:
        yield params
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = None
        params.set_(params.weights)
        for module, mode in training.items():
            module.training = mode


def approx_quantile(values: Tensor, q: float) -> Tensor:
    """The entry of `values` nearest to their q-quantile, from at most 2 million evenly spaced ones, fp32.

    Selected and not sorted for, and torch.quantile takes no more than 16 million.
    """
    among = subsample(values).float()
    return among.kthvalue(1 + round(q * (len(among) - 1))).values


def subsample(values: Tensor, most: int = MAX_SUBSAMPLE) -> Tensor:
    """Fewer than twice `most` evenly spaced entries of `values`, shape (m,)."""
    return values.flatten()[:: max(1, values.numel() // most)]


def topk_mask(scores: Tensor, count: int) -> Tensor:
    """Boolean (n,): the `count` highest positive scores; ties go to the lower position, so that runs repeat.

    The least of them is looked for among a few more than so many, since torch.topk takes four times the memory of what
    it looks through.
    """
    among = _above(scores, _approx_threshold(scores, count))
    if len(among) < count:
        among = _above(scores, 0.0)
    count = min(count, len(among))
    if not count:
        return torch.zeros_like(scores, dtype=torch.bool)
    least = among.topk(count, sorted=False).values.min()
    mask = scores > least
    mask[(scores == least).nonzero().flatten()[: count - int(mask.sum())]] = True
    return mask


def _approx_threshold(scores: Tensor, count: int) -> float:
    """A score, at least 0, that a little more than `count` (and 100) of all are likely to exceed."""
    among = subsample(scores)
    place = len(among) - round(1.1 * count * len(among) / len(scores)) - 100
    return max(0.0, float(among.kthvalue(place).values)) if place > 0 else 0.0


def _above(scores: Tensor, least: float) -> Tensor:
    """The `scores` (n,) that are greater, in their order."""
    return torch.cat([part[part > least] for part in torch.split(scores, _CHUNK)])
