"""What a denoiser is given besides noisy latents: the prompt, and how a training picture was resized and cropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Inputs of the denoiser for n prompts: `prompt_embeds` (n, tokens, width), and others by name, each (n, ...)."""

    prompt_embeds: Tensor
    added_cond_kwargs: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.prompt_embeds.shape[0]

    def __getitem__(self, rows: Any) -> Conditioning:
        """The given rows (a slice, a list or an index tensor), as torch indexes them."""
        return Conditioning(
            self.prompt_embeds[rows], {key: value[rows] for key, value in self.added_cond_kwargs.items()}
        )

    def expand(self, n: int) -> Conditioning:
        """One row repeated `n` times, without copying."""
        added_cond_kwargs = {key: value.expand(n, *value.shape[1:]) for key, value in self.added_cond_kwargs.items()}
        return Conditioning(self.prompt_embeds.expand(n, *self.prompt_embeds.shape[1:]), added_cond_kwargs)

    def to(self, *args: Any) -> Conditioning:
        """On another device or in another dtype."""
        return Conditioning(
            self.prompt_embeds.to(*args), {key: value.to(*args) for key, value in self.added_cond_kwargs.items()}
        )

    def with_micro_conditioning(self, rows: Mapping[str, Tensor]) -> Conditioning:
        """The same prompts with other sizes and crops: `rows` as `Family.micro_conditioning` gives them."""
        return Conditioning(self.prompt_embeds, {**self.added_cond_kwargs, **rows})

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Rows of all `parts`, one after the other."""
        added_cond_kwargs = {
            key: torch.cat([part.added_cond_kwargs[key] for part in parts]) for key in parts[0].added_cond_kwargs
        }
        return Conditioning(torch.cat([part.prompt_embeds for part in parts]), added_cond_kwargs)


@dataclass(frozen=True)
class MicroConditioning:
    """How a picture became a square, under diffusers' names: all in pixels, height before width, top before left.

    `original_size` is the picture's own, before resizing, `crops_coords_top_left` where the square begins after it, and
    `target_size` the square's.
    """

    original_size: tuple[int, int]
    crops_coords_top_left: tuple[int, int]
    target_size: tuple[int, int]

    @classmethod
    def centre_crop(cls, size: tuple[int, int], side: int) -> MicroConditioning:
        """The centre square of a picture of `size` (width, height), resized to `side`; see `photos.square`."""
        scale = side / min(size)
        left, top = (round((length * scale - side) / 2) for length in size)
        return cls((size[1], size[0]), (top, left), (side, side))

    @classmethod
    def uncropped(cls, side: int) -> MicroConditioning:
        """A square picture as it is: what a pipeline assumes when it draws."""
        return cls.centre_crop((side, side), side)
