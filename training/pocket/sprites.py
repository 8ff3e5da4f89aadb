"""The sprites of the domain, recoloured and at several sizes, and how they are pasted onto a canvas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.pocket import domain

MIP_SIZES = (64, 48, 32, 24, 16)
NATIVE = 0
COLOUR_WORDS = ("", *domain.COLOURS)
LUMA = (0.299, 0.587, 0.114)


def recolour(rgba: Tensor, rgb: tuple[int, int, int]) -> Tensor:
    """Map a sprite's luminance to shades of one colour: its median becomes ``rgb``, darker and lighter stay so.

    ``rgba`` is (N, 4, H, W) in [0, 1], not premultiplied. A whole sprite in one hue is unambiguous to a person,
    which shifting only the saturated areas is not (a panda has none).
    """
    luma = (rgba[:, :3] * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    opaque = torch.where(rgba[:, 3:] > 0.8, luma, torch.nan)
    median = torch.nanmedian(opaque.flatten(1), 1).values.nan_to_num(0.5).clamp(0.15, 0.9).view(-1, 1, 1, 1)
    target = torch.tensor(rgb).view(1, 3, 1, 1) / 255
    dark = target * (0.25 + 0.75 * (luma / median).clamp(max=1))
    light = ((luma - median) / (1 - median)).clamp(min=0)
    return torch.cat([dark + (1 - dark) * 0.65 * light, rgba[:, 3:]], 1)


class SpriteBank:
    """Every sprite in its native colours and in each colour word, premultiplied, as a pyramid of sizes."""

    def __init__(self, path: Path, device: torch.device) -> None:
        table = np.load(path)
        rgba = torch.from_numpy(table["rgba"]).permute(0, 3, 1, 2).float() / 255
        self.nouns = [str(n) for n in table["noun"]]
        self.icons = [str(n) for n in table["icon"]]
        self.rows = {n: [i for i, m in enumerate(self.nouns) if m == n] for n in set(self.nouns)}
        self.head_top, self.bottom = self._anchors(rgba[:, 3])
        versions = [rgba] + [recolour(rgba, rgb) for rgb in domain.COLOURS.values()]
        self.levels = [self._level(versions, size).to(device) for size in MIP_SIZES]
        self.device = device

    def restrict(self, sets: tuple[str, ...], skips: frozenset[str]) -> SpriteBank:
        """Leave only drawings of these sets, without the icons ``skips``; returns itself."""
        for noun, rows in self.rows.items():
            pairs = {row: self.icons[row].split(":") for row in rows}
            self.rows[noun] = [row for row, (owner, icon) in pairs.items() if owner in sets and icon not in skips]
        return self

    @staticmethod
    def _anchors(alpha: Tensor) -> tuple[list[float], list[float]]:
        """Return, in sprite sides, where the opaque part begins in the middle columns and where it ends."""
        side = alpha.shape[-1]
        middle = alpha[:, :, int(0.42 * side) : int(0.58 * side)].mean(2) > 0.5
        top = middle.float().argmax(1) / side
        any_row = (alpha > 0.5).any(2)
        bottom = 1 - any_row.flip(1).float().argmax(1) / side
        return top.tolist(), bottom.tolist()

    @staticmethod
    def _level(versions: list[Tensor], size: int) -> Tensor:
        """Resize all colour versions: (N * colours, 4, size, size) bytes, index = sprite * colours + colour."""
        small = []
        for rgba in versions:
            flat = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
            small.append(F.interpolate(flat, size=(size, size), mode="bilinear", antialias=True))
        stacked = torch.stack(small, 1).clamp(0, 1)
        return (stacked.flatten(0, 1) * 255).round().to(torch.uint8)

    def paste(self, canvas: Tensor, rows: Tensor, sprites: Tensor, place: Tensor) -> None:
        """Draw sprite ``sprites[i]`` over ``canvas[rows[i]]`` in place.

        ``place`` is (n, 6): centre x, centre y, side (all in pixels), rotation (radians), flip (+1 or -1), and
        lightness (a factor around 1). A row occurs at most once per call.
        """
        sizes = torch.tensor(MIP_SIZES)
        level = (place[:, 2:3] <= sizes.view(1, -1)).sum(1).sub(1).clamp(min=0)
        for index, bank in enumerate(self.levels):
            chosen = (level == index).nonzero().flatten()
            if len(chosen):
                layer = _warp(bank[sprites[chosen].to(bank.device)], place[chosen].to(bank.device), canvas.shape[-1])
                target = rows[chosen].to(canvas.device)
                canvas[target] = layer[:, :3] + canvas[target] * (1 - layer[:, 3:])


def _warp(sprites: Tensor, place: Tensor, size: int) -> Tensor:
    """Sample byte sprites (n, 4, s, s) into premultiplied layers (n, 4, size, size)."""
    x, y, side, angle, flip, light = place.unbind(1)
    scale, cos, sin = size / side, angle.cos(), angle.sin()
    shift_x, shift_y = 1 - 2 * x / size, 1 - 2 * y / size
    theta = torch.stack(
        [
            torch.stack([cos * flip, sin * flip, (cos * shift_x + sin * shift_y) * flip], 1),
            torch.stack([-sin, cos, -sin * shift_x + cos * shift_y], 1),
        ],
        1,
    ) * scale.view(-1, 1, 1)
    grid = F.affine_grid(theta, [len(sprites), 4, size, size], align_corners=False)
    layer = F.grid_sample(sprites.float() / 255, grid, align_corners=False)
    rgb = torch.minimum(layer[:, :3] * light.view(-1, 1, 1, 1), layer[:, 3:])
    return torch.cat([rgb, layer[:, 3:]], 1)
