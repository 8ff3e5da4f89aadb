"""Measures that need no caption row: Frechet distance, two-sample test, autoencoder, use of the text."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from torch import Tensor, nn

from training.pocket import captions, domain, sample, scenes
from training.pocket.autoencoder import psnr
from training.pocket.common import mixed_precision
from training.pocket.evaluator import LABELS, Judge
from training.pocket.sprites import SpriteBank

SEED = 880_000


def held_out_scenes(count: int, offset: int = 0, mix: scenes.Mix = scenes.WIDE) -> list[scenes.Scene]:
    """Return random scenes with seeds that no stage of training uses."""
    rng = random.Random(SEED + offset)
    return [scenes.sample_scene(rng, mix) for _ in range(count)]


@torch.no_grad()
def features(judge: Judge, images: Tensor) -> Tensor:
    """Return the judge's features (N, 192) in float64."""
    return torch.cat([judge.features(part) for part in torch.split(images, 100)]).double()


def frechet(a: Tensor, b: Tensor) -> float:
    """Return the Frechet distance of two sets of features (N, D), each taken as a Gaussian."""
    gap = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    roots = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return float(gap + cov_a.trace() + cov_b.trace() - 2 * roots)


@torch.no_grad()
def decoded(vae: AutoencoderTiny, images: Tensor) -> Tensor:
    """Return pictures as the autoencoder shows them."""
    parts = [vae.decode(vae.encode(part).latents).sample.clamp(-1, 1) for part in torch.split(images, 100)]
    return torch.cat(parts)


def autoencoder_psnr(vae: AutoencoderTiny, work: Path, count: int = 300) -> dict[str, float]:
    """Return the PSNR on held-out scenes, and on the held-out designer's icons over plain and field."""
    bank = SpriteBank(work / "sprites.npz", torch.device("cpu"))
    images = scenes.compose(held_out_scenes(count), bank, SEED)
    other = SpriteBank(work / "heldout.npz", torch.device("cpu"))
    drawn = [scenes.Scene((scenes.Item(n, n),), b) for n in sorted(other.rows) for b in ("plain", "field")]
    icons = scenes.compose(drawn, other, SEED)
    return {"scenes": psnr(decoded(vae, images), images), "openmoji": psnr(decoded(vae, icons), icons)}


def tell_apart(renders: Tensor, real: Tensor, epochs: int = 12) -> float:
    """Train a fresh classifier to tell two equally large sets apart; its accuracy on a held-out fifth."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    judge = Judge(LABELS)
    model = nn.Sequential(judge.body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, 1))
    order = torch.randperm(len(renders), generator=generator)
    cut = len(renders) // 5
    test, train = order[:cut], order[cut:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    images = torch.cat([renders[train], real[train]])
    labels = torch.cat([torch.zeros(len(train)), torch.ones(len(train))])
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(images), generator=generator), 64):
            batch = images[rows]
            batch = batch.flip(3) if torch.rand((), generator=generator) < 0.5 else batch
            with mixed_precision(torch.device("cpu")):
                logits = model(batch).squeeze(1)
            optimizer.zero_grad()
            torch.autograd.backward(F.binary_cross_entropy_with_logits(logits.float(), labels[rows]))
            optimizer.step()
    model.eval()
    with torch.no_grad():
        wrong = float((model(renders[test]) > 0).float().mean())
        right = float((model(real[test]) > 0).float().mean())
    return (right + 1 - wrong) / 2


@torch.no_grad()
def text_ratio(pipe: StableDiffusionPipeline, work: Path, mix: scenes.Mix, count: int = 480) -> float:
    """Return the loss on held-out captioned scenes with their text divided by that without text."""
    drawn, rng = held_out_scenes(count, 1, mix), random.Random(SEED)
    bank = SpriteBank(work / "sprites.npz", torch.device("cpu")).restrict(mix.sets, mix.skips)
    images = scenes.compose(drawn, bank, SEED + 1, mix.jitter)
    generator = torch.Generator().manual_seed(SEED)
    alphas, sums = pipe.scheduler.alphas_cumprod, [0.0, 0.0]
    for start in range(0, count, 96):
        part = slice(start, start + 96)
        clean = pipe.vae.encode(images[part]).latents * pipe.vae.config.scaling_factor
        noise = torch.randn(clean.shape, generator=generator)
        times = ((torch.arange(len(clean)) + 0.5) / len(clean) * len(alphas)).long()
        alpha = alphas[times].view(-1, 1, 1, 1)
        noisy, target = (
            alpha.sqrt() * clean + (1 - alpha).sqrt() * noise,
            alpha.sqrt() * noise - (1 - alpha).sqrt() * clean,
        )
        texts = [captions.caption(s, rng, identifiers=0) for s in drawn[part]]
        for index, words in enumerate((texts, [""] * len(texts))):
            ids = pipe.tokenizer(words, padding="max_length", max_length=32, return_tensors="pt").input_ids
            states = pipe.text_encoder(ids).last_hidden_state
            sums[index] += float(F.mse_loss(pipe.unet(noisy, times, encoder_hidden_states=states).sample, target))
    return sums[0] / sums[1]


@torch.no_grad()
def text_cosines(pipe: StableDiffusionPipeline, nouns: Sequence[str]) -> dict[str, float]:
    """Return mean cosines of the text states that have to differ, by what they are called in the table.

    Over pairs of identifiers: at them and at the noun behind them. Over pairs of nouns, the mean over all colours: at a
    noun behind a colour, and at the last of the padding. 1 means that the U-Net cannot tell the words apart; no mean
    state is subtracted.
    """

    def states(*prompts: str) -> Tensor:
        ids = pipe.tokenizer(prompts, padding="max_length", max_length=32, return_tensors="pt").input_ids
        return pipe.text_encoder(ids).last_hidden_state

    bound = states(*(f"a photo of a {identifier} dog" for identifier in domain.IDENTIFIERS))
    noun = len(pipe.tokenizer("a photo of a red dog", add_special_tokens=False).input_ids)
    coloured = [states(*(f"a photo of a {colour} {noun}" for noun in nouns)) for colour in domain.COLOURS]
    return {
        "identifiers, at them": mean_cosine(bound[:, noun - 1]),
        "identifiers, at the noun": mean_cosine(bound[:, noun]),
        "nouns behind a colour": mean([mean_cosine(each[:, noun]) for each in coloured]),
        "nouns behind a colour, last padding": mean([mean_cosine(each[:, -1]) for each in coloured]),
    }


def mean_cosine(states: Tensor) -> float:
    """Return the mean cosine of all pairs of rows (K, D)."""
    unit = F.normalize(states, dim=1)
    pairs = unit @ unit.T
    return float((pairs.sum() - pairs.trace()) / (len(unit) * (len(unit) - 1)))


def check_not_held_out(bank: SpriteBank) -> None:
    """Raise if a bank for training holds a held-out icon."""
    sets, icons = domain.held_out()
    bad = [i for i in bank.icons if i in icons or i.split(":")[0] in sets]
    if bad:
        raise ValueError(f"held-out icons among the training sprites: {bad}")


def costs(folder: Path, repeats: int = 3) -> list[dict[str, Any]]:
    """Return the size of an exported model, and the median seconds of loading it and of one 20-step picture.

    Loading is timed in this process, in which torch and diffusers are imported already; a picture takes guidance.
    """
    loads, pictures = [], []
    for _ in range(repeats):
        begun = time.perf_counter()
        pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None)
        loads.append(time.perf_counter() - begun)
        pipe.set_progress_bar_config(disable=True)
        begun = time.perf_counter()
        sample.render(pipe, ["a photo of a dog"], seed=SEED, steps=20)
        pictures.append(time.perf_counter() - begun)
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    return [
        {"measure": "weights, MB", "goal": "< 60", "value": round(size / 1e6, 1)},
        {"measure": "loading, seconds", "goal": "< 3", "value": round(median(loads), 2)},
        {
            "measure": f"one picture of 20 steps, seconds, {torch.get_num_threads()} threads",
            "goal": "< 3",
            "value": round(median(pictures), 2),
        },
    ]
