"""The float ceilings: all K/V weights, or rank-4 factors of their change, trained on the batches of a search."""

from __future__ import annotations

import torch
from torch import Tensor

from conestool.search.objective import Objective

RANK = 4


def train(objective: Objective, kind: str, steps: int, rate: float) -> Tensor:
    """The K/V weights (n,) after `steps` steps of Adam; `kind` is fine-tune or lora."""
    return {"fine-tune": fine_tune, "lora": lora}[kind](objective, steps, rate)


def gathered(objective: Objective, weights: Tensor, index: int) -> Tensor:
    """dL_con/dtheta (n,) at `weights` (n,) on batch `index`."""
    gradient = torch.empty_like(weights)
    parts = [part for (part,) in objective.split_by_parameter(gradient)]
    objective.gradient(weights, index, lambda number, part: parts[number].copy_(part))
    return gradient


def fine_tune(objective: Objective, steps: int, rate: float) -> Tensor:
    """Every weight on its own."""
    weights = objective.weights.float().clone()
    optimizer = torch.optim.Adam([weights], lr=rate)
    for index in range(steps):
        weights.grad = gathered(objective, weights, index)
        optimizer.step()
    return weights


def lora(objective: Objective, steps: int, rate: float) -> Tensor:
    """W + B A per matrix, B (out, r) zero and A (r, in) Kaiming-uniform at the start, as Hu et al. (2022)."""
    draw = torch.Generator().manual_seed(objective.seed)
    pairs = []
    for parameter in objective.params.parameters.values():
        out, width = parameter.shape
        up = torch.zeros(out, RANK)
        down = (2 * torch.rand(RANK, width, generator=draw) - 1) / width**0.5
        pairs.append((up.to(objective.weights), down.to(objective.weights)))

    def weights() -> Tensor:
        return objective.weights + torch.cat([(up @ down).flatten() for up, down in pairs])

    optimizer = torch.optim.Adam([part for pair in pairs for part in pair], lr=rate)
    for index in range(steps):
        gradient = gathered(objective, weights(), index)
        for (up, down), part in zip(pairs, torch.split(gradient, objective.params.sizes), strict=True):
            whole = part.view(up.shape[0], down.shape[1])
            up.grad, down.grad = whole @ down.T, up.T @ whole
        optimizer.step()
    return weights()
