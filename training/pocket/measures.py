"""Measures that need no caption row: Frechet distance, two-sample test, autoencoder, use of the text, costs."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from torch import Tensor, nn

from conestool.evaluation.judge import AttributeJudge
from training.pocket import captions, sample, scenes, world
from training.pocket.autoencoder import encode
from training.pocket.common import mixed_precision
from training.pocket.labels import WORLD
from training.pocket.sprites import SpriteBank
from training.pocket.tokenizer import MAX_LENGTH

#: No stage of training uses seeds from here on.
SEED = 880_000


@torch.no_grad()
def features(judge: AttributeJudge, images: Tensor) -> Tensor:
    """Return the means of the judge's last stage for whole pictures: (N, 96) in float64."""
    return torch.cat([judge.whole(part).mean((2, 3)) for part in torch.split(images, 100)]).double()


def frechet(a: Tensor, b: Tensor) -> float:
    """Return the Frechet distance of two sets of features (N, D), each taken as a Gaussian."""
    gap = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    roots = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return float(gap + cov_a.trace() + cov_b.trace() - 2 * roots)


@torch.no_grad()
def decoded(vae: AutoencoderTiny, images: Tensor) -> Tensor:
    """Return pictures as the autoencoder shows them."""
    parts = [vae.decode(encode(vae, part)).sample.clamp(-1, 1) for part in torch.split(images, 100)]
    return torch.cat(parts)


def tell_apart(renders: Tensor, real: Tensor, epochs: int = 12) -> float:
    """Train a fresh classifier to tell two equally large sets apart; its accuracy on a held-out fifth."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    body = AttributeJudge(WORLD).whole
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 1))
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


def entropy_share(seen: Sequence[str], expected: Mapping[str, float]) -> float:
    """Return the entropy of what was seen over that of the distribution that was to be seen."""

    def entropy(shares: Sequence[float]) -> float:
        return -sum(p * math.log(p) for p in shares if p > 0)

    counts = Counter(seen)
    total = sum(expected.values())
    return entropy([n / len(seen) for n in counts.values()]) / entropy([p / total for p in expected.values()])


def same_individual(readings: Sequence[Mapping[str, str]], names: Sequence[str]) -> float:
    """Return the share of pairs of readings that agree in all the named attributes."""
    groups = Counter(tuple(reading[name] for name in names) for reading in readings)
    total = len(readings)
    return sum(n * (n - 1) for n in groups.values()) / (total * (total - 1))


@torch.no_grad()
def text_ratio(pipe: StableDiffusionPipeline, bank: SpriteBank, count: int = 480) -> float:
    """Return the loss on held-out captioned scenes with their text divided by that without text."""
    drawn, rng = scenes.sample_scenes(count, SEED + 1), random.Random(SEED)
    images = scenes.compose(drawn, bank, SEED + 1)
    generator = torch.Generator().manual_seed(SEED)
    alphas, sums = pipe.scheduler.alphas_cumprod, [0.0, 0.0]
    for start in range(0, count, 96):
        part = slice(start, start + 96)
        clean = encode(pipe.vae, images[part]) * pipe.vae.config.scaling_factor
        noise = torch.randn(clean.shape, generator=generator)
        times = ((torch.arange(len(clean)) + 0.5) / len(clean) * len(alphas)).long()
        alpha = alphas[times].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        texts = [captions.caption(s, rng, identifiers=0) for s in drawn[part]]
        for index, words in enumerate((texts, [""] * len(texts))):
            predicted = pipe.unet(noisy, times, encoder_hidden_states=_states(pipe, words)).sample
            sums[index] += float(F.mse_loss(predicted, target))
    return sums[0] / sums[1]


@torch.no_grad()
def _states(pipe: StableDiffusionPipeline, prompts: Sequence[str]) -> Tensor:
    ids = pipe.tokenizer(list(prompts), padding="max_length", max_length=MAX_LENGTH, return_tensors="pt").input_ids
    states: Tensor = pipe.text_encoder(ids).last_hidden_state
    return states


def text_cosines(pipe: StableDiffusionPipeline) -> dict[str, float]:
    """Return mean cosines of the text states that have to differ, by what they are called in the table.

    Over pairs of identifiers: at them and at the noun behind them. Over pairs of nouns, the mean over all colours: at a
    noun behind a colour, and at the last of the padding. 1 means that the U-Net cannot tell the words apart; no mean
    state is subtracted.
    """
    nouns = [*world.ANIMALS, *world.THINGS]
    bound = _states(pipe, [f"a photo of a {identifier} dog" for identifier in world.IDENTIFIERS])
    at = len(pipe.tokenizer("a photo of a red dog", add_special_tokens=False).input_ids)
    coloured = [_states(pipe, [f"a photo of a {colour} {noun}" for noun in nouns]) for colour in world.COLOURS]
    return {
        "identifiers, at them": mean_cosine(bound[:, at - 1]),
        "identifiers, at the noun": mean_cosine(bound[:, at]),
        "nouns behind a colour": mean([mean_cosine(each[:, at]) for each in coloured]),
        "nouns behind a colour, last padding": mean([mean_cosine(each[:, -1]) for each in coloured]),
    }


def mean_cosine(states: Tensor) -> float:
    """Return the mean cosine of all pairs of rows (K, D)."""
    unit = F.normalize(states, dim=1)
    pairs = unit @ unit.T
    return float((pairs.sum() - pairs.trace()) / (len(unit) * (len(unit) - 1)))


def seconds_a_picture(pipe: StableDiffusionPipeline, repeats: int = 5) -> float:
    """Return the median seconds of one picture with guidance on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        sample.render(pipe, ["a photo of a dog"], seed=SEED)
        times.append(time.perf_counter() - begun)
    torch.set_num_threads(threads)
    return median(times)


def weights_mb(folder: Path) -> float:
    """Return the megabytes of an exported model's weights."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
