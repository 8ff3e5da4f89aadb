"""An auxiliary loss: what a thing is has to be readable from the U-Net's features, at its place, at every noise.

The error of v hardly shows which ears a dog has: they are a few latents of many. A cross-entropy on features shows it
in full, so the U-Net learns sooner to fetch every word for the right place. Features of a denoiser that are held to
meaningful ones are learned much faster (representation alignment, Yu et al. 2025, arXiv:2410.06940); here the world
itself tells what they mean. The probe is thrown away after training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.pocket import models
from training.pocket.labels import ABSENT, BACKGROUNDS, PLACES, WORLD

#: The probe learns so many steps before its loss reaches the U-Net: what it reads at first is chance.
WARM_UP = 200
#: Side of what is read of each thing, in sides of the layout's place: things stray, and what is worn sticks out.
MARGIN = 1.15


def place_weights(size: int) -> Tensor:
    """Return for 1 to 4 things which of the feature map's cells each place covers, as means: (4, 4, size * size)."""
    middles = (torch.arange(size) + 0.5) / size
    weights = torch.zeros(len(WORLD.layouts), PLACES, size, size)
    for count, layout in enumerate(WORLD.layouts):
        for place, (x, y, side) in enumerate(layout):
            inside = [((middles - middle).abs() <= side * MARGIN / 2).float() for middle in (y, x)]
            weights[count, place] = torch.outer(*inside)
    return weights.flatten(2) / weights.flatten(2).sum(2, keepdim=True).clamp(min=1)


class AttributeProbe(nn.Module):
    """Reads the features that one block of a U-Net leaves: (B, C, 8, 8)."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        width = models.WIDTHS[-1]
        self.sizes = [len(values) for values in WORLD.heads.values()]
        self.things = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(),
                                    nn.Linear(width, sum(self.sizes)))  # fmt: skip
        self.background = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(BACKGROUNDS)))
        self.register_buffer("weights", place_weights(models.LATENT_SIZE), persistent=False)
        self.weights: Tensor
        self.features = torch.empty(0)
        unet.up_blocks[0].register_forward_hook(self._keep)  # type: ignore[index,union-attr]

    def _keep(self, module: nn.Module, inputs: object, features: Tensor) -> None:
        self.features = features

    def read(self, things: Tensor, *, detached: bool = False) -> list[Tensor]:
        """Return the logits of each attribute (B, 4, values) and of the background (B, backgrounds).

        They are of the pictures that the U-Net saw last; ``things`` (B, 4, heads) tells how many things each has.
        """
        features = self.features.detach() if detached else self.features
        features = features.float().flatten(2).transpose(1, 2)
        counts = (things[:, :, 0] != ABSENT).sum(1)
        pooled = self.weights[counts - 1] @ features
        logits = self.things(pooled).split(self.sizes, dim=2)
        return [*logits, self.background(features.mean(1))]

    def loss(self, things: Tensor, background: Tensor, *, detached: bool) -> Tensor:
        """Return the mean cross-entropy of attributes and background (`labels.codes_of`), 0 of what is nowhere."""
        targets = [*things.long().unbind(2), background.long()]
        parts = [
            F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=ABSENT, reduction="sum")
            / (target != ABSENT).sum().clamp(min=1)
            for logits, target in zip(self.read(things, detached=detached), targets, strict=True)
        ]
        return torch.stack(parts).mean()

    @torch.no_grad()
    def right(self, things: Tensor, background: Tensor) -> Tensor:
        """Return which attributes are read right, NaN where there is no thing: (B, heads + 1); the last: background."""
        logits = self.read(things)
        read = torch.stack([each.argmax(2) for each in logits[:-1]], dim=2)
        right = torch.where(things == ABSENT, torch.nan, (read == things).float()).nanmean(1)
        return torch.cat([right, (logits[-1].argmax(1) == background).float()[:, None]], dim=1)
