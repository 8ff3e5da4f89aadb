"""Scenes painted as `scenes.compose` paints them, but from tensors alone and without waiting for the device.

``python -m training.pocket.composer --work F`` prints what one core does in a second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from training.pocket import autoencoder, backgrounds, descriptions, scenes
from training.pocket.common import mixed_precision
from training.pocket.descriptions import BACKGROUNDS, SLOTS, Description
from training.pocket.scenes import SIZE
from training.pocket.sprites import CHANNELS, SIZES, SpriteBank

_TEXEL = 8  # the six channels and two of padding, read as one integer of 64 bits


class Composer:
    """All sizes of all sprites in one tensor of pixels, so that each sprite of a batch is read at its own size."""

    def __init__(self, bank: SpriteBank) -> None:
        self.palette, self.device = bank.palette, bank.device
        pixels = [F.pad(level.permute(0, 2, 3, 1), (0, _TEXEL - CHANNELS)).flatten(0, 2) for level in bank.levels]
        self.texels = torch.cat(pixels).view(torch.int64).flatten()
        self.sides = torch.tensor(SIZES, device=self.device)
        starts = [0, *torch.tensor([len(each) for each in pixels]).cumsum(0).tolist()]
        self.starts = torch.tensor(starts[:-1], device=self.device)

    def compose(self, batch: Description, generator: torch.Generator, size: int = SIZE) -> Tensor:
        """Paint (B, 3, size, size) in [-1, 1], in channels-last order; the generator draws the backgrounds."""
        counts = batch.background_counts.tolist()
        rows = dict(zip(BACKGROUNDS, batch.background_rows.split(counts), strict=True))
        rows = {kind: each for kind, each in rows.items() if len(each)}
        canvas = backgrounds.paint_rows(rows, len(batch.sprites), size, generator, self.device).permute(0, 2, 3, 1)
        sprites = batch.sprites.long()
        for slot in range(SLOTS):
            layer, alpha = self._layer(sprites[:, slot], batch.place[:, slot], size)
            canvas = layer + canvas * (1 - alpha)
        return (canvas * 2 - 1).permute(0, 3, 1, 2)

    def _layer(self, sprites: Tensor, place: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return one sprite of each picture, premultiplied (B, size, size, 3), and its alpha (B, size, size, 1)."""
        shares = self._sample(sprites[:, 0], place, size) / 255
        shares = shares * (sprites[:, 0] >= 0).view(-1, 1, 1, 1)
        main, second = (self.palette[sprites[:, column]][:, None, None] for column in (1, 2))
        return shares[..., :3] + shares[..., 4:5] * main + shares[..., 5:6] * second, shares[..., 3:4]

    def _sample(self, drawings: Tensor, place: Tensor, size: int) -> Tensor:
        """Return the channels of drawings as placed, interpolated between four pixels: (B, size, size, 6) to 255."""
        level = (place[:, 2:3] * size <= self.sides).sum(1).sub(1).clamp(min=0)
        side = self.sides[level].view(-1, 1, 1)
        first = self.starts[level].view(-1, 1, 1) + drawings.clamp(min=0).view(-1, 1, 1) * side * side
        x, y, width, height, angle = place[:, :, None, None].unbind(1)
        line = (2 * torch.arange(size, device=place.device) + 1) / size
        dx, dy = line.view(1, 1, -1) - 2 * x, line.view(1, -1, 1) - 2 * y
        across = (((angle.cos() * dx + angle.sin() * dy) / width + 1) * side - 1) / 2
        down = (((angle.cos() * dy - angle.sin() * dx) / height + 1) * side - 1) / 2
        left, top = across.floor(), down.floor()
        total = torch.zeros(*across.shape, CHANNELS, device=place.device)
        for column, by_column in ((left, left + 1 - across), (left + 1, across - left)):
            for row, by_row in ((top, top + 1 - down), (top + 1, down - top)):
                inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
                at = torch.where(inside, first + row.long() * side + column.long(), 0)
                channels = self.texels[at].view(torch.uint8).view(*at.shape, _TEXEL)[..., :CHANNELS]
                total = total + channels * (by_column * by_row * inside)[..., None]
        return total


def main() -> None:
    """Print scenes a second of processor time: described and worded, composed in both ways, encoded."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True, help="with sprites.npy")
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    bank, vae = SpriteBank(args.work / "sprites.npy"), autoencoder.build()
    loader, generator = descriptions.load(args.batch, 0, 0, pin=False), torch.Generator()
    composer, drawn, batch = Composer(bank), scenes.sample_scenes(args.batch, 0), next(loader)
    images = composer.compose(batch, generator)

    def tell(name: str, work: Callable[[], object]) -> None:
        work()
        begun, times = time.process_time(), 0
        while time.process_time() - begun < 1:
            work()
            times += 1
        print(f"{name}: {times * args.batch / (time.process_time() - begun):.0f} a second", flush=True)

    with torch.no_grad(), mixed_precision(bank.device):
        tell("described and worded", lambda: next(loader))
        tell("composed by scenes.compose", lambda: scenes.compose(drawn, bank, 0))
        tell("composed from tensors", lambda: composer.compose(batch, generator))
        tell("encoded", lambda: autoencoder.encode(vae, images))


if __name__ == "__main__":
    main()
