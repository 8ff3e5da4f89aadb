"""Train text encoder and U-Net on the pool: ``torchrun --nproc_per_node 2 -m training.pocket.train --work F``.

v-prediction on a cosine schedule, stratified timesteps with more of the noisy ones, captions dropped in 10 %, and a
loss that keeps the text encoder's states of identifiers and nouns apart. Resumes from ``train.pt``.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from training.pocket import captions, fast, models, optimizer, tokenizer, world
from training.pocket.common import Team, load_state, log_line, save_state

DROP_CAPTION = 0.1
SAVE_SECONDS = 240
#: The averaged weights follow every so many steps, or the next of them after which the processes' weights are equal.
EMA_EVERY = 4
#: Below this share of noise the loss of v is weighted down to a constant weight of the clean latents' error.
DETAIL = 0.2
#: Timesteps are T * u ** NOISY for uniform u: text decides at high noise, so that is where more of them go.
NOISY = 0.7
#: Weight of the separation loss, taken every so many steps, the cosine up to which the states of two words may lie
#: together, and how many words a step compares.
SEPARATION, SEPARATE_EVERY, ALLOWED, COMPARED = 1.0, 8, 0.6, 8
#: Scenes of the last shard that are never trained on: the loss on them is comparable from run to run.
HELD_OUT = 256
BEGINNINGS = [f"{prefix}a" for prefix, _ in captions.PREFIXES]


class Pool:
    """The shards on disk; looks for new ones now and then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: set[str] = set()
        self.parts: dict[str, list[Tensor]] = {"latents": [], "tokens": []}
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

    def held_out(self) -> tuple[Tensor, Tensor]:
        """Return the latents and first captions that are not trained on: the end of the first shard."""
        return self.parts["latents"][0][-HELD_OUT:].float(), self.parts["tokens"][0][-HELD_OUT:, 0].long()

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return latents (count, 32, 8, 8) and token ids (count, 64)."""
        shards = torch.randint(len(self.sizes), (count,)).tolist()
        rows = [int(torch.randint(int(self.sizes[s]) - (HELD_OUT if s == 0 else 0), ())) for s in shards]
        latents = torch.stack([self.parts["latents"][s][r] for s, r in zip(shards, rows, strict=True)])
        phrasing = torch.randint(self.parts["tokens"][0].shape[1], (count,)).tolist()
        tokens = [self.parts["tokens"][s][r, p] for s, r, p in zip(shards, rows, phrasing, strict=True)]
        return latents.float(), torch.stack(tokens).long()


class Trainer:
    """Models, their averages, optimizers and state of one run."""

    def __init__(self, args: argparse.Namespace, team: Team) -> None:
        self.args, self.team, self.device = args, team, torch.device(args.device)
        torch.manual_seed(args.seed)
        self.words = tokenizer.build()
        self.unet = models.build_unet().to(self.device)
        self.text = models.build_text_encoder(self.words).to(self.device)
        self.modules = torch.nn.ModuleDict({"unet": self.unet, "text": self.text})
        self.parameters = [p for p in self.modules.parameters() if p.requires_grad]
        self.half = self._build_half()
        self.optimizers = self._build_optimizers()
        self.alphas = models.build_scheduler().alphas_cumprod.to(self.device)
        self.empty = torch.tensor(self.words("", padding="max_length", max_length=tokenizer.MAX_LENGTH).input_ids)
        self.seen = self.steps = 0
        scale = load_state(args.work / "scale.pt")
        if scale is None:
            raise SystemExit(f"no scale.pt in {args.work}: run python -m training.pocket.pool first")
        self.scale = float(scale["scaling_factor"])
        self._resume()
        self.copy_to_half()
        self.first = self.steps if args.new_average else 0
        self.apart = 0.0
        embedding = self.text.get_input_embeddings().weight
        self.identifiers = models.identifier_rows(self.words).to(self.device)
        self.directions = F.normalize(embedding.data[self.identifiers], dim=1)
        self.ordinary = torch.unique(self.words("dog red", return_tensors="pt").input_ids[0])
        self.nouns = self._ids(word for word in world.CLASSES if " " not in word)
        self.colours = self._ids(world.COLOURS)

    def _build_half(self) -> torch.nn.ModuleDict | None:
        """Return copies in bfloat16 that compute the gradients; None where the device only emulates it."""
        if self.device.type == "cpu" and not fast.has_matrix_units():
            return None
        if self.device.type == "cpu":
            for part in self.modules.modules():
                if isinstance(part, torch.nn.Conv2d):
                    part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
        half = copy.deepcopy(self.modules).to(torch.bfloat16)
        if self.device.type == "cpu":
            fast.speed_up(half["unet"])
        self.half_parameters = [p for p in half.parameters() if p.requires_grad]
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        return half

    def copy_to_half(self) -> None:
        """Let the copies that compute have the weights as they are now."""
        if self.half is not None:
            torch._foreach_copy_([p.data for p in self.half_parameters], [p.data for p in self.parameters])

    def backward(self, loss: Tensor) -> None:
        """Leave the gradient of the loss in the weights."""
        computing = self.parameters if self.half is None else self.half_parameters
        for parameter in computing:
            parameter.grad = None
        torch.autograd.backward(loss)
        if self.half is not None:
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.half_parameters]
            torch._foreach_copy_([p.grad for p in self.parameters if p.grad is not None], gradients)

    def computing(self, part: str) -> torch.nn.Module:
        """Return "unet" or "text" as it computes."""
        return (self.modules if self.half is None else self.half)[part]

    def _ids(self, words: object) -> list[int]:
        ids: list[int] = self.words.convert_tokens_to_ids([f"{word}</w>" for word in words])  # type: ignore[attr-defined]
        return ids

    def _build_optimizers(self) -> list[torch.optim.Optimizer]:
        embedding = self.text.get_input_embeddings().weight
        ends = [embedding, self.unet.conv_in.weight, self.unet.conv_out.weight]
        matrices, rest = optimizer.matrices_and_rest(self.modules, ends)
        lr = self.args.lr
        if self.args.optimizer == "adamw":
            return [torch.optim.AdamW([*matrices, *rest], lr=lr, weight_decay=0.01, betas=(0.9, 0.99), fused=True)]
        adam = torch.optim.AdamW(rest, lr=lr, weight_decay=0.0, betas=(0.9, 0.99), fused=True)
        return [optimizer.Muon(matrices, lr=lr), adam]

    def _resume(self) -> None:
        state = load_state(self.args.work / "train.pt")
        if state:
            self.modules.load_state_dict(state["model"])
            if len(state["optimizers"]) == len(self.optimizers):
                for each, stored in zip(self.optimizers, state["optimizers"], strict=True):
                    each.load_state_dict(stored)
            self.seen, self.steps = state["seen"], state["steps"]
        self.average = [p.detach().clone() for p in self.parameters]
        if state and not self.args.new_average:
            for mean, stored in zip(self.average, state["average"], strict=True):
                mean.copy_(stored)
        if state and self.args.from_average:
            for parameter, mean in zip(self.parameters, self.average, strict=True):
                parameter.data.copy_(mean)

    def save(self) -> None:
        """Write everything needed to go on, and to export."""
        state = {
            "model": self.modules.state_dict(),
            "optimizers": [each.state_dict() for each in self.optimizers],
            "average": self.average,
            "seen": self.seen,
            "steps": self.steps,
            "scale": self.scale,
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
        start = self.words(random.choice(BEGINNINGS), add_special_tokens=False).input_ids
        chosen = random.sample(self.identifiers.tolist(), COMPARED)
        nouns = random.sample(self.nouns, COMPARED)
        noun, adjective = random.choice(self.nouns), random.choice(random.choice([self.colours, chosen]))
        named = [[*start, word, noun] for word in chosen]
        behind = [[*start, adjective, each] for each in nouns]
        states = self.states_of([*named, [*start, noun], *behind])
        at = len(start) + 1
        whole = torch.cat([states[:COMPARED, [at + 1, -1]], states[COMPARED : COMPARED + 1, [at, -1]]])
        groups = (whole, states[:COMPARED, [at]], states[COMPARED + 1 :, [at + 1, at + 2, -1]])
        return torch.stack([models.crowding(group, ALLOWED) for group in groups]).sum()

    def states_of(self, prompts: list[list[int]]) -> Tensor:
        """Return the text encoder's states (n, 64, width) of prompts given as token ids."""
        tokens = self.empty.repeat(len(prompts), 1)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[1 : 1 + len(prompt)] = torch.tensor(prompt)
        states: Tensor = self.computing("text")(tokens.to(self.device)).last_hidden_state.float()
        return states

    def errors(self, latents: Tensor, tokens: Tensor, timesteps: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean squared error of v for each picture (B,), and its weight."""
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        clean = latents.to(self.device) * self.scale
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        states = self.computing("text")(tokens.to(self.device)).last_hidden_state
        predicted = self.computing("unet")(noisy.to(states.dtype), timesteps, encoder_hidden_states=states).sample
        error = (predicted.float() - target).square().mean((1, 2, 3))
        return error, ((1 - alpha) / DETAIL).clamp(max=1).flatten()

    def loss(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Return the weighted mean squared error of v for latents (not scaled), and the separation loss."""
        count = len(latents)
        tokens = torch.where(torch.rand(count, 1) < DROP_CAPTION, self.empty, tokens)
        spread = (torch.arange(count) + torch.rand(count)) / count
        timesteps = (spread**self.args.noisy * len(self.alphas)).long().clamp(max=len(self.alphas) - 1).to(self.device)
        error, weight = self.errors(latents, tokens, timesteps, torch.randn(latents.shape).to(self.device))
        loss = (error * weight).mean()
        if self.steps % SEPARATE_EVERY == 0:
            apart = self.separation()
            self.apart = apart.item()
            loss = loss + SEPARATION * apart
        return loss

    def step(self, latents: Tensor, tokens: Tensor, rate: float) -> float:
        """Take one optimizer step on all processes and return this one's loss."""
        loss = self.loss(latents, tokens)
        self.backward(loss)
        if self.args.local_steps == 1:
            self.team.average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for each in self.optimizers:
            for group in each.param_groups:
                group["lr"] = rate
            each.step()
        if self.args.local_steps > 1 and (self.steps + 1) % self.args.local_steps == 0:
            self.team.average_weights(self.parameters)
        self.hold_identifiers()
        self.copy_to_half()
        self.steps, self.seen = self.steps + 1, self.seen + len(latents) * self.team.size
        every = -(-EMA_EVERY // self.args.local_steps) * self.args.local_steps
        if self.team.leads and self.steps % every == 0:
            steps = self.steps - self.first
            decay = min(self.args.ema, (1 + steps) / (10 + steps)) ** every
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        return loss.item()

    @torch.no_grad()
    def held_out_loss(self, pool: Pool) -> tuple[float, float]:
        """Return the averaged weights' loss on held-out scenes with fixed noise: weighted, and at high noise."""
        current = [p.detach().clone() for p in self.parameters]
        torch._foreach_copy_([p.data for p in self.parameters], self.average)
        self.copy_to_half()
        latents, tokens = pool.held_out()
        generator = torch.Generator().manual_seed(0)
        errors, weights = [], []
        timesteps = ((torch.arange(len(latents)) + 0.5) / len(latents) * len(self.alphas)).long()
        timesteps = timesteps[torch.randperm(len(timesteps), generator=generator)]
        for rows in torch.arange(len(latents)).split(64):
            noise = torch.randn(latents[rows].shape, generator=generator)
            places = timesteps[rows].to(self.device)
            error, weight = self.errors(latents[rows], tokens[rows], places, noise.to(self.device))
            errors.append(error.cpu())
            weights.append(weight.cpu())
        torch._foreach_copy_([p.data for p in self.parameters], current)
        self.copy_to_half()
        error, weight = torch.cat(errors), torch.cat(weights)
        return float((error * weight).mean()), float(error[timesteps > 600].mean())


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
        if trainer.steps % args.local_steps:
            continue  # the processes' weights differ, or do so with more of them
        minutes = team.agree((now - start) / 60)
        if now - told > args.tell and team.leads:
            every, noisy = trainer.held_out_loss(pool)
            log_line(
                args.work / "train.jsonl",
                seen=trainer.seen,
                steps=trainer.steps,
                loss=round(sum(recent) / len(recent), 4),
                held_out=round(every, 4),
                noisy=round(noisy, 4),
                apart=round(trainer.apart, 4),
                minutes=round((now - start) / 60, 1),
                images_per_second=round((trainer.seen - first) / (now - start), 1),
                shards=len(pool.names),
                batch=args.batch,
            )
            told, recent = now, []
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
    parser.add_argument("--noisy", type=float, default=NOISY, help="timesteps are T * u ** NOISY; 1: evenly")
    parser.add_argument("--from-average", action="store_true", help="go on from the averaged weights")
    parser.add_argument(
        "--new-average", action="store_true", help="average anew, after a change that moved the weights"
    )
    parser.add_argument("--warm-up", type=int, default=200)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--tell", type=float, default=60, help="seconds between two lines of the log")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    team = Team()
    if args.device == "cpu" and team.size > 1:
        torch.set_num_threads(1)
    trainer = Trainer(args, team)
    random.seed(args.seed + 1000 * team.rank + trainer.steps)
    torch.manual_seed(args.seed + 1000 * team.rank + trainer.steps)
    run(trainer, Pool(args.work / "pool"))
    team.close()


if __name__ == "__main__":
    main()
