"""One step's input of the denoiser, and the terms of the loss that it is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import torch
from torch import Tensor

from conestool.models.conditioning import Conditioning

_LEAST_AREA = 0.02
"""The share of a picture below which its subject's share of the loss is no longer raised."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Input of the denoiser and the target of its output.

    noisy_latents and target: (b, c, h, w); timesteps: (b,), int64; loss_weights: (b,), L_con = sum(loss_weights * mse);
    cell_weights: (b, 1, h, w), what each cell's squared error counts in that mean, 1 on average.
    """

    noisy_latents: Tensor
    timesteps: Tensor
    target: Tensor
    loss_weights: Tensor
    cell_weights: Tensor
    conditioning: Conditioning

    def __len__(self) -> int:
        return len(self.noisy_latents)

    def __getitem__(self, rows: Tensor) -> Batch:
        """The given rows (int64)."""
        rows = rows.to(self.noisy_latents.device)
        return Batch(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})

    @staticmethod
    def cat(parts: Sequence[Batch]) -> Batch:
        """Rows of all `parts`, one after the other."""
        names = [each.name for each in fields(Batch) if each.name != "conditioning"]
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return Batch(conditioning=Conditioning.cat([part.conditioning for part in parts]), **tensors)


@dataclass(frozen=True)
class LatentImages:
    """`latents` (m, c, h, w), and by name what the denoiser is given of each image's size and crop, (m, ...)."""

    latents: Tensor
    micro_conditioning: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, rows: slice | Tensor) -> LatentImages:
        """The given rows."""
        return LatentImages(self.latents[rows], {key: value[rows] for key, value in self.micro_conditioning.items()})


@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """One expectation of L_con: `images` under any of their prompts, `size` of them a step, times `weight`.

    `prompt_choices` (m, p), int64, are the rows of `conditioning` that may go with each of the m images; without it all
    may go with each. With the `target` "frozen" it is what the untouched model predicts instead of the true noise: the
    term then measures drift alone, with far less variance. Our choice; the paper's prior term has the true noise.
    `subject_mask`, (m, 1, h, w), 0 to 1, is where the images show what is learned: of a picture's loss at least
    `subject_share` is that of these cells. With `background_conditioning` too the target is the true noise there, and
    elsewhere what the untouched model predicts for the same row of that.
    """

    name: str
    images: LatentImages
    conditioning: Conditioning
    size: int
    weight: float = 1.0
    target: Literal["noise", "frozen"] = "noise"
    prompt_choices: Tensor | None = None
    background_conditioning: Conditioning | None = None
    subject_mask: Tensor | None = None
    subject_share: float = 0.0

    def sample_prompts(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """For each of the pictures (their numbers, int64) one of its rows of `conditioning`, drawn at random."""
        count = len(self.conditioning) if self.prompt_choices is None else self.prompt_choices.shape[1]
        drawn = torch.randint(count, (len(images),), generator=generator)
        return drawn if self.prompt_choices is None else self.prompt_choices[images, drawn]

    def cell_weights(self, images: Tensor) -> Tensor:
        """(b, 1, h, w), fp32: what the cells of these of the images (their numbers, int64) count, 1 on average.

        Ours: by a plain mean the surroundings, which a concept must not learn, have most of the gradient, and in a
        scene a subject teaches next to nothing.
        """
        latents = self.images.latents
        if self.subject_mask is None:
            return latents.new_ones(len(images), 1, *latents.shape[2:], dtype=torch.float32)
        masks = self.subject_mask[images].to(latents.device, torch.float32)
        area = masks.mean((1, 2, 3), keepdim=True)
        inside = area.clamp(min=self.subject_share) / area.clamp(min=_LEAST_AREA)
        outside = (1 - area * inside) / (1 - area).clamp(min=1e-6)
        return outside.lerp(inside, masks)
