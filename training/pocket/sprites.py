"""All drawings as tensors, coloured and pasted onto canvases: ``python -m training.pocket.sprites --work F``."""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.pocket import drawings, world
from training.pocket.common import save_array
from training.pocket.drawings import Drawing

#: Sides at which sprites are kept; pasting takes the smallest that is no smaller than asked for.
SIZES = (64, 48, 32, 24, 16)
CHANNELS = 6


def rasterise_all(path: Path, processes: int) -> None:
    """Write every drawing at the largest size: (N, 6, 64, 64) bytes, in the order of `drawings.all_drawings`."""
    draw = partial(drawings.rasterise, size=SIZES[0])
    with ProcessPoolExecutor(processes) as pool:
        save_array(path, np.stack(list(pool.map(draw, drawings.all_drawings(), chunksize=64))))


class SpriteIndex:
    """Which rows drawings and colours have in a bank; needs no pixels."""

    def __init__(self) -> None:
        self.rows = {drawing: row for row, drawing in enumerate(drawings.all_drawings())}
        self.colour_rows = {"": 0} | {word: row + 1 for row, word in enumerate(world.COLOURS)}

    def row(self, thing: world.Thing) -> tuple[int, int, int]:
        """Return the rows of a thing's drawing and of its two colours."""
        return self.rows[Drawing.of(thing)], self.colour_rows[thing.main], self.colour_rows[thing.second]


class SpriteBank(SpriteIndex):
    """Every drawing as shares of its colours, in a pyramid of sizes on one device."""

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        super().__init__()
        if not path.exists():
            raise SystemExit(f"no {path}: run python -m training.pocket.sprites --work {path.parent} first")
        self.device = torch.device(device)
        whole = torch.from_numpy(np.load(path))
        if whole.shape != (len(self.rows), CHANNELS, SIZES[0], SIZES[0]):
            raise SystemExit(f"{path} holds other drawings than drawings.py has now: delete it and make it again")
        self.levels = [self._level(whole, size).to(self.device) for size in SIZES]
        self.palette = torch.tensor([(0, 0, 0), *world.COLOURS.values()], device=self.device).float() / 255

    @staticmethod
    def _level(whole: Tensor, size: int) -> Tensor:
        if size == whole.shape[-1]:
            return whole
        parts = [F.interpolate(p.float(), size=(size, size), mode="area" if size in (32, 16) else "bilinear",
                               antialias=size not in (32, 16)) for p in whole.split(256)]  # fmt: skip
        return torch.cat([p.round().clamp(0, 255).to(torch.uint8) for p in parts])

    def paste(self, canvas: Tensor, rows: Tensor, sprites: Tensor, place: Tensor) -> None:
        """Draw over ``canvas[rows[i]]`` in place (B, 3, S, S); a row occurs at most once a call.

        ``sprites`` (n, 3): rows of drawing, main and second colour. ``place`` (n, 5): centre x and y, width, height
        (all as shares of the canvas) and rotation in radians.
        """
        size = canvas.shape[-1]
        level = (place[:, 2:3] * size <= torch.tensor(SIZES, device=place.device)).sum(1).sub(1).clamp(min=0)
        for index, bank in enumerate(self.levels):
            chosen = (level == index).nonzero().flatten()
            if len(chosen):
                layer = self._warp(self.coloured(bank, sprites[chosen]), place[chosen], size)
                target = rows[chosen]
                canvas[target] = layer[:, :3] + canvas[target] * (1 - layer[:, 3:])

    def coloured(self, bank: Tensor, sprites: Tensor) -> Tensor:
        """Return sprites with their colours filled in, premultiplied: (n, 4, s, s) in [0, 1]."""
        shares = bank[sprites[:, 0]].float() / 255
        main, second = self.palette[sprites[:, 1]], self.palette[sprites[:, 2]]
        rgb = shares[:, :3] + shares[:, 4:5] * main[:, :, None, None] + shares[:, 5:6] * second[:, :, None, None]
        return torch.cat([rgb, shares[:, 3:4]], 1)

    @staticmethod
    def _warp(sprites: Tensor, place: Tensor, size: int) -> Tensor:
        """Sample premultiplied sprites (n, 4, s, s) into layers (n, 4, size, size)."""
        x, y, width, height, angle = place.unbind(1)
        cos, sin = angle.cos(), angle.sin()
        shift_x, shift_y = 1 - 2 * x, 1 - 2 * y
        across = torch.stack([cos, sin, cos * shift_x + sin * shift_y], 1) / width[:, None]
        down = torch.stack([-sin, cos, cos * shift_y - sin * shift_x], 1) / height[:, None]
        grid = F.affine_grid(torch.stack([across, down], 1), [len(sprites), 4, size, size], align_corners=False)
        return F.grid_sample(sprites, grid, align_corners=False)


def main() -> None:
    """Rasterise, unless it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    path = args.work / "sprites.npy"
    if not path.exists():
        rasterise_all(path, args.processes)
    print(path)


if __name__ == "__main__":
    main()
