"""Compose scenes, encode them, and keep latents with captions on disk: ``python -m training.pocket.pool --work F``.

Shards are ``pool/SEED-NUMBER.pt``: ``latents`` (N, 32, 8, 8) fp16, not scaled; ``tokens`` (N, 6, 64) int16, six
captions of each scene; ``things`` (N, 4, 16) int8 and ``background`` (N,) int8, what is true of it (`labels`). A
stopped run goes on behind its last shard.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from transformers import CLIPTokenizer

from training.pocket import autoencoder, captions, labels, scenes, tokenizer
from training.pocket.common import load_state, mixed_precision, save_state
from training.pocket.sprites import SpriteBank

PHRASINGS = 6


def load_autoencoder(work: Path, device: torch.device | str = "cpu") -> AutoencoderTiny:
    """Return the trained autoencoder, with the first stage's decoder (`graft`) until the second has run."""
    state = load_state(work / "decoder.pt") or load_state(work / "autoencoder.pt")
    if state is None:
        raise SystemExit(f"no autoencoder.pt in {work}: run python -m training.pocket.autoencoder first")
    model = autoencoder.build()
    if (work / "decoder.pt").exists():
        model.load_state_dict(state["model"])
    else:
        model = autoencoder.whole(state)
    return model.to(device).eval().requires_grad_(False)


def tokenize(words: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Return token ids (N, 64) as int16."""
    ids = words(texts, padding="max_length", max_length=tokenizer.MAX_LENGTH, truncation=True).input_ids
    return torch.tensor(ids, dtype=torch.int16)


def make_shard(
    count: int, seed: int, bank: SpriteBank, vae: AutoencoderTiny, words: CLIPTokenizer, *, training: bool = True
) -> dict[str, torch.Tensor]:
    """Compose and encode ``count`` scenes."""
    rng = random.Random(seed)
    latents = []
    drawn = scenes.sample_scenes(count, seed, training=training)
    for start in range(0, count, 100):
        images = scenes.compose(drawn[start : start + 100], bank, seed * 1000 + start)
        with torch.no_grad(), mixed_precision(bank.device):
            latents.append(autoencoder.encode(vae, images).to("cpu", torch.float16))
    texts = [captions.caption(scene, rng) for scene in drawn for _ in range(PHRASINGS)]
    things, background = labels.codes_of(drawn)
    return {
        "latents": torch.cat(latents),
        "tokens": tokenize(words, texts).view(count, PHRASINGS, -1),
        "things": things,
        "background": background,
    }


def main() -> None:
    """Write shards until ``--shards`` exist."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=60)
    parser.add_argument("--per-shard", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0, help="give each generating process its own")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    bank = SpriteBank(args.work / "sprites.npy", device)
    vae, words = load_autoencoder(args.work, device), tokenizer.build()
    for number in range(args.shards):
        path = args.work / "pool" / f"{args.seed}-{number:03d}.pt"
        if path.exists():
            continue
        shard = make_shard(args.per_shard, 1000 + args.seed * 10_000 + number, bank, vae, words)
        if not (args.work / "scale.pt").exists():
            save_state(args.work / "scale.pt", {"scaling_factor": 1 / float(shard["latents"].float().std())})
        save_state(path, shard)
        print(path.name, flush=True)


if __name__ == "__main__":
    main()
