"""One step's input of the denoiser, and the terms of the loss that it is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import torch
from torch import Tensor

from conestool.models.conditioning import Conditioning


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
    term then measures drift alone, with far less variance. Our choice; the paper's prior term has the true noise. With
    `subject_mask` too, (m, 1, h, w), 0 to 1, the target is the true noise there, and elsewhere what the untouched model
    predicts for the same row of `background_conditioning`; of a picture's loss at least half is that of the subjects.
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

    def sample_prompts(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """For each of the pictures (their numbers, int64) one of its rows of `conditioning`, drawn at random."""
        count = len(self.conditioning) if self.prompt_choices is None else self.prompt_choices.shape[1]
        drawn = torch.randint(count, (len(images),), generator=generator)
        return drawn if self.prompt_choices is None else self.prompt_choices[images, drawn]
