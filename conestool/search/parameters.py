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
from conestool.models.kv_weights import kv_weights

__all__ = ["SAMPLE", "Layout", "Use", "borrowed", "quantile", "spread", "top"]

SAMPLE = 1_000_000
LOOKED_THROUGH = 2**20
"""Scores that are looked through together, so that what lies between takes little memory."""
Use = Callable[[int, Tensor], None]
"""What takes the gradient of one parameter, by its number in the layout, as a vector of fp32."""


@dataclass(frozen=True)
class Layout:
    """Names and parameters of the K/V weights in name order; vectors have their n = sum(numel) entries.

    Vectors lie on the device `home`, where it is given, and otherwise with the weights.
    """

    parameters: Mapping[str, nn.Parameter]
    home: torch.device | None = None

    @cached_property
    def theta(self) -> Tensor:
        """The weights as they were when this was first asked for, shape (n,), in their own dtype; not to be changed.

        There is one, however many objectives work on the layout: a vector of this size counts.
        """
        return torch.cat([p.detach().reshape(-1).to(self.device) for p in self.parameters.values()])

    @property
    def device(self) -> torch.device:
        """Where vectors lie."""
        return self.home or next(iter(self.parameters.values())).device

    @property
    def sizes(self) -> list[int]:
        """Number of weights per parameter."""
        return [parameter.numel() for parameter in self.parameters.values()]

    def read(self) -> Tensor:
        """The weights as they are now, shape (n,), fp32, a copy."""
        return torch.cat([p.detach().reshape(-1).to(self.device).float() for p in self.parameters.values()])

    def parts(self, *vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """For one parameter after the other, its part of each of the `vectors` (n,): a view."""
        return zip(*(torch.split(vector, self.sizes) for vector in vectors), strict=True)

    @torch.no_grad()
    def write(self, weights: Tensor | Iterable[Tensor]) -> None:
        """Set the weights to a vector (n,), or to a part for each parameter, rounded to their own dtype."""
        parts = torch.split(weights, self.sizes) if isinstance(weights, Tensor) else weights
        for part, parameter in zip(parts, self.parameters.values(), strict=True):
            parameter.copy_(part.view_as(parameter))

    @contextmanager
    def giving(self, use: Use) -> Iterator[None]:
        """Give every parameter's gradient to `use` as soon as a backward pass has it, and keep it no longer.

        `use` is called with the parameter's number and the gradient (n_i,), fp32, which is its own to change; after the
        last pass with zeros for those that had none.
        """
        missing = dict(enumerate(self.parameters.values()))

        def give(number: int, parameter: Tensor) -> None:
            found, parameter.grad = parameter.grad, None
            missing.pop(number, None)
            if found is not None:
                use(number, found.reshape(-1).to(self.device).float())

        hooks = []
        for number, parameter in missing.items():
            hook = parameter.register_post_accumulate_grad_hook(partial(give, number))  # type: ignore[no-untyped-call]
            hooks.append(hook)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        for number, parameter in missing.items():
            use(number, torch.zeros(parameter.numel(), device=self.device))

    def indices(self, shut: Tensor) -> dict[str, Indices]:
        """The flat indices per param name where the boolean vector `shut` (n,) is true."""
        parts = torch.split(shut, self.sizes)
        return {
            name: part.nonzero().flatten().cpu().numpy().astype(np.int32)
            for name, part in zip(self.parameters, parts, strict=True)
            if bool(part.any())
        }

    def shut(self, indices: Mapping[str, Indices]) -> Tensor:
        """Boolean (n,), where vectors lie: where `indices` (param name -> positions) point; undoes `indices`."""
        parts = []
        for name, parameter in self.parameters.items():
            part = torch.zeros(parameter.numel(), dtype=torch.bool)
            if name in indices:
                part[torch.from_numpy(indices[name].astype(np.int64))] = True
            parts.append(part.to(self.device))
        return torch.cat(parts)

    def counts(self, shut: Tensor) -> list[int]:
        """How many weights of each parameter `shut` (n,) selects."""
        return [int(part.sum()) for part in torch.split(shut, self.sizes)]


@contextmanager
def borrowed(denoiser: nn.Module, home: torch.device | None = None) -> Iterator[Layout]:
    """Give gradients to the K/V weights alone; on leaving, weights, flags and mode are as they were, bit for bit.

    Gradients that were there before are gone, so that none is taken for one of ours.

    Their copy, the layout's `theta`, lies on `home` as all vectors do, by default with the weights.
    """
    layout = Layout(kv_weights(denoiser), home)
    theta = layout.theta
    flags = {parameter: parameter.requires_grad for parameter in denoiser.parameters()}
    training = denoiser.training
    denoiser.eval()
    denoiser.requires_grad_(False)
    for parameter in layout.parameters.values():
        parameter.requires_grad_(True)
        parameter.grad = None
    try:
        yield layout
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = None
        layout.write(theta)
        denoiser.train(training)


def quantile(values: Tensor, q: float) -> float:
    """The entry of `values` nearest to their q-quantile, from at most 2 million evenly spaced ones.

    Selected and not sorted for, and torch.quantile takes no more than 16 million.
    """
    among = spread(values).float()
    return float(among.kthvalue(1 + round(q * (len(among) - 1))).values)


def spread(values: Tensor, most: int = SAMPLE) -> Tensor:
    """Fewer than twice `most` evenly spaced entries of `values`, shape (m,)."""
    return values.flatten()[:: max(1, values.numel() // most)]


def top(scores: Tensor, count: int) -> Tensor:
    """Boolean (n,): the `count` highest positive scores; ties go to the lower position, so that runs repeat.

    The least of them is looked for among a few more than so many, since torch.topk takes four times the memory of what
    it looks through.
    """
    among = beyond(scores, likely(scores, count))
    if len(among) < count:
        among = beyond(scores, 0.0)
    count = min(count, len(among))
    if not count:
        return torch.zeros_like(scores, dtype=torch.bool)
    least = among.topk(count, sorted=False).values.min()
    shut = scores > least
    shut[(scores == least).nonzero().flatten()[: count - int(shut.sum())]] = True
    return shut


def likely(scores: Tensor, count: int) -> float:
    """A score, at least 0, that a little more than `count` (and 100) of all are likely to exceed."""
    among = spread(scores)
    place = len(among) - round(1.1 * count * len(among) / len(scores)) - 100
    return max(0.0, float(among.kthvalue(place).values)) if place > 0 else 0.0


def beyond(scores: Tensor, least: float) -> Tensor:
    """The `scores` (n,) that are greater, in their order."""
    return torch.cat([part[part > least] for part in torch.split(scores, LOOKED_THROUGH)])
