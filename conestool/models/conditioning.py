"""What a denoiser is told besides the noisy latents: the prompt, and how a training picture was framed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Conditioning", "Frame"]


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told: `embeds` (n, tokens, width), and by name what else a family needs, each (n, ...)."""

    embeds: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.embeds.shape[0]

    def __getitem__(self, rows: Any) -> Conditioning:
        """The given rows (a slice, a list or an index tensor), as torch indexes them."""
        return Conditioning(self.embeds[rows], {key: value[rows] for key, value in self.extra.items()})

    def expand(self, n: int) -> Conditioning:
        """One row repeated `n` times, without copying."""
        extra = {key: value.expand(n, *value.shape[1:]) for key, value in self.extra.items()}
        return Conditioning(self.embeds.expand(n, *self.embeds.shape[1:]), extra)

    def to(self, *args: Any) -> Conditioning:
        """On another device or in another dtype."""
        return Conditioning(self.embeds.to(*args), {key: value.to(*args) for key, value in self.extra.items()})

    def framed(self, framing: Mapping[str, Tensor]) -> Conditioning:
        """The same prompts for pictures framed so: a row of `framing` (see Family.framing) for each of them."""
        return Conditioning(self.embeds, {**self.extra, **framing})

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Rows of all `parts`, one after the other."""
        extra = {key: torch.cat([part.extra[key] for part in parts]) for key in parts[0].extra}
        return Conditioning(torch.cat([part.embeds for part in parts]), extra)


@dataclass(frozen=True)
class Frame:
    """How a picture became a square: its own size, where the square begins after resizing, and the square's side.

    `original` is (height, width) in pixels before resizing, `crop` (top, left) in pixels after it.
    """

    original: tuple[int, int]
    crop: tuple[int, int]
    side: int

    @classmethod
    def centre(cls, size: tuple[int, int], side: int) -> Frame:
        """The centre square of a picture of `size` (width, height), resized to `side`; see `photos.square`."""
        scale = side / min(size)
        left, top = (round((length * scale - side) / 2) for length in size)
        return cls((size[1], size[0]), (top, left), side)

    @classmethod
    def whole(cls, side: int) -> Frame:
        """A square picture as it is: what a pipeline assumes when it draws."""
        return cls.centre((side, side), side)
