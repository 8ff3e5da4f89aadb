"""The judge: a small CNN trained on composed scenes only: ``python -m training.pocket.evaluator --work F``.

It says which nouns are in a picture (each noun present or not), which background, and, of single things, which colour
word. Sizes, places, designers and colours vary in training, so none of these gives the noun away. It never sees a
picture of pocket's; some of its scenes went through the autoencoder, which every picture of pocket's has to.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor

from conestool._atomic import write_atomic
from conestool.evaluate.judge import Judge, Labels, judge_path, save_judge
from training.pocket import captions, domain, scenes
from training.pocket.common import load_state, log_line, mixed_precision, save_state
from training.pocket.pool import load_autoencoder
from training.pocket.scenes import Scene
from training.pocket.sprites import COLOUR_WORDS, SpriteBank

NOUNS = tuple(domain.NOUNS)
PLACES = (*domain.BACKGROUNDS, *domain.COLOURS)
HELD_OUT_SEED = 990_000


#: What the judge's outputs mean, and the wordings that ask for a place; "on a red background" for colours.
LABELS = Labels(
    NOUNS,
    PLACES,
    COLOUR_WORDS,
    dict(captions.PLACES) | {colour: (f"{colour} background",) for colour in domain.COLOURS},
    {"hat": domain.GENERIC_HATS},
)


@dataclasses.dataclass(frozen=True)
class Truth:
    """What a batch of scenes holds: nouns (B, nouns) 0/1, place (B,), colour (B,), -1 where several things are."""

    nouns: Tensor
    place: Tensor
    colour: Tensor


def truth_of(drawn: list[Scene]) -> Truth:
    """Read the labels off the scenes."""
    nouns = torch.zeros(len(drawn), len(NOUNS))
    place, colour = [], []
    for row, scene in enumerate(drawn):
        things = [thing for item in scene.items for thing in (item, item.wears) if thing]
        for thing in things:
            nouns[row, NOUNS.index(thing.noun)] = 1
        place.append(PLACES.index(scene.background))
        colour.append(COLOUR_WORDS.index(things[0].colour) if len(things) == 1 else -1)
    return Truth(nouns, torch.tensor(place), torch.tensor(colour))


def draw(
    count: int,
    seed: int,
    bank: SpriteBank,
    vae: AutoencoderTiny | None,
    things: int | None = None,
    mix: scenes.Mix = scenes.WIDE,
) -> tuple[Tensor, Truth]:
    """Compose labelled scenes; with an autoencoder, as it shows them."""
    rng = random.Random(seed)
    drawn = [scenes.sample_scene(rng, mix, things) for _ in range(count)]
    images = scenes.compose(drawn, bank, seed, mix.jitter)
    if vae is not None:
        with torch.no_grad(), mixed_precision(bank.device):
            images = vae.decode(vae.encode(images).latents).sample.float().clamp(-1, 1)
    return images, truth_of(drawn)


def loss_of(judge: Judge, images: Tensor, truth: Truth) -> Tensor:
    """Return the sum of the three heads' losses."""
    nouns, place, colour = (out.float() for out in judge(images))
    loss = F.binary_cross_entropy_with_logits(nouns, truth.nouns) * 20
    loss = loss + 0.5 * F.cross_entropy(place, truth.place)
    if (truth.colour >= 0).any():
        loss = loss + 0.5 * F.cross_entropy(colour, truth.colour, ignore_index=-1)
    return loss


@torch.no_grad()
def check(
    judge: Judge, bank: SpriteBank, vae: AutoencoderTiny | None, mix: scenes.Mix = scenes.WIDE, count: int = 1000
) -> dict[str, float]:
    """Return how often the judge is right on scenes it never saw: single things, their colours, backgrounds."""
    judge.eval()
    images, truth = draw(count, HELD_OUT_SEED, bank, vae, 1, mix)
    alone = truth.nouns.sum(1) == 1
    nouns, place, colour = (
        torch.cat(parts) for parts in zip(*(judge(b) for b in torch.split(images, 100)), strict=True)
    )
    judge.train()
    named = alone & (truth.colour > 0)
    return {
        "class": float((nouns.argmax(1) == truth.nouns.argmax(1))[alone].float().mean()),
        "all nouns": float(((nouns > 0) == truth.nouns.bool()).all(1).float().mean()),
        "background": float((place.argmax(1) == truth.place).float().mean()),
        "colour": float((colour[:, 1:].argmax(1) + 1 == truth.colour)[named].float().mean()),
    }


def train(work: Path, minutes: float, device: torch.device, mix: scenes.Mix, batch: int = 64) -> None:
    """Train, from where ``evaluator.pt`` stands, and save it."""
    torch.manual_seed(0)
    bank = SpriteBank(work / "sprites.npz", device).restrict(mix.sets, mix.skips)
    vae = load_autoencoder(work, device)
    judge, state = Judge(LABELS).to(device), load_state(work / "evaluator.pt")
    if state:
        judge.load_state_dict(state["model"])
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.05)
    first = int(state["steps"]) if state else 0
    start, told, step = time.monotonic(), 0.0, first
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = (
                2e-3 * min(1.0, (step - first + 1) / 50) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
            )
        images, truth = draw(batch, step, bank, vae if step % 8 == 0 else None, None, mix)
        images = images + torch.rand(batch, 1, 1, 1, device=device) * 0.1 * torch.randn_like(images)
        images = images.contiguous(memory_format=torch.channels_last)
        truth = Truth(*(t.to(device) for t in (truth.nouns, truth.place, truth.colour)))
        with mixed_precision(device):
            loss = loss_of(judge, images, truth)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        step += 1
        if time.monotonic() - told > 60:
            told = time.monotonic()
            scores = {k: round(v, 4) for k, v in check(judge, bank, None, mix, 300).items()}
            log_line(work / "evaluator.jsonl", step=step, loss=round(loss.item(), 3), **scores)
    save_state(work / "evaluator.pt", {"model": judge.state_dict(), "steps": step})
    log_line(work / "evaluator.jsonl", step=step, **check(judge, bank, None, mix))


def load(work: Path, device: torch.device) -> Judge:
    """Return the trained judge."""
    state = load_state(work / "evaluator.pt")
    if state is None:
        raise SystemExit("no evaluator.pt: run python -m training.pocket.evaluator first")
    judge = Judge(LABELS)
    judge.load_state_dict(state["model"])
    return judge.to(device).eval()


def export(work: Path, path: Path) -> None:
    """Write the trained judge as the package ships it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save_judge(load(work, torch.device("cpu"))), force=True)


def main() -> None:
    """Read the command line; train, or export what was trained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=14)
    parser.add_argument("--mix", choices=tuple(scenes.MIXES), default="wide")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--export", action="store_true", help="only write the trained judge into the package")
    args = parser.parse_args()
    if args.export:
        export(args.work, judge_path())
        return
    train(args.work, args.minutes, torch.device(args.device), scenes.MIXES[args.mix])


if __name__ == "__main__":
    main()
