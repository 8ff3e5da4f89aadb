"""Train text encoder and U-Net on the pool: ``torchrun --nproc_per_node 2 -m training.pocket.train --work F``.

Several processes take steps of their own and average their weights now and then. Resumes from ``train.pt``.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from torch import Tensor

from training.pocket import fast
from training.pocket.common import Team, load_state, log_line, save_state
from training.pocket.trainer import TIMESTEPS, Trainer, Truth, rate_at

SAVE_SECONDS = 240
#: Scenes of the last shard that are never trained on: the loss on them is comparable from run to run.
HELD_OUT = 256


class Pool:
    """The shards on disk; looks for new ones now and then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: set[str] = set()
        self.parts: dict[str, list[Tensor]] = {"latents": [], "tokens": [], "things": [], "background": []}
        self.look()
        if not self.names:
            raise SystemExit(f"no shards in {folder}: run python -m training.pocket.pool first")

    def look(self) -> None:
        """Read shards that were not there before."""
        for path in sorted(p for p in self.folder.glob("[!.]*.pt") if p.name not in self.names):
            shard = load_state(path)
            if shard:
                self.names.add(path.name)
                for key, parts in self.parts.items():
                    parts.append(shard[key])
        self.sizes = torch.tensor([len(part) for part in self.parts["latents"]])

    def held_out(self) -> tuple[Tensor, Tensor, Truth]:
        """Return latents, first captions and truth of what is not trained on: the end of the first shard."""
        latents, tokens, things, background = (parts[0][-HELD_OUT:] for parts in self.parts.values())
        return latents.float(), tokens[:, 0].long(), (things, background)

    def draw(self, count: int) -> tuple[Tensor, Tensor, Truth]:
        """Return latents (count, 32, 8, 8), token ids (count, 64) and what is true of the scenes."""
        shards = torch.randint(len(self.sizes), (count,)).tolist()
        rows = [int(torch.randint(int(self.sizes[s]) - (HELD_OUT if s == 0 else 0), ())) for s in shards]
        pick = list(zip(shards, rows, strict=True))
        latents, things, background = (
            torch.stack([self.parts[key][s][r] for s, r in pick]) for key in ("latents", "things", "background")
        )
        phrasing = torch.randint(self.parts["tokens"][0].shape[1], (count,)).tolist()
        tokens = [self.parts["tokens"][s][r, p] for (s, r), p in zip(pick, phrasing, strict=True)]
        return latents.float(), torch.stack(tokens).long(), (things, background)


def build_trainer(args: argparse.Namespace, team: Team) -> Trainer:
    """Return the trainer that goes on from ``train.pt``, or begins, with the text encoder of ``text.pt`` if there."""
    scale = load_state(args.work / "scale.pt")
    if scale is None:
        raise SystemExit(f"no scale.pt in {args.work}: run python -m training.pocket.pool first")
    trainer = Trainer(args, team, float(scale["scaling_factor"]), load_state(args.work / "train.pt"))
    text = load_state(args.work / "text.pt")
    if text and (args.new_text or not trainer.seen):
        trainer.begin_with_text(text["model"])
    return trainer


def run(trainer: Trainer, pool: Pool) -> None:
    """Train for ``--minutes``."""
    args, team = trainer.args, trainer.team
    start = told = saved = time.monotonic()
    recent: list[float] = []
    first = trainer.seen
    minutes = 0.0
    while minutes < args.minutes:
        recent.append(trainer.step(*pool.draw(args.batch), rate_at(args, trainer.steps, minutes)))
        now = time.monotonic()
        if trainer.steps % args.local_steps:
            continue  # the processes' weights differ, or do so with more of them
        minutes = team.agree((now - start) / 60)
        if now - told > args.tell and team.leads:
            told_of = trainer.held_out_loss(*pool.held_out())
            log_line(
                args.work / "train.jsonl",
                seen=trainer.seen,
                steps=trainer.steps,
                loss=round(sum(recent) / len(recent), 4),
                read=round(trainer.read.item(), 4),
                apart=round(trainer.apart.item(), 4),
                minutes=round((now - start) / 60, 1),
                images_per_second=round((trainer.seen - first) / (now - start), 1),
                shards=len(pool.names),
                batch=args.batch,
                **told_of,
            )
            told, recent = now, []
        if now - saved > SAVE_SECONDS:
            saved = now
            pool.look()
            if team.leads:
                save_state(args.work / "train.pt", trainer.state())
    if team.leads:
        save_state(args.work / "train.pt", trainer.state())


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--decay", type=float, default=0.0, help="minutes of falling learning rate at the end")
    parser.add_argument("--batch", type=int, default=16, help="images in each process")
    parser.add_argument(
        "--local-steps",
        type=int,
        default=16,
        help="several processes take so many steps of their own, then average their weights; 1: average every gradient",
    )
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--timesteps", choices=TIMESTEPS, default=TIMESTEPS[0], help="even: for the end, for detail")
    parser.add_argument("--from-average", action="store_true", help="go on from the averaged weights")
    parser.add_argument(
        "--new-average", action="store_true", help="average anew, after a change that moved the weights"
    )
    parser.add_argument("--new-text", action="store_true", help="replace the text encoder by that of text.pt")
    parser.add_argument(
        "--frozen-text",
        action="store_true",
        help="the text encoder stays as it is: a quarter less work, once it can read",
    )
    parser.add_argument("--warm-up", type=int, default=200)
    parser.add_argument(
        "--attributes", type=float, default=0.05, help="weight of the loss that reads attributes from features; 0: none"
    )
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--tell", type=float, default=60, help="seconds between two lines of the log")
    parser.add_argument("--eager", action="store_true", help="compile nothing: slower, but begins at once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    team = Team()
    if args.device == "cpu" and team.size > 1:
        torch.set_num_threads(1)
    trainer = build_trainer(args, team)
    if args.device == "cpu" and trainer.half is not None and not args.eager:
        fast.compile_blocks(trainer.computing("unet"))
        if args.frozen_text:
            fast.compile_blocks(trainer.computing("text"))
    random.seed(args.seed + 1000 * team.rank + trainer.steps)
    torch.manual_seed(args.seed + 1000 * team.rank + trainer.steps)
    run(trainer, Pool(args.work / "pool"))
    team.close()


if __name__ == "__main__":
    main()
