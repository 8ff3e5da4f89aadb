"""What the denoiser is asked in one step: latents, and the terms of the loss that they are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from conestool.models.conditioning import Conditioning

__all__ = ["Batch", "LatentImages", "LossTerm"]


@dataclass(frozen=True)
class Batch:
    """What the denoiser is asked and what it should answer.

    noisy_latents and target: (b, c, h, w); timesteps: (b,), int64; loss_weights: (b,), L_con = sum(loss_weights * mse).
    """

    noisy_latents: Tensor
    timesteps: Tensor
    target: Tensor
    loss_weights: Tensor
    conditioning: Conditioning


@dataclass(frozen=True)
class LatentImages:
    """`latents` (m, c, h, w), and by name what the denoiser is told of how each was framed, (m, ...)."""

    latents: Tensor
    micro_conditioning: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, rows: slice | Tensor) -> LatentImages:
        """The given rows."""
        return LatentImages(self.latents[rows], {key: value[rows] for key, value in self.micro_conditioning.items()})


@dataclass(frozen=True)
class LossTerm:
    """One expectation of L_con: `images` under any of their prompts, `size` of them a step, times `weight`.

    `prompt_choices` (m, p), int64, are the rows of `conditioning` that may go with each of the m images; without it all
    may go with each. With the `target` "frozen" it is what the untouched model predicts instead of the true noise: the
    term then measures drift alone, with far less variance. Our choice; the paper's prior term has the true noise. With
    `subject_mask` too, (m, 1, h, w), 0 to 1, the target is the true noise there, and elsewhere what the untouched model
    predicts for the same row of `background_conditioning`.
    """

    name: str
    images: LatentImages
    conditioning: Conditioning
    weight: float
    size: int
    target: Literal["noise", "frozen"] = "noise"
    prompt_choices: Tensor | None = None
    background_conditioning: Conditioning | None = None
    subject_mask: Tensor | None = None

    def sample_prompts(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """For each of the pictures (their numbers, int64) one of its rows of `conditioning`, drawn at random."""
        count = len(self.conditioning) if self.prompt_choices is None else self.prompt_choices.shape[1]
        drawn = torch.randint(count, (len(images),), generator=generator)
        return drawn if self.prompt_choices is None else self.prompt_choices[images, drawn]
