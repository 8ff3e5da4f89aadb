"""Text encoder and U-Net with their losses, averages, optimizers and checkpoint: what every kind of training shares.

v-prediction on a cosine schedule, stratified timesteps, most of them in the middle, captions dropped in 10 %, and a
loss that keeps the text encoder's states of identifiers and nouns apart; where it is known what is true of the scenes,
one that reads it from the U-Net's features (`probe`).
"""

from __future__ import annotations

import argparse
import copy
import random
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.pocket import captions, fast, models, optimizer, probe, tokenizer, world
from training.pocket.common import Team
from training.pocket.labels import WORLD

DROP_CAPTION = 0.1
#: The averaged weights follow every so many steps, or the next of them after which the processes' weights are equal.
EMA_EVERY = 4
#: Below this share of noise the loss of v is weighted down to a constant weight of the clean latents' error.
DETAIL = 0.2
#: Timesteps are logit-normal with this location and scale: faces and lines are decided in the middle of the noise, and
#: seven of ten timesteps lie between 300 and 750 of 1,000 (Esser et al. 2024, arXiv:2403.03206, section 3.1).
LOCATION, SPREAD = 0.3, 0.9
#: How timesteps are spread in training, the last for the end of it, when detail has its share.
TIMESTEPS = ("middle", "even")
#: Weight of the separation loss, taken every so many steps, the cosine up to which the states of two words may lie
#: together, and how many words a step compares.
SEPARATION, SEPARATE_EVERY, ALLOWED, COMPARED = 1.0, 8, 0.6, 8
#: What is true of scenes: the codes of their things (B, 4, heads) and backgrounds (B,), as `labels.codes_of` has them.
Truth = tuple[Tensor, Tensor]
BEGINNINGS = [f"{prefix}a" for prefix, _ in captions.PREFIXES]


class Trainer:
    """Models, their averages and optimizers; goes on from the ``state`` of an earlier run where there is one.

    ``scale`` is what latents are multiplied by.
    """

    def __init__(self, args: argparse.Namespace, team: Team, scale: float, state: dict[str, Any] | None = None) -> None:
        self.args, self.team, self.device = args, team, torch.device(args.device)
        self.on_gpu = self.device.type == "cuda"
        torch.manual_seed(args.seed)
        self.words = tokenizer.build()
        self.unet = models.build_unet().to(self.device)
        self.text = models.build_text_encoder(self.words).to(self.device)
        self.modules = torch.nn.ModuleDict({"unet": self.unet, "text": self.text})
        self.parameters = [p for p in self.modules.parameters() if p.requires_grad]
        #: Which of the parameters learn; those of a frozen text encoder keep no gradient, so optimizers skip them.
        named = [name for name, p in self.modules.named_parameters() if p.requires_grad]
        self.learns = [not (args.frozen_text and name.startswith("text.")) for name in named]
        self.half = self._build_half()
        self.optimizers = self._build_optimizers()
        self.probe = probe.AttributeProbe(self.computing("unet")).to(self.device)
        self.probe_optimizer = torch.optim.AdamW(self.probe.parameters(), lr=args.lr, weight_decay=0.01)
        self.probe_steps = 0
        self.alphas = models.build_scheduler().alphas_cumprod.to(self.device)
        empty = self.words("", padding="max_length", max_length=tokenizer.MAX_LENGTH).input_ids
        self.empty = torch.tensor(empty, device=self.device)
        self.seen = self.steps = 0
        self.scale = scale
        self._resume(state)
        self.copy_to_half()
        self.first = self.steps if args.new_average else 0
        self.apart = self.read = torch.zeros((), device=self.device)
        embedding = self.text.get_input_embeddings().weight
        self.identifiers = models.identifier_rows(self.words).to(self.device)
        self.directions = F.normalize(embedding.data[self.identifiers], dim=1)
        self.ordinary = models.ordinary_rows(self.words).to(self.device)
        self.nouns = self._ids(word for word in world.CLASSES if " " not in word)
        self.colours = self._ids(world.COLOURS)

    def _build_half(self) -> torch.nn.ModuleDict | None:
        """Return copies in bfloat16 that compute the gradients; None where the device only emulates it."""
        if self.device.type == "cpu" and not fast.has_matrix_units():
            return None
        for part in self.modules.modules():
            if isinstance(part, torch.nn.Conv2d):
                part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
        half = copy.deepcopy(self.modules).to(torch.bfloat16)
        if self.device.type == "cpu":
            fast.speed_up(half["unet"])
        self.half_parameters = [p for p in half.parameters() if p.requires_grad]
        for parameter, learns in zip(self.parameters, self.learns, strict=True):
            parameter.grad = torch.zeros_like(parameter) if learns else None
        return half

    def copy_to_half(self) -> None:
        """Let the copies that compute have the weights as they are now."""
        if self.half is not None:
            torch._foreach_copy_([p.data for p in self.half_parameters], [p.data for p in self.parameters])

    def backward(self, loss: Tensor) -> None:
        """Leave the gradient of the loss in the weights."""
        computing = self.parameters if self.half is None else self.half_parameters
        for parameter in (*computing, *self.probe.parameters()):
            parameter.grad = None
        torch.autograd.backward(loss)
        if self.half is not None:
            learning = [p for p, learns in zip(self.half_parameters, self.learns, strict=True) if learns]
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in learning]
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

    def _resume(self, state: dict[str, Any] | None) -> None:
        if state:
            self.modules.load_state_dict(state["model"])
            if len(state["optimizers"]) == len(self.optimizers):
                for each, stored in zip(self.optimizers, state["optimizers"], strict=True):
                    each.load_state_dict(stored)
                    self._lay_out_like_weights(each)
            self.seen, self.steps = state["seen"], state["steps"]
            if stored := state.get("probe"):
                self.probe.load_state_dict(stored["model"])
                self.probe_optimizer.load_state_dict(stored["optimizer"])
                self.probe_steps = stored["steps"]
        for group in self._groups():
            group["lr"] = torch.tensor(self.args.lr, device=self.device) if self.on_gpu else self.args.lr
            group["capturable"] = self.on_gpu
        self.average = [p.detach().clone() for p in self.parameters]
        if state and not self.args.new_average:
            for mean, stored in zip(self.average, state["average"], strict=True):
                mean.copy_(stored)
        if state and self.args.from_average:
            for parameter, mean in zip(self.parameters, self.average, strict=True):
                parameter.data.copy_(mean)

    def begin_with_text(self, weights: dict[str, Tensor]) -> None:
        """Take over a text encoder that can read (``training.pocket.text``); optimizers and steps begin anew."""
        self.text.load_state_dict(weights)
        self.optimizers, self.steps = self._build_optimizers(), 0
        for mean, parameter in zip(self.average, self.parameters, strict=True):
            mean.copy_(parameter.detach())
        embedding = self.text.get_input_embeddings().weight
        self.directions = F.normalize(embedding.data[self.identifiers], dim=1)
        self.copy_to_half()

    @staticmethod
    def _lay_out_like_weights(each: torch.optim.Optimizer) -> None:
        """Give moments the strides of their weights: the fused optimizers walk through memory."""
        for parameter, values in each.state.items():
            for key, value in values.items():
                if value.shape == parameter.shape:
                    values[key] = torch.empty_like(parameter).copy_(value)

    def _groups(self) -> Iterator[dict[str, Any]]:
        for each in self.optimizers:
            yield from each.param_groups

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on, and to export."""
        return {
            "model": self.modules.state_dict(),
            "optimizers": [each.state_dict() for each in self.optimizers],
            "average": self.average,
            "seen": self.seen,
            "steps": self.steps,
            "scale": self.scale,
            "probe": {
                "model": self.probe.state_dict(),
                "optimizer": self.probe_optimizer.state_dict(),
                "steps": self.probe_steps,
            },
        }

    def set_rate(self, rate: float) -> None:
        """Set the learning rate; on a GPU in the tensor that the optimizers read it from."""
        for group in self._groups():
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def hold_identifiers(self) -> None:
        """Put the identifiers' embeddings back on their directions, as long as the words "dog" and "red"."""
        weight = self.text.get_input_embeddings().weight
        models.hold_identifiers(weight, self.identifiers, self.directions, self.ordinary)

    def separation_prompts(self) -> tuple[Tensor, Tensor]:
        """Draw prompts (17, 64) for `separation`, and the place at which an identifier or colour stands in them.

        One noun behind a few identifiers and behind none; and a few nouns behind one colour word or identifier.
        """
        start = self.words(random.choice(BEGINNINGS), add_special_tokens=False).input_ids
        chosen = random.sample(self.identifiers.tolist(), COMPARED)
        nouns = random.sample(self.nouns, COMPARED)
        noun, adjective = random.choice(self.nouns), random.choice(random.choice([self.colours, chosen]))
        named = [[*start, word, noun] for word in chosen]
        behind = [[*start, adjective, each] for each in nouns]
        return self.pad([*named, [*start, noun], *behind]), torch.tensor(len(start) + 1)

    def separation(self, prompts: Tensor, place: Tensor) -> Tensor:
        """Return how closely the states of words that a picture must tell apart lie together, of `separation_prompts`.

        Behind identifiers, at the identifier, the noun and the last of the padding; behind one colour word, at the
        noun, the end and the last of the padding. Without the second a colour word drowned its noun: "a blue car" and
        "a blue dog" had one state.
        """
        states = self.states_of(prompts)
        places, last = place.to(self.device).view(1), torch.full((1,), prompts.shape[1] - 1, device=self.device)

        def at(rows: slice, *where: Tensor) -> Tensor:
            return states[rows].index_select(1, torch.cat(where))

        named, bare, behind = slice(COMPARED), slice(COMPARED, COMPARED + 1), slice(COMPARED + 1, None)
        whole = torch.cat([at(named, places + 1, last), at(bare, places, last)])
        groups = (whole, at(named, places), at(behind, places + 1, places + 2, last))
        return torch.stack([models.crowding(group, ALLOWED) for group in groups]).sum()

    def pad(self, prompts: list[list[int]]) -> Tensor:
        """Return prompts given as token ids between beginning and end: (n, 64)."""
        tokens = self.empty.cpu().repeat(len(prompts), 1)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[1 : 1 + len(prompt)] = torch.tensor(prompt)
        return tokens

    def states_of(self, tokens: Tensor) -> Tensor:
        """Return the text encoder's states (n, 64, width) of token ids."""
        states: Tensor = self.computing("text")(tokens.to(self.device)).last_hidden_state.float()
        return states

    def errors(self, latents: Tensor, tokens: Tensor, timesteps: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean squared error of v for each picture (B,), and its weight."""
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        clean = latents.to(self.device) * self.scale
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.args.frozen_text):
            states = self.computing("text")(tokens.to(self.device)).last_hidden_state
        predicted = self.computing("unet")(noisy.to(states.dtype), timesteps, encoder_hidden_states=states).sample
        error = (predicted.float() - target).square().mean((1, 2, 3))
        return error, ((1 - alpha) / DETAIL).clamp(max=1).flatten()

    def loss(self, latents: Tensor, tokens: Tensor, truth: Truth | None = None) -> Tensor:
        """Return the weighted mean squared error of v for latents (not scaled), with the loss of the probe."""
        count, device = len(latents), self.device
        dropped = torch.rand(count, 1, device=device) < DROP_CAPTION
        tokens = torch.where(dropped, self.empty, tokens.to(device))
        spread = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
        if self.args.timesteps == "middle":
            spread = torch.sigmoid(LOCATION + SPREAD * torch.special.ndtri(spread))
        timesteps = (spread * len(self.alphas)).long().clamp(max=len(self.alphas) - 1)
        error, weight = self.errors(latents, tokens, timesteps, torch.randn(latents.shape, device=device))
        loss: Tensor = (error * weight).mean()
        if truth is None or not self.args.attributes:
            return loss
        read = self.probe.loss(*truth, detached=self.probe_steps < probe.WARM_UP)
        self.read = read.detach()
        return loss + float(self.args.attributes) * read

    def update(
        self,
        latents: Tensor,
        tokens: Tensor,
        truth: Truth | None = None,
        prompts: tuple[Tensor, Tensor] | None = None,
        separation: float = 1.0,
    ) -> Tensor:
        """Change the weights by one step of the optimizers and return the loss, which stays on the device.

        The loss of `separation_prompts` joins with the given weight. Nothing waits for the device here.
        """
        loss = self.loss(latents, tokens, truth)
        if prompts:
            apart = self.separation(*prompts)
            self.apart = apart.detach()
            loss = loss + separation * apart
        self.backward(loss)
        if self.args.local_steps == 1:
            self.team.average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for each in self.optimizers:
            each.step()
        if truth is not None:
            self.probe_optimizer.step()
            self.probe_steps += 1
        if self.args.local_steps > 1 and (self.steps + 1) % self.args.local_steps == 0:
            self.team.average_weights([*self.parameters, *self.probe.parameters()])
        if not self.args.frozen_text:
            self.hold_identifiers()
        self.copy_to_half()
        return loss.detach()

    def count(self, images: int) -> None:
        """Count a step of so many images in each process, and let the averaged weights follow."""
        self.steps, self.seen = self.steps + 1, self.seen + images * self.team.size
        every = -(-EMA_EVERY // self.args.local_steps) * self.args.local_steps
        if self.team.leads and self.steps % every == 0:
            steps = self.steps - self.first
            decay = min(self.args.ema, (1 + steps) / (10 + steps)) ** every
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

    def step(self, latents: Tensor, tokens: Tensor, truth: Truth | None, rate: float) -> float:
        """Take one step on all processes and return this one's loss."""
        self.set_rate(rate)
        separates = self.steps % SEPARATE_EVERY == 0 and not self.args.frozen_text
        prompts = self.separation_prompts() if separates else None
        loss = self.update(latents, tokens, truth, prompts, SEPARATION)
        self.count(len(latents))
        return loss.item()

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # type: ignore[untyped-decorator]
    def held_out_loss(self, latents: Tensor, tokens: Tensor, truth: Truth | None = None) -> dict[str, float]:
        """Return the averaged weights' loss on held-out scenes with fixed noise.

        "held_out" is weighted as in training, "noisy" is that at noise above 600 of 1,000, where "read class" and so
        on are the shares of the attributes that the probe reads right: there they can only come from the caption.
        """
        current = [p.detach().clone() for p in self.parameters]
        torch._foreach_copy_([p.data for p in self.parameters], self.average)
        self.copy_to_half()
        generator = torch.Generator().manual_seed(0)
        errors, weights, right = [], [], []
        timesteps = ((torch.arange(len(latents)) + 0.5) / len(latents) * len(self.alphas)).long()
        timesteps = timesteps[torch.randperm(len(timesteps), generator=generator)]
        for rows in torch.arange(len(latents)).split(64):
            noise = torch.randn(latents[rows].shape, generator=generator)
            places = timesteps[rows].to(self.device)
            error, weight = self.errors(latents[rows], tokens[rows], places, noise.to(self.device))
            errors.append(error.cpu())
            weights.append(weight.cpu())
            if truth is not None:
                right.append(self.probe.right(truth[0][rows].to(self.device), truth[1][rows].to(self.device)).cpu())
        torch._foreach_copy_([p.data for p in self.parameters], current)
        self.copy_to_half()
        error, weight = torch.cat(errors), torch.cat(weights)
        told = {"held_out": float((error * weight).mean()), "noisy": float(error[timesteps > 600].mean())}
        if right:
            shares = torch.cat(right)[timesteps > 600].nanmean(0).tolist()
            told |= {f"read {name}": share for name, share in zip([*WORLD.heads, "background"], shares, strict=True)}
        return {name: round(value, 4) for name, value in told.items()}


def rate_at(args: argparse.Namespace, steps: int, minutes: float) -> float:
    """Return the learning rate: warm-up by steps, constant, then linear to 2 % in the last ``--decay`` minutes."""
    left = max(0.0, args.minutes - minutes)
    return float(args.lr * min(1.0, (steps + 1) / args.warm_up) * min(1.0, 0.02 + left / max(args.decay, 1e-6)))
