"""What the denoiser is asked in one step: latents, and the terms of the loss that they are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from conestool.models.conditioning import Conditioning

__all__ = ["Batch", "Pictures", "Term"]


@dataclass(frozen=True)
class Batch:
    """What the denoiser is asked and what it should answer.

    noisy and target: (b, c, h, w); timesteps: (b,), int64; weights: (b,), so that L_con = sum(weights * mse).
    """

    noisy: Tensor
    timesteps: Tensor
    target: Tensor
    weights: Tensor
    conditioning: Conditioning


@dataclass(frozen=True)
class Pictures:
    """`latents` (m, c, h, w), and by name what the denoiser is told of how each was framed, (m, ...)."""

    latents: Tensor
    framing: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, rows: slice | Tensor) -> Pictures:
        """The given rows."""
        return Pictures(self.latents[rows], {key: value[rows] for key, value in self.framing.items()})


@dataclass(frozen=True)
class Term:
    """One expectation of L_con: `pictures` under any of their prompts, `size` of them a step, times `weight`.

    `choices` (m, p), int64, are the rows of `conditioning` that may go with each of the m pictures; without it all
    may go with each. With `keep` the target is what the untouched model answers instead of the true noise: the term
    then measures drift alone, with far less variance. Our choice; the paper's prior term has the true noise. With
    `regions` too, (m, 1, h, w), 0 to 1, the target is the true noise there, and elsewhere what the untouched model
    answers when told the same row of `plain` instead.
    """

    name: str
    pictures: Pictures
    conditioning: Conditioning
    weight: float
    size: int
    keep: bool = False
    choices: Tensor | None = None
    plain: Conditioning | None = None
    regions: Tensor | None = None

    def prompts(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """For each of the pictures (their numbers, int64) one of its rows of `conditioning`, drawn at random."""
        count = len(self.conditioning) if self.choices is None else self.choices.shape[1]
        drawn = torch.randint(count, (len(pictures),), generator=generator)
        return drawn if self.choices is None else self.choices[pictures, drawn]
