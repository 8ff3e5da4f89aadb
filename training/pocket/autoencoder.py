"""Train pocket's autoencoder: ``python -m training.pocket.autoencoder --work F --minutes 15``, then with ``--decoder``.

AutoencoderTiny with factor 8 (64 px -> 8x8x32), on scenes of the world, part of them zoomed, turned and recoloured at
random, so that drawings of other designers pass too. Two stages. The first trains the encoder, with a light decoder
that takes the latents apart into 16x16x8: factor 8 by itself is far slower to learn (README). It fixes the latents, so
scenes can be encoded and the U-Net begin. The decoder that ships computes what the light one does (`graft`); the second
stage trains it further, for as long as there is time. Both resume, from ``autoencoder.pt`` and ``decoder.pt``.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from training.pocket import scenes
from training.pocket.common import Team, load_state, log_line, mixed_precision, save_state
from training.pocket.graft import graft
from training.pocket.sprites import SpriteBank

SIZE, FACTOR, CHANNELS = 64, 8, 32
#: Channels inside the encoder, and inside the decoder that ships.
WIDTH, DECODER_WIDTH = 32, 64
#: Noise on the latents in training: what the decoder has to stand.
NOISE = 0.05
#: The latents of pocket's training: whoever trains it further needs these and no others.
LATENTS = Path(__file__).with_name("latents.safetensors")


def _tame(model: nn.Module) -> nn.Module:
    """Let residual branches start small; returns the module."""
    for name, weight in model.named_parameters():
        if ".conv.4.weight" in name:
            weight.data.mul_(0.2)
    return model


def build() -> AutoencoderTiny:
    """Return the untrained autoencoder."""
    model = AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(DECODER_WIDTH,) * 4,
        num_encoder_blocks=(1, 1, 2, 0),
        num_decoder_blocks=(5, 4, 2, 1),
        latent_channels=CHANNELS,
        upsampling_scaling_factor=2,
    )
    _tame(model)
    return model


class LightDecoder(nn.Module):
    """The decoder of the first stage: takes each latent apart into 2x2 of a quarter of the channels."""

    def __init__(self) -> None:
        super().__init__()
        fine = AutoencoderTiny(
            encoder_block_out_channels=(8,) * 3,
            decoder_block_out_channels=(WIDTH,) * 3,
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(3, 2, 1),
            latent_channels=CHANNELS // 4,
            upsampling_scaling_factor=2,
        )
        self.decoder = _tame(fine.decoder)

    def forward(self, latents: Tensor) -> Tensor:
        """Return pictures in [-1, 1] for latents (B, 32, h, w)."""
        pictures: Tensor = self.decoder(F.pixel_shuffle(latents, 2))
        return pictures


def whole(state: dict[str, dict[str, Tensor]]) -> AutoencoderTiny:
    """Return the autoencoder of the first stage's ``state``, its light decoder in the one that ships."""
    model, light = build(), LightDecoder()
    model.encoder.load_state_dict({k[8:]: v for k, v in state["model"].items() if k.startswith("encoder.")})
    light.load_state_dict(state["light"])
    graft(model.decoder, light.decoder)
    return model


def encode(model: AutoencoderTiny, images: Tensor) -> Tensor:
    """Return the latents of images in [-1, 1]."""
    latents: Tensor = model.encode(images).latents
    return latents


class Pictures:
    """Scenes of the world, and altered ones for what is not of this world."""

    def __init__(self, bank: SpriteBank, seed: int) -> None:
        self.bank, self.seed = bank, seed
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, count: int, altered: float = 0.25) -> Tensor:
        """Return (count, 3, 64, 64) in [-1, 1], the first ``altered`` of them changed."""
        self.seed += 1
        images = scenes.compose(scenes.sample_scenes(count, self.seed), self.bank, self.seed)
        number = round(count * altered)
        if number:
            images[:number] = self._alter(images[:number])
        return images

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return (low + (high - low) * torch.rand(*shape, generator=self.generator)).to(self.bank.device)

    def _alter(self, images: Tensor) -> Tensor:
        """Turn, zoom and mirror, mix the colour channels, and invert some."""
        count = len(images)
        angle, zoom = self._uniform(-math.pi, math.pi, count), self._uniform(0.5, 1.2, count)
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        shift = self._uniform(-0.5, 0.5, count, 2)
        theta = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
        grid = F.affine_grid(torch.cat([theta, shift[:, :, None]], 2), list(images.shape), align_corners=False)
        turned = F.grid_sample(images, grid, align_corners=False, padding_mode="reflection")
        matrix = torch.eye(3, device=images.device) + self._uniform(-0.6, 0.6, count, 3, 3)
        mixed = torch.einsum("bij,bjhw->bihw", matrix, turned) + self._uniform(-0.4, 0.4, count, 3, 1, 1)
        sign = torch.where(self._uniform(0, 1, count, 1, 1, 1) < 0.2, -1.0, 1.0)
        return (sign * mixed).clamp(-1, 1)


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the mean PSNR in dB of pictures in [-1, 1]."""
    error = ((a.clamp(-1, 1) - b.clamp(-1, 1)) / 2).square().flatten(1).mean(1)
    return float((-10 * error.clamp(min=1e-9).log10()).mean())


def likeness(decoded: Tensor, images: Tensor) -> Tensor:
    """Return L1 + 0.5 MSE + differences of neighbours."""
    gap = decoded.float() - images
    edges = (gap[..., 1:] - gap[..., :-1]).abs().mean() + (gap[..., 1:, :] - gap[..., :-1, :]).abs().mean()
    total: Tensor = gap.abs().mean() + 0.5 * gap.square().mean() + 0.25 * edges
    return total


class Trainer:
    """One run of either stage: a rolling stock of pictures, random crops of them, one optimizer."""

    def __init__(self, args: argparse.Namespace, team: Team) -> None:
        self.args, self.team, self.device = args, team, torch.device(args.device)
        first = args.work / "autoencoder.pt"
        self.path = args.work / "decoder.pt" if args.decoder else first
        self.model, self.light = build(), LightDecoder()
        state = load_state(self.path)
        if args.decoder and state is None and load_state(first) is None:
            raise SystemExit(f"no {first}: train the first stage before --decoder")
        known = state or load_state(first)
        if known:
            self.model = whole(known)
            self.light.load_state_dict(known["light"])
        if state and args.decoder:
            self.model.load_state_dict(state["model"])
        for part in (self.model, self.light):
            part.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        trained = [self.model.decoder] if args.decoder else [self.model.encoder, self.light]
        self.parameters = [p for part in trained for p in part.parameters()]
        self.seen = int(state["seen"]) if state else 0
        bank = SpriteBank(args.work / "sprites.npy", self.device)
        self.pictures = Pictures(bank, 10**6 * (1 + team.rank) + self.seen)
        self.stock = self.pictures.draw(512)
        self.fixed = Pictures(bank, 99).draw(64, 0.0)
        self.other = Pictures(bank, 98).draw(32, 1.0)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=args.lr, weight_decay=1e-4, betas=(0.9, 0.99))
        if state and "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])

    def crops(self) -> Tensor:
        """Renew a few pictures and return a batch of crops of half the size."""
        fresh = torch.randint(len(self.stock), (8,))
        self.stock[fresh] = self.pictures.draw(8)
        chosen = self.stock[torch.randint(len(self.stock), (self.args.batch,))]
        half = SIZE // 2
        parts = []
        for quarter in chosen.chunk(4):
            x, y = (int(v) for v in torch.randint(half + 1, (2,)))
            parts.append(quarter[..., y : y + half, x : x + half])
        return torch.cat(parts).contiguous(memory_format=torch.channels_last)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the pictures of this stage's decoder."""
        decoded: Tensor = self.model.decoder(latents) if self.args.decoder else self.light(latents)
        return decoded

    def loss(self, images: Tensor) -> Tensor:
        """Return the likeness of decoded pictures; in the first stage with a pull of the latents to deviation 1."""
        if self.args.decoder:
            with torch.no_grad():
                latents = encode(self.model, images).float()
            return likeness(self.decode(latents + NOISE * torch.randn_like(latents)), images)
        latents = encode(self.model, images).float()
        mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        pull = mean.square().mean() + (std - 1).square().mean()
        return likeness(self.decode(latents + NOISE * torch.randn_like(latents)), images) + 0.05 * pull

    def step(self, rate: float) -> float:
        """Take one optimizer step and return the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with mixed_precision(self.device):
            loss = self.loss(self.crops())
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.team.average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.seen += self.args.batch * self.team.size
        return loss.item()

    @torch.no_grad()
    def report(self, loss: float, seconds: float) -> None:
        """Log the PSNR on fixed pictures and save."""
        latents = encode(self.model, self.fixed)
        log_line(
            self.path.with_suffix(".jsonl"),
            seen=self.seen,
            loss=round(loss, 4),
            psnr=round(psnr(self.decode(latents), self.fixed), 2),
            psnr_altered=round(psnr(self.decode(encode(self.model, self.other)), self.other), 2),
            std=round(float(latents.std()), 3),
            seconds=round(seconds),
        )
        state = {"model": self.model.state_dict(), "light": self.light.state_dict(), "seen": self.seen}
        save_state(self.path, state | {"optimizer": self.optimizer.state_dict()})


def write_latents(work: Path, path: Path) -> None:
    """Write what fixes the latents, in fp16: the encoder, the light decoder and their scale."""
    state, scale = load_state(work / "autoencoder.pt"), load_state(work / "scale.pt")
    if state is None or scale is None:
        raise SystemExit(f"{work} lacks autoencoder.pt or scale.pt: train the first stage and make a shard first")
    tensors = {f"light.{key}": value for key, value in state["light"].items()}
    tensors |= {f"model.{key}": value for key, value in state["model"].items() if key.startswith("encoder.")}
    halved = {key: value.half().contiguous() for key, value in tensors.items()}
    path.write_bytes(save(halved, {"scaling_factor": repr(scale["scaling_factor"])}))


def read_latents(work: Path, path: Path = LATENTS) -> None:
    """Begin a work folder with the latents of a file: ``autoencoder.pt`` and ``scale.pt``; the decoder is untrained."""
    if (work / "autoencoder.pt").exists():
        raise SystemExit(f"{work} has an autoencoder already; take another --work")
    with safe_open(path, "pt") as file:
        scale = float(file.metadata()["scaling_factor"])
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    model, light = build(), LightDecoder()
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")}, strict=False)
    light.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("light.")})
    save_state(work / "autoencoder.pt", {"model": model.state_dict(), "light": light.state_dict(), "seen": 0})
    save_state(work / "scale.pt", {"scaling_factor": scale})


def main() -> None:
    """Train for ``--minutes`` and save, or begin with the committed latents, or write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--decoder", action="store_true", help="the second stage: the decoder that ships")
    parser.add_argument("--batch", type=int, default=24, help="crops of 32 px in each process")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--flat", action="store_true", help="keep the rate constant, to go on later")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--known", action="store_true", help="begin WORK with the committed latents; do not train")
    parser.add_argument("--write", type=Path, help="write the latents of WORK to this file; do not train")
    args = parser.parse_args()
    if args.known or args.write:
        read_latents(args.work) if args.known else write_latents(args.work, args.write)
        return
    team = Team()
    torch.manual_seed(args.seed)
    trainer = Trainer(args, team)
    torch.manual_seed(args.seed + 1000 * team.rank + trainer.seen)
    start, told, step, loss = time.monotonic(), time.monotonic(), 0, 0.0
    while (done := team.agree((time.monotonic() - start) / (60 * args.minutes))) < 1:
        decay = 1.0 if args.flat else 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))
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
