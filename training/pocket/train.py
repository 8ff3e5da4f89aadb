"""Train text encoder and U-Net on the pool: ``torchrun --nproc_per_node 2 -m training.pocket.train --work F``.

v-prediction on a cosine schedule, stratified timesteps with more of the noisy ones, captions dropped in 10 %, and two
losses of the text encoder: its states keep the words readable, and identifiers and nouns apart. Resumes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from training.pocket import captions, domain, models, tokenizer
from training.pocket.common import Team, load_state, log_line, mixed_precision, save_state

DROP_CAPTION = 0.1
SAVE_SECONDS = 120
#: The averaged weights follow every so many steps, or the next of them after which the processes' weights are equal.
EMA_EVERY = 4
#: Below this share of noise the loss of v is weighted down to a constant weight of the clean latents' error.
DETAIL = 0.2
#: Timesteps are T * u ** NOISY for uniform u: text decides at high noise, so that is where more of them go.
NOISY = 0.7
#: Weight of the reading loss (`models.Reader`).
READING = 0.05
#: Weight of the separation loss, the cosine up to which the states of two words may lie together, and how many words
#: a step compares. Real text encoders keep rare words apart; in 27,000 images the reading loss alone did not.
SEPARATION, ALLOWED, COMPARED = 1.0, 0.6, 8


Choice = TypeVar("Choice")
BEGINNINGS = [f"{prefix}a" for prefix, _ in captions.PREFIXES]


def _pick(choices: list[Choice]) -> Choice:
    """Draw one of them with torch's generator, which the run's seed sets."""
    return choices[int(torch.randint(len(choices), ()))]


class Pool:
    """The shards on disk; looks for new ones now and then."""

    def __init__(self, folder: Path, pattern: str, counts: list[float]) -> None:
        self.folder, self.pattern, self.weights = folder, pattern, torch.tensor(counts)
        self.names: set[str] = set()
        self.parts: dict[str, list[Tensor]] = {"latents": [], "tokens": [], "count": []}
        self.look()

    def look(self) -> None:
        """Read shards that were not there before."""
        new = sorted(p for p in self.folder.glob(self.pattern) if p.name not in self.names)
        for path in new:
            shard = load_state(path)
            if shard:
                self.names.add(path.name)
                for key, parts in self.parts.items():
                    parts.append(shard[key])
        if new:
            whole = {key: torch.cat(parts) for key, parts in self.parts.items()}
            self.parts = {key: [value] for key, value in whole.items()}
            self.latents, self.tokens = whole["latents"], whole["tokens"]
            self.groups = [(whole["count"] == n).nonzero().flatten() for n in (1, 2, 3, 4)]
        if not self.names:
            raise SystemExit(f"no shards {self.pattern} in {self.folder}: run python -m training.pocket.pool first")

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return latents (count, 4, 16, 16) and token ids (count, 32)."""
        kinds = torch.multinomial(self.weights, count, replacement=True)
        group = [self.groups[int(k)] for k in kinds]
        rows = torch.stack([g[torch.randint(len(g), ())] for g in group])
        phrasing = torch.randint(self.tokens.shape[1], (count,))
        return self.latents[rows].float(), self.tokens[rows, phrasing].long()


class Trainer:
    """Models, their averages, optimizer and state of one run."""

    def __init__(self, args: argparse.Namespace, team: Team) -> None:
        self.args, self.team, self.device = args, team, torch.device(args.device)
        torch.manual_seed(args.seed)
        self.words = tokenizer.build()
        self.unet = models.build_unet().to(self.device)
        self.text = models.build_text_encoder(self.words).to(self.device)
        self.modules = torch.nn.ModuleDict({"unet": self.unet, "text": self.text})
        self.reader = models.Reader().to(self.device)
        self.parameters = [p for p in self.modules.parameters() if p.requires_grad]
        embedding = self.text.get_input_embeddings().weight
        plain = [p for p in self.parameters if p is not embedding]
        groups = [{"params": plain, "weight_decay": 0.01}, {"params": [embedding], "weight_decay": 0.0}]
        groups.append({"params": list(self.reader.parameters()), "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.99), fused=True)
        self.alphas = models.build_scheduler().alphas_cumprod.to(self.device)
        self.nouns = self.words.convert_tokens_to_ids([f"{n}</w>" for n in domain.NOUNS if " " not in n])
        self.colours = self.words.convert_tokens_to_ids([f"{colour}</w>" for colour in domain.COLOURS])
        self.empty = torch.tensor(self.words("", padding="max_length", max_length=32).input_ids)
        self.seen = self.steps = 0
        scale = load_state(args.work / "scale.pt")
        self.scale = float(scale["scaling_factor"]) if scale else 1.0
        self._resume()
        self.first = self.steps if args.new_average else 0
        self.identifiers = models.identifier_rows(self.words).to(self.device)
        self.directions = F.normalize(embedding.data[self.identifiers], dim=1)
        self.ordinary = torch.unique(torch.cat([self.words(w, return_tensors="pt").input_ids[0] for w in ("dog red",)]))

    def _resume(self) -> None:
        state = load_state(self.args.work / "train.pt")
        if state:
            self.modules.load_state_dict(state["model"])
            if "optimizer" in state:
                self.optimizer.load_state_dict(state["optimizer"])
                self.reader.load_state_dict(state["reader"])
            self.seen, self.steps = state["seen"], state["steps"]
        elif self.args.text_from:
            self._take_text(self.args.text_from)
        self.average = [p.detach().clone() for p in self.parameters]
        if state and not self.args.new_average:
            for mean, stored in zip(self.average, state["average"], strict=True):
                mean.copy_(stored)
        if state and self.args.from_average:
            for parameter, mean in zip(self.parameters, self.average, strict=True):
                parameter.data.copy_(mean)

    def _take_text(self, path: Path) -> None:
        """Begin with the averaged text encoder of another run, and a new U-Net."""
        other = load_state(path)
        if other is None:
            raise SystemExit(f"no checkpoint {path}")
        count = len(list(self.text.parameters()))
        for parameter, mean in zip(self.text.parameters(), other["average"][-count:], strict=True):
            parameter.data.copy_(mean)

    def save(self) -> None:
        """Write everything needed to go on, and to export."""
        state = {
            "model": self.modules.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "reader": self.reader.state_dict(),
            "average": self.average,
            "seen": self.seen,
            "steps": self.steps,
            "scale": self.scale,
            "domain": self.args.pool.split("-")[0],
        }
        save_state(self.args.work / "train.pt", state)

    def hold_identifiers(self) -> None:
        """Put the identifiers' embeddings back on their directions, as long as the words "dog" and "red"."""
        weight = self.text.get_input_embeddings().weight.data
        weight[self.identifiers] = self.directions * weight[self.ordinary].norm(dim=1).mean()

    def separation(self) -> Tensor:
        """Return how closely the states of words that a picture must tell apart lie together, in two sets of prompts.

        One noun behind a few identifiers and behind none, compared at the identifier, the noun and the last of the
        padding; and a few nouns behind one colour word or identifier, compared at the noun, the end and the last of the
        padding. Without the second a colour word drowned its noun: "a blue car" and "a blue dog" had one state.
        """
        start = self.words(_pick(BEGINNINGS), add_special_tokens=False).input_ids
        chosen = self.identifiers[torch.randperm(len(self.identifiers))[:COMPARED]].tolist()
        nouns = [self.nouns[int(row)] for row in torch.randperm(len(self.nouns))[:COMPARED]]
        noun, adjective = _pick(self.nouns), _pick(_pick([self.colours, self.identifiers.tolist()]))
        named = self.states_of([[*start, word, noun] for word in chosen])
        bare = self.states_of([[*start, noun]])
        behind = self.states_of([[*start, adjective, each] for each in nouns])
        at = len(start) + 1
        whole = torch.cat([named[:, [at + 1, -1]], bare[:, [at, -1]]])
        groups = (whole, named[:, [at]], behind[:, [at + 1, at + 2, -1]])
        return torch.stack([models.crowding(group, ALLOWED) for group in groups]).sum()

    def states_of(self, prompts: list[list[int]]) -> Tensor:
        """Return the text encoder's states (n, 32, width) of prompts of equal length, given as token ids."""
        tokens = self.empty.repeat(len(prompts), 1)
        tokens[:, 1 : 1 + len(prompts[0])] = torch.tensor(prompts)
        return self.text(tokens.to(self.device)).last_hidden_state.float()

    def loss(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Return the weighted mean squared error of v for scaled latents, the reading and the separation loss."""
        count = len(latents)
        clean = latents.to(self.device) * self.scale
        tokens = torch.where(torch.rand(count, 1) < DROP_CAPTION, self.empty, tokens).to(self.device)
        spread = (torch.arange(count) + torch.rand(count)) / count
        timesteps = (spread**NOISY * len(self.alphas)).long().clamp(max=len(self.alphas) - 1).to(self.device)
        noise = torch.randn(clean.shape).to(self.device)
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        with mixed_precision(self.device):
            states = self.text(tokens).last_hidden_state
            predicted = self.unet(noisy, timesteps, encoder_hidden_states=states).sample
        error = (predicted.float() - target).square().mean((1, 2, 3), keepdim=True)
        reading = self.reader(states.float(), tokens, self.text.get_input_embeddings().weight, self.words.eos_token_id)
        apart = self.separation()
        loss: Tensor = (error * ((1 - alpha) / DETAIL).clamp(max=1)).mean() + READING * reading + SEPARATION * apart
        self.reading, self.crowding = reading.item(), apart.item()
        return loss

    def step(self, latents: Tensor, tokens: Tensor, rate: float) -> float:
        """Take one optimizer step on all processes and return this one's loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(latents, tokens)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        whole = [*self.parameters, *self.reader.parameters()]
        if self.args.local_steps == 1:
            self.team.average_gradients(whole)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        if self.args.local_steps > 1 and (self.steps + 1) % self.args.local_steps == 0:
            self.team.average_weights(whole)
        self.hold_identifiers()
        self.steps, self.seen = self.steps + 1, self.seen + len(latents) * self.team.size
        every = -(-EMA_EVERY // self.args.local_steps) * self.args.local_steps
        if self.team.leads and self.steps % every == 0:
            steps = self.steps - self.first
            decay = min(self.args.ema, (1 + steps) / (10 + steps)) ** every
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        return loss.item()


def rate_at(args: argparse.Namespace, steps: int, minutes: float) -> float:
    """Return the learning rate: warm-up by steps, constant, then linear to 2 % in the last ``--decay`` minutes."""
    left = max(0.0, args.minutes - minutes)
    return float(args.lr * min(1.0, (steps + 1) / args.warm_up) * min(1.0, 0.02 + left / max(args.decay, 1e-6)))


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
        if team.leads and now - told > 30:
            log_line(
                args.work / "train.jsonl",
                seen=trainer.seen,
                steps=trainer.steps,
                loss=round(sum(recent) / len(recent), 4),
                reading=round(trainer.reading, 4),
                crowding=round(trainer.crowding, 4),
                minutes=round((now - start) / 60, 1),
                images_per_second=round((trainer.seen - first) / (now - start), 1),
                shards=len(pool.names),
            )
            told, recent = now, []
        if trainer.steps % args.local_steps:
            continue  # the processes' weights differ, or do so with more of them
        minutes = team.agree((now - start) / 60)
        if now - saved > SAVE_SECONDS:
            saved = now
            pool.look()
            if team.leads:
                trainer.save()
    if team.leads:
        trainer.save()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pool", default="*.pt", help="which shards, a glob pattern")
    parser.add_argument("--counts", type=float, nargs=4, default=[0.5, 0.28, 0.12, 0.1], help="shares of 1-4 things")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--decay", type=float, default=0.0, help="minutes of falling learning rate at the end")
    parser.add_argument("--batch", type=int, default=18, help="images in each process")
    parser.add_argument(
        "--local-steps",
        type=int,
        default=8,
        help="several processes take so many steps of their own, then average their weights; 1: average every gradient",
    )
    parser.add_argument("--lr", type=float, default=4e-4, help="at 1e-3 the weights walk at random")
    parser.add_argument("--text-from", type=Path, help="a checkpoint whose text encoder a new run begins with")
    parser.add_argument("--from-average", action="store_true", help="go on from the averaged weights")
    parser.add_argument(
        "--new-average", action="store_true", help="average anew, after a change that moved the weights"
    )
    parser.add_argument("--warm-up", type=int, default=300)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.local_steps < 1:
        parser.error("--local-steps is at least 1")
    team = Team()
    trainer = Trainer(args, team)
    torch.manual_seed(args.seed + 1000 * team.rank + trainer.seen + 1)
    run(trainer, Pool(args.work / "pool", args.pool, args.counts))
    team.close()


if __name__ == "__main__":
    main()
