"""Controls: as many neurons per parameter, chosen without looking at the subject."""

from __future__ import annotations

import torch
from torch import Tensor

from conestool.search.layout import Layout

__all__ = ["largest", "random"]


def random(layout: Layout, shut: Tensor, seed: int) -> Tensor:
    """Boolean (n,): in every parameter as many weights as `shut` (n,) has there, at random (CPU generator)."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for size, count in zip(layout.sizes, layout.counts(shut), strict=True):
        part = torch.zeros(size, dtype=torch.bool)
        part[torch.randperm(size, generator=generator)[:count]] = True
        parts.append(part)
    return torch.cat(parts).to(shut.device)


def largest(layout: Layout, shut: Tensor, theta: Tensor) -> Tensor:
    """Boolean (n,): in every parameter as many weights as `shut` (n,) has there, those of largest magnitude."""
    parts = []
    for part, count in zip(torch.split(theta, layout.sizes), layout.counts(shut), strict=True):
        chosen = torch.zeros_like(part, dtype=torch.bool)
        chosen[part.abs().sort(descending=True, stable=True).indices[:count]] = True
        parts.append(chosen)
    return torch.cat(parts)
