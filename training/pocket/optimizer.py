"""Muon: momentum whose matrices are made orthogonal (Jordan et al. 2024); AdamW for all that is no matrix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

#: Coefficients of the quintic iteration, and its number of steps (Jordan et al. 2024, "Muon").
QUINTIC, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
#: Root mean square of an update before the learning rate: that of Adam's (Liu et al. 2025, "Muon is scalable", 2.2), so
#: that one learning rate serves both.
RMS = 0.2


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return the nearest semi-orthogonal matrix (singular values near 1) in bfloat16, by Newton-Schulz iterations."""
    a, b, c = QUINTIC
    x = matrix.to(torch.bfloat16)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: Tensor = x.T if tall else x
    return found


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; convolutions count as matrices (out, in * kernel)."""

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                buffer = state["momentum"]
                buffer.lerp_(parameter.grad, 1 - momentum)
                update = torch.lerp(parameter.grad, buffer, momentum)
                flat = update.permute(0, 2, 3, 1).flatten(1) if update.ndim == 4 else update
                whole = orthogonalize(flat).to(parameter.dtype)
                if update.ndim == 4:
                    out, inside, high, wide = update.shape
                    whole = whole.view(out, high, wide, inside).permute(0, 3, 1, 2)
                parameter.mul_(1 - lr * group["weight_decay"])
                parameter.sub_(whole * (lr * RMS * max(flat.shape) ** 0.5))


def matrices_and_rest(modules: torch.nn.Module, spared: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Split the trained parameters into Muon's matrices and what AdamW gets: vectors and the ``spared`` ones."""
    names = {id(p) for p in spared}
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for parameter in modules.parameters():
        if parameter.requires_grad:
            (rest if parameter.ndim < 2 or id(parameter) in names else matrices).append(parameter)
    return matrices, rest
