"""Compose scenes, encode them, and keep latents with captions on disk: ``python -m training.pocket.pool --work F``.

Shards are ``pool/NAME-SEED-NUMBER.pt``: ``latents`` (N, 4, 16, 16) fp16, not scaled; ``tokens`` (N, 4, 32) int16, four
phrasings of each caption; ``count`` (N,), the number of things. A stopped run goes on behind its last shard.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from transformers import CLIPTokenizer

from training.pocket import autoencoder, captions, scenes, tokenizer
from training.pocket.common import load_state, mixed_precision, save_state
from training.pocket.sprites import SpriteBank

PHRASINGS = 4


def load_autoencoder(work: Path, device: torch.device) -> AutoencoderTiny:
    """Return the trained autoencoder; a decoder trained further replaces the first one."""
    model = autoencoder.build()
    state = load_state(work / "decoder.pt") or load_state(work / "autoencoder.pt")
    if state is None:
        raise SystemExit("no autoencoder.pt: run python -m training.pocket.autoencoder first")
    model.load_state_dict(state["model"])
    return model.to(device).eval().requires_grad_(False)


def make_shard(
    count: int, seed: int, mix: scenes.Mix, bank: SpriteBank, vae: AutoencoderTiny, words: CLIPTokenizer
) -> dict[str, torch.Tensor]:
    """Compose and encode ``count`` scenes."""
    rng = random.Random(seed)
    latents, texts, counts = [], [], []
    for start in range(0, count, 250):
        drawn = [scenes.sample_scene(rng, mix) for _ in range(min(250, count - start))]
        images = scenes.compose(drawn, bank, seed * 1000 + start, mix.jitter)
        with torch.no_grad(), mixed_precision(bank.device):
            latents.append(vae.encode(images).latents.to("cpu", torch.float16))
        texts += [captions.caption(s, rng) for s in drawn for _ in range(PHRASINGS)]
        counts += [len(s.items) for s in drawn]
    tokens = words(texts, padding="max_length", max_length=tokenizer.MAX_LENGTH, truncation=True).input_ids
    return {
        "latents": torch.cat(latents),
        "tokens": torch.tensor(tokens, dtype=torch.int16).view(count, PHRASINGS, -1),
        "count": torch.tensor(counts, dtype=torch.uint8),
    }


def latent_scale(shard: dict[str, torch.Tensor]) -> float:
    """Return the factor that brings latents to deviation 1."""
    return 1 / float(shard["latents"].float().std())


def main() -> None:
    """Write shards until ``--shards`` exist."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--mix", choices=tuple(scenes.MIXES), default="wide")
    parser.add_argument("--counts", type=float, nargs=4, default=(0.5, 0.28, 0.12, 0.1))
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--per-shard", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0, help="give each generating process its own")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    mix = dataclasses.replace(scenes.MIXES[args.mix], counts=tuple(args.counts))
    bank = SpriteBank(args.work / "sprites.npz", device).restrict(mix.sets, mix.skips)
    vae, words = load_autoencoder(args.work, device), tokenizer.build()
    for number in range(args.shards):
        path = args.work / "pool" / f"{args.mix}-{args.seed}-{number:03d}.pt"
        if path.exists():
            continue
        seed = (args.seed * 1000 + number) * 2 + (args.mix == "wide") + 10
        shard = make_shard(args.per_shard, seed, mix, bank, vae, words)
        save_state(path, shard)
        if not (args.work / "scale.pt").exists():
            save_state(args.work / "scale.pt", {"scaling_factor": latent_scale(shard)})
        print(path.name, flush=True)


if __name__ == "__main__":
    main()
