"""Train pocket's autoencoder: ``python -m training.pocket.autoencoder --work F --minutes 10``.

AutoencoderTiny with factor 4 (64 px -> 16x16x4), on collages of thousands of icons of the training sets, recoloured,
outlined and with text-like strokes, over procedural backgrounds. Resumes from ``autoencoder.pt``.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor

from training.pocket import backgrounds, domain
from training.pocket.common import Team, load_state, log_line, mixed_precision, save_state
from training.pocket.sprites import LUMA, _warp

SIZE = 64


def build() -> AutoencoderTiny:
    """Return the untrained autoencoder; residual branches start small."""
    model = AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(1, 1, 2),
        num_decoder_blocks=(3, 2, 1),
        latent_channels=4,
        upsampling_scaling_factor=2,
    )
    for name, weight in model.named_parameters():
        if ".conv.4.weight" in name:
            weight.data.mul_(0.2)
    return model


class Collages:
    """Random pictures of everything the autoencoder must be able to show."""

    def __init__(self, work: Path, seed: int, device: torch.device) -> None:
        rgba = np.load(work / "textures.npz")["rgba"]
        self.icons = torch.from_numpy(np.ascontiguousarray(rgba)).permute(0, 3, 1, 2).to(device)
        self.generator = torch.Generator().manual_seed(seed)
        self.device = device

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self.generator)

    def _variants(self, icons: Tensor) -> Tensor:
        """Recolour half of the icons (channel mixing or a gradient map) and outline a third of them."""
        rgb, alpha = icons[:, :3], icons[:, 3:]
        count = len(icons)
        luma = (rgb * torch.tensor(LUMA, device=rgb.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
        tint = self._uniform(0, 1, count, 3, 1, 1).to(rgb.device)
        mapped = (tint * luma * 2).clamp(max=1) + (1 - tint) * (luma * 2 - 1).clamp(min=0)
        mixed = rgb[:, torch.randperm(3, generator=self.generator)]
        pick = self._uniform(0, 1, count, 1, 1, 1).to(rgb.device)
        rgb = torch.where(pick < 0.25, mapped, torch.where(pick < 0.5, mixed, rgb))
        width = int(torch.randint(3, 6, (1,), generator=self.generator)) // 2 * 2 + 1
        grown = F.max_pool2d(alpha, width, 1, width // 2)
        shrunk = -F.max_pool2d(-alpha, width, 1, width // 2)
        edge = F.max_pool2d(luma, 3, 1, 1) + F.max_pool2d(-luma, 3, 1, 1) > 0.3
        lines = ((grown - shrunk) > 0.5) | (edge & (alpha > 0.5))
        ink = (lines & (self._uniform(0, 1, count, 1, 1, 1).to(rgb.device) < 0.33)).float()
        alpha = torch.maximum(alpha, ink)
        return torch.cat([rgb * (1 - ink), alpha], 1)

    def draw(self, count: int) -> Tensor:
        """Return (count, 3, 64, 64) pictures in [-1, 1]: 1 to 4 icons over a background."""
        kinds = [*backgrounds.KINDS, "plain", "plain", *domain.COLOURS]
        names = [kinds[int(i)] for i in torch.randint(len(kinds), (count,), generator=self.generator)]
        canvas = backgrounds.paint(names, SIZE, self.generator, self.device)
        for layer in range(4):
            rows = (torch.rand(count, generator=self.generator) < 1.05 - 0.25 * layer).nonzero().flatten()
            if not len(rows):
                continue
            which = torch.randint(len(self.icons), (len(rows),), generator=self.generator)
            icons = self._variants(self.icons[which.to(self.device)].float() / 255)
            icons = torch.cat([icons[:, :3] * icons[:, 3:], icons[:, 3:]], 1)
            n = len(rows)
            place = torch.stack(
                [
                    self._uniform(6, SIZE - 6, n),
                    self._uniform(6, SIZE - 6, n),
                    self._uniform(18, 58, n),
                    self._uniform(-0.3, 0.3, n),
                    torch.randint(2, (n,), generator=self.generator) * 2.0 - 1,
                    self._uniform(0.9, 1.1, n),
                ],
                1,
            ).to(self.device)
            pasted = _warp(icons * 255, place, SIZE)
            canvas[rows] = pasted[:, :3] + canvas[rows] * (1 - pasted[:, 3:])
        return canvas * 2 - 1


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the mean PSNR in dB of pictures in [-1, 1]."""
    error = ((a.clamp(-1, 1) - b.clamp(-1, 1)) / 2).square().flatten(1).mean(1)
    return float((-10 * error.clamp(min=1e-9).log10()).mean())


def loss_of(model: AutoencoderTiny, images: Tensor, noise: float) -> Tensor:
    """Return L1 + 0.5 MSE + edges, and a pull of the latents towards mean 0 and deviation 1."""
    latents = model.encode(images).latents
    decoded = model.decode(latents + noise * torch.randn_like(latents)).sample.float()
    latents = latents.float()
    gap = decoded - images
    edges = (gap[..., 1:] - gap[..., :-1]).abs().mean() + (gap[..., 1:, :] - gap[..., :-1, :]).abs().mean()
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    pull = mean.square().mean() + (std - 1).square().mean()
    total: Tensor = gap.abs().mean() + 0.5 * gap.square().mean() + 0.25 * edges + 0.05 * pull
    return total


class Trainer:
    """One run: a rolling stock of collages, random crops of them, one optimizer."""

    def __init__(self, args: argparse.Namespace, team: Team) -> None:
        self.args, self.team, self.device = args, team, torch.device(args.device)
        self.target = args.work / ("decoder.pt" if args.decoder_only else "autoencoder.pt")
        self.model = build().to(self.device)
        state = load_state(self.target) or load_state(args.work / "autoencoder.pt")
        if state:
            self.model.load_state_dict(state["model"])
        if args.decoder_only:
            self.model.encoder.requires_grad_(False)
        self.seen = int(state["seen"]) if state else 0
        self.collages = Collages(args.work, 1 + team.rank + self.seen, self.device)
        self.stock = self.collages.draw(512)
        self.fixed = Collages(args.work, 99, self.device).draw(96)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=args.lr, weight_decay=1e-4, betas=(0.9, 0.99))

    def crops(self) -> Tensor:
        """Renew a few collages and return a batch of crops of 32 px."""
        fresh = torch.randint(len(self.stock), (4,))
        self.stock[fresh] = self.collages.draw(4)
        chosen = self.stock[torch.randint(len(self.stock), (self.args.batch,))]
        parts = []
        for quarter in chosen.chunk(4):
            x, y = (int(v) for v in torch.randint(SIZE - 31, (2,)))
            parts.append(quarter[..., y : y + 32, x : x + 32])
        return torch.cat(parts)

    def step(self, rate: float) -> float:
        """Take one optimizer step and return the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with mixed_precision(self.device):
            loss = loss_of(self.model, self.crops(), 0.05)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.team.average_gradients(self.trained)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.seen += self.args.batch * self.team.size
        return loss.item()

    @torch.no_grad()
    def report(self, loss: float, seconds: float) -> None:
        """Log the PSNR on fixed collages and save."""
        latents = self.model.encode(self.fixed).latents
        log_line(
            self.args.work / "autoencoder.jsonl",
            seen=self.seen,
            loss=round(loss, 4),
            psnr=round(psnr(self.model.decode(latents).sample, self.fixed), 2),
            mean=[round(v, 3) for v in latents.mean((0, 2, 3)).tolist()],
            std=[round(v, 3) for v in latents.std((0, 2, 3)).tolist()],
            seconds=round(seconds),
        )
        save_state(self.target, {"model": self.model.state_dict(), "seen": self.seen})


def main() -> None:
    """Train for ``--minutes`` and save; ``--decoder-only`` leaves the latents as they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--batch", type=int, default=32, help="crops of 32 px in each process")
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    team = Team()
    torch.manual_seed(args.seed)
    trainer = Trainer(args, team)
    torch.manual_seed(args.seed + 1000 * team.rank + trainer.seen)
    start, told, step, loss = time.monotonic(), 0.0, 0, 0.0
    while (done := team.agree((time.monotonic() - start) / (60 * args.minutes))) < 1:
        decay = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))
        loss = trainer.step(args.lr * min(1.0, (step + 1) / 100) * decay)
        step += 1
        if team.leads and time.monotonic() - told > 30:
            told = time.monotonic()
            trainer.report(loss, told - start)
    if team.leads:
        trainer.report(loss, time.monotonic() - start)
    team.close()


if __name__ == "__main__":
    main()
