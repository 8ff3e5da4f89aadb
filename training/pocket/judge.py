"""Train the attribute judge on composed scenes only: ``python -m training.pocket.judge --work F --minutes 20``.

Places and sizes vary more than in the scenes of the base model; some scenes are blurred a little, some went through
the autoencoder, which every picture of pocket's has to. It never sees a picture of pocket's. Resumes from ``judge.pt``,
and begins with the packaged one.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor

from conestool.evaluation.judge import AttributeJudge, judge_path, load_judge, save_judge
from training.pocket import autoencoder, scenes
from training.pocket.common import load_state, log_line, mixed_precision, save_state
from training.pocket.labels import ABSENT, WORLD, truth_of
from training.pocket.pool import load_autoencoder
from training.pocket.sprites import SpriteBank
from training.pocket.world import Scene

HELD_OUT_SEED = 990_000
#: One in so many batches goes through the autoencoder.
AUTOENCODED = 3
#: So far apart are the seeds of the scenes of two judges.
SEEDS = 10**7


def soften(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur each picture by an amount of its own (up to a 3x3 mean) and add a little noise."""
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), "replicate"), 3, 1)
    amount = torch.rand(len(images), 1, 1, 1, generator=generator) * 0.7
    noise = torch.randn(images.shape, generator=generator) * torch.rand(len(images), 1, 1, 1, generator=generator)
    return images.lerp(blurred, amount) + 0.05 * noise


def draw(
    count: int, seed: int, bank: SpriteBank, vae: AutoencoderTiny | None, *, jitter: float = 1.3
) -> tuple[Tensor, list[Scene]]:
    """Compose scenes; with an autoencoder, as it shows them."""
    drawn = scenes.sample_scenes(count, seed, training=False)
    images = scenes.compose(drawn, bank, seed, jitter=jitter)
    if vae is not None:
        with torch.no_grad(), mixed_precision(bank.device):
            images = vae.decode(autoencoder.encode(vae, images)).sample.float().clamp(-1, 1)
    return images, drawn


def loss_of(judge: AttributeJudge, images: Tensor, drawn: Sequence[Scene]) -> Tensor:
    """Return the sum of all cross-entropies."""
    counts, places, heads = truth_of(drawn)
    count, background = judge.read_whole(images)
    squares, _ = judge.crops(images, counts)
    read = judge.read_things(squares)
    parts = [F.cross_entropy(logits.float(), heads[name], ignore_index=ABSENT) for name, logits in read.items()]
    parts += [F.cross_entropy(count.float(), counts - 1), F.cross_entropy(background.float(), places)]
    return torch.stack(parts).sum()


@torch.no_grad()
def check(judge: AttributeJudge, bank: SpriteBank, vae: AutoencoderTiny | None, count: int = 1000) -> dict[str, float]:
    """Return the share that is right of each attribute on scenes it never saw, over all things that show it."""
    judge.eval()
    right: dict[str, list[Tensor]] = {name: [] for name in ("count", "background", *WORLD.heads)}
    for start in range(0, count, 100):
        images, drawn = draw(100, HELD_OUT_SEED + start, bank, vae, jitter=1.0)
        counts, places, heads = truth_of(drawn)
        number, background = judge.read_whole(images)
        right["count"].append(number.argmax(1) == counts - 1)
        right["background"].append(background.argmax(1) == places)
        squares, _ = judge.crops(images, counts)
        for name, logits in judge.read_things(squares).items():
            seen = heads[name] != ABSENT
            right[name].append(logits.argmax(1)[seen] == heads[name][seen])
    judge.train()
    return {name: round(float(torch.cat(parts).float().mean()), 4) for name, parts in right.items()}


def load(work: Path) -> AttributeJudge:
    """Return the judge of a work folder, or the packaged one where there is none."""
    state = load_state(work / "judge.pt")
    if state is None and judge_path().exists():
        return load_judge()
    if state is None:
        raise SystemExit(f"no judge.pt in {work}: run python -m training.pocket.judge first")
    judge = AttributeJudge(WORLD)
    judge.load_state_dict(state["model"])
    return judge.eval().requires_grad_(False)


def train(work: Path, minutes: float, batch: int, lr: float, *, anew: bool, seed: int = 0) -> None:
    """Train for so many minutes, with a learning rate that falls to nearly nothing."""
    torch.manual_seed(seed)
    bank, vae = SpriteBank(work / "sprites.npy"), load_autoencoder(work)
    judge = AttributeJudge(WORLD).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(judge.parameters(), lr=lr, weight_decay=0.05)
    state = load_state(work / "judge.pt")
    step = 0
    if not state and judge_path().exists() and not anew:
        judge.load_state_dict(load_judge().state_dict())
    if state:
        judge.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = int(state["steps"])
    generator = torch.Generator().manual_seed(step + SEEDS * seed)
    start, told, first, recent = time.monotonic(), time.monotonic(), step, []

    def save() -> None:
        state = {"model": judge.state_dict(), "optimizer": optimizer.state_dict(), "steps": step}
        save_state(work / "judge.pt", state)

    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            rate = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
            group["lr"] = lr * min(1.0, (step - first + 1) / 50) * rate
        images, drawn = draw(batch, 10_000 + step + SEEDS * seed, bank, vae if step % AUTOENCODED == 0 else None)
        images = soften(images, generator).contiguous(memory_format=torch.channels_last)
        with mixed_precision(bank.device):
            loss = loss_of(judge, images, drawn)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        recent.append(loss.item())
        step += 1
        if time.monotonic() - told > 120:
            shares = check(judge, bank, None, 200)
            log_line(work / "judge.jsonl", steps=step, loss=round(sum(recent) / len(recent), 3), **shares)
            save()
            told, recent = time.monotonic(), []
    save()
    log_line(work / "judge.jsonl", steps=step, scenes=check(judge, bank, None), autoencoded=check(judge, bank, vae))


def main() -> None:
    """Train, or write the file that ships."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--batch", type=int, default=32, help="scenes; each has one to four things to read")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--anew", action="store_true", help="do not begin with the packaged judge")
    parser.add_argument("--seed", type=int, default=0, help="of its first weights and of its scenes")
    parser.add_argument(
        "--export", type=Path, help="write the judge of the work folder as safetensors, and do not train"
    )
    args = parser.parse_args()
    if args.export:
        args.export.parent.mkdir(parents=True, exist_ok=True)
        args.export.write_bytes(save_judge(load(args.work)))
    else:
        train(args.work, args.minutes, args.batch, args.lr, anew=args.anew, seed=args.seed)


if __name__ == "__main__":
    main()
