"""How much pictures show a subject, and how much of the rest of their prompt: a small protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from conestool.evaluation.prompts import Prompt
from conestool.images.photos import square

Images = Sequence[Image.Image]


class ImageMetric(Protocol):
    """Scores pictures; higher is better. A measure that it does not have is None."""

    name: str

    def image(self, pictures: Images, photos: Images, base_images: Images) -> Tensor | None:
        """How much each picture (n,) shows the subject of `photos`; `base_images` are the base model's of its class."""
        ...

    def text(self, pictures: Images, prompts: Sequence[Prompt]) -> Tensor | None:
        """How much each picture (n,) shows what its prompt says; NaN where the prompt says nothing that can be seen."""
        ...


def cosines(pictures: Tensor, photos: Tensor, same: bool = False) -> Tensor:
    """(n,): mean cosine of each row of `pictures` (n, d) to those of `photos` (m, d).

    To the others if both are the `same`, and NaN where there is no other.
    """
    pairs = F.normalize(pictures, dim=1) @ F.normalize(photos, dim=1).T
    if not same:
        return pairs.mean(1)
    return pairs.fill_diagonal_(0).sum(1) / (len(photos) - 1)


def pixels(images: Images, side: int) -> Tensor:
    """Centre squares as (n, 3, side, side), fp32 in [-1, 1]."""
    arrays = np.stack([np.asarray(square(image.convert("RGB"), side)) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1
