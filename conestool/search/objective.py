"""The concept-implanting loss L_con and its gradient with respect to the K/V weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from conestool.models.conditioning import Conditioning
from conestool.models.devices import all_finite, check_finite
from conestool.models.model import Model
from conestool.models.noise_schedule import Schedule, predict, schedule_of, stratified_timesteps
from conestool.search.batches import Batch, Pictures, Term
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.parameters import Layout, Use

__all__ = ["POOL", "LossScale", "Objective"]

PROBE_SEED = 20_230_309
WHOLE = (0.0, 1.0)
POOL = 128


@dataclass
class Objective:
    """L_con over `terms` on `model`, whose K/V weights are borrowed as `layout`; batch k depends on (seed, k) alone.

    Timesteps come from `noise`, a part of the schedule (0: no noise, 1: nothing but noise); probes see all of it.
    `pool` kept answers per term with `keep` are computed once, at the untouched weights. At most `largest` samples go
    through the denoiser at once. Each of the `processes` computes its rows of a batch; all have the result. Weights to
    ask about and gradients come in parts, one for each parameter: no vector of all of them takes memory.
    """

    model: Model
    layout: Layout
    terms: Sequence[Term]
    seed: int = 0
    noise: tuple[float, float] = WHOLE
    largest: int = 32
    processes: DistributedState = SINGLE_PROCESS
    pool: int = POOL
    schedule: Schedule = field(init=False)
    scale: LossScale = field(init=False)
    kept: dict[str, Batch] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.schedule = schedule_of(self.model)
        self.scale = LossScale.of(self.model.dtype)
        for number, term in enumerate(self.terms):
            if term.keep:
                self.kept[term.name] = self.keep(term, self.seed * 1_000_003 + 7 + number)

    def keep(self, term: Term, seed: int) -> Batch:
        """`pool` samples of `term` whose targets are the untouched model's answers, outside any regions."""

        def drawn(conditioning: Conditioning) -> Batch:
            draw = torch.Generator().manual_seed(seed)
            return self.draw(replace(term, conditioning=conditioning), self.pool, draw, self.noise)

        if term.plain is None or term.regions is None:
            return self.answered(drawn(term.conditioning))
        batch, kept = drawn(term.conditioning), self.answered(drawn(term.plain)).target
        regions = term.regions[self.pick(term, self.pool, torch.Generator().manual_seed(seed))]
        return replace(batch, target=kept.lerp(batch.target, regions.to(kept)))

    @property
    def theta(self) -> Tensor:
        """The untouched weights, shape (n,), in their own dtype; not to be changed."""
        return self.layout.theta

    def parts(self, *vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """For one parameter after the other, its part of each of the `vectors` (n,): a view."""
        return self.layout.parts(*vectors)

    def draw(self, term: Term, count: int, generator: torch.Generator, span: tuple[float, float]) -> Batch:
        """`count` samples of `term`: pictures in turn, prompts at random, stratified timesteps, CPU noise."""
        chosen = self.pick(term, count, generator)
        pictures = term.pictures[chosen]
        latents = pictures.latents
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        prompts = term.prompts(chosen, generator).to(latents.device)
        timesteps = stratified_timesteps(count, len(self.schedule), generator, span).to(latents.device)
        return Batch(
            noisy=self.schedule.add_noise(latents, noise, timesteps),
            timesteps=timesteps,
            target=self.schedule.target(latents, noise, timesteps),
            weights=torch.full((count,), term.weight / count, device=latents.device),
            conditioning=term.conditioning[prompts].framed(pictures.framing),
        )

    def pick(self, term: Term, count: int, generator: torch.Generator) -> Tensor:
        """Numbers of `count` pictures of `term`, all in turn; the first that a draw takes from its generator."""
        order = torch.randperm(len(term.pictures), generator=generator)
        return order.repeat(-(-count // len(order)))[:count]

    def batch(self, index: int) -> Batch:
        """The batch of step `index`: `size` samples of every term."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + 1000 + index)
        parts = [
            self.kept_sample(term, generator) or self.draw(term, term.size, generator, self.noise)
            for term in self.terms
        ]
        return join(parts)

    def batch_of(self, size: int) -> Batch:
        """A batch with `size` samples of every term on noise of its own, to compare sets of weights on."""
        parts = []
        for number, term in enumerate(self.terms):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + 500 + number)
            parts.append(self.kept.get(term.name) or self.draw(term, size, generator, self.noise))
        return join(parts)

    def probe(
        self, pictures: Pictures, conditioning: Conditioning, size: int, span: tuple[float, float] = WHOLE
    ) -> Batch:
        """`size` samples of `pictures` on fixed noise whose weighted errors add up to their mean, whatever the seed."""
        term = Term("probe", pictures, conditioning, 1.0, size)
        return self.draw(term, size, torch.Generator().manual_seed(PROBE_SEED), span)

    def kept_sample(self, term: Term, generator: torch.Generator) -> Batch | None:
        """`size` of the kept answers of `term`, or None if it has none."""
        if term.name not in self.kept:
            return None
        whole = self.kept[term.name]
        chosen = torch.randperm(len(whole.noisy), generator=generator)[: term.size]
        part = select(whole, chosen)
        return Batch(
            part.noisy,
            part.timesteps,
            part.target,
            torch.full_like(part.weights, term.weight / len(chosen)),
            part.conditioning,
        )

    @torch.no_grad()
    def answered(self, batch: Batch) -> Batch:
        """`batch` with the present model's answers as targets."""
        answers = torch.zeros_like(batch.target)
        for rows in self.shares(batch):
            part = select(batch, rows)
            answer = predict(self.model, self.schedule, part.noisy, part.timesteps, part.conditioning)
            answers[rows.to(answers.device)] = answer
        return replace(batch, target=self.processes.all_reduce(answers))

    def gradient(self, weights: Tensor | Iterable[Tensor], index: int, use: Use) -> float:
        """Give dL_con/dtheta at `weights` on batch `index` to `use`, by parameters; returns that batch's L_con.

        `weights` are a vector (n,) or a part for each parameter, each asked for when the one before is in its place;
        they stay as given. Where one backward pass does it all, each gradient is used while the pass goes on, so that
        they are never there together. Raises NonFiniteError if a gradient or the loss is not finite: no method may rank
        by such numbers, and what it has learned in this step is worthless.
        """
        self.layout.write(weights)
        batch, sums = self.batch(index), list[Tensor]()

        def checked(number: int, part: Tensor) -> None:
            sums.append(part.sum())
            use(number, part)

        if len(batch.noisy) <= self.largest and self.processes.num_processes == 1 and not self.scale.dynamic:
            loss = self.backward(batch, checked)
        else:
            gradient, loss = self.added(batch)
            while self.scale.backoff(gradient):
                gradient, loss = self.added(batch)
            for number, part in enumerate(gradient):
                checked(number, part)
        check_finite(loss, f"L_con at step {index + 1}", self.model.dtype)
        check_finite(torch.stack(sums), f"the gradient of L_con at step {index + 1}", self.model.dtype)
        self.scale.update()
        return loss

    def backward(self, batch: Batch, use: Use) -> float:
        """Give the gradient of this process's rows of `batch`, times the loss scale, to `use`; returns their loss."""
        loss = 0.0
        with self.layout.giving(use):
            for part in self.chunks(batch):
                value = (part.weights * self.errors(part)).sum()
                torch.autograd.backward(value * self.scale.value)
                loss += float(value.detach())
        return loss

    def added(self, batch: Batch) -> tuple[list[Tensor], float]:
        """Gradient, a part for each parameter, and loss of `batch` over all passes and processes, whatever they are."""
        found: dict[int, Tensor] = {}

        def add(number: int, part: Tensor) -> None:
            found[number] = found[number].add_(part) if number in found else part

        loss = self.backward(batch, add)
        gradient = [self.processes.all_reduce(found[number]) for number in sorted(found)]
        if self.scale.value != 1:
            for part in gradient:
                part.div_(self.scale.value)
        return gradient, self.processes.sum(loss, self.theta.device)

    @torch.no_grad()
    def loss(self, weights: Tensor, batch: Batch) -> float:
        """Sum of weights * squared errors of `batch` at `weights` (n,); NonFiniteError if it is not finite."""
        self.layout.write(weights)
        own = sum(float((part.weights * self.errors(part)).sum()) for part in self.chunks(batch))
        loss = self.processes.sum(own, self.theta.device)
        check_finite(loss, "a loss of the report", self.model.dtype)
        return loss

    def errors(self, batch: Batch) -> Tensor:
        """(b,), fp32: mean squared error per sample."""
        answer = predict(self.model, self.schedule, batch.noisy, batch.timesteps, batch.conditioning)
        return (answer - batch.target).square().flatten(1).mean(1)

    def chunks(self, batch: Batch) -> list[Batch]:
        """This process's rows of `batch` in parts of at most `largest` samples."""
        return [select(batch, rows) for rows in self.shares(batch)]

    def shares(self, batch: Batch) -> list[Tensor]:
        """Row numbers of those parts."""
        return [rows for rows in torch.split(self.processes.shard(len(batch.noisy)), self.largest) if len(rows)]


def select(batch: Batch, rows: Tensor) -> Batch:
    """The given rows of a batch."""
    rows = rows.to(batch.noisy.device)
    return Batch(
        batch.noisy[rows],
        batch.timesteps[rows],
        batch.target[rows],
        batch.weights[rows],
        batch.conditioning[rows],
    )


def join(parts: Sequence[Batch]) -> Batch:
    """Batches one behind the other."""
    return Batch(
        torch.cat([part.noisy for part in parts]),
        torch.cat([part.timesteps for part in parts]),
        torch.cat([part.target for part in parts]),
        torch.cat([part.weights for part in parts]),
        Conditioning.cat([part.conditioning for part in parts]),
    )


MAX_SCALE = 65_536.0
GROWTH_INTERVAL = 100


@dataclass
class LossScale:
    """The factor by which the loss is multiplied before the backward pass, and its gradient divided after it.

    Dynamic, as in mixed-precision training (Micikevicius et al. 2018, section 3.2): halved when a gradient overflows,
    doubled after `GROWTH_INTERVAL` that did not. A batch that overflowed is repeated, since a search sees each batch
    once; torch.amp.GradScaler, whose names these are, would skip it. Always a power of two, so that scaling rounds
    nothing; 1 throughout unless `dynamic`.
    """

    dynamic: bool = False
    value: float = 1.0
    growth_tracker: int = 0

    @classmethod
    def of(cls, dtype: torch.dtype) -> LossScale:
        """The scale that a search in `dtype` begins with; only float16 has a range that needs one."""
        return cls(True, MAX_SCALE) if dtype == torch.float16 else cls()

    def backoff(self, gradient: Sequence[Tensor]) -> bool:
        """Whether `gradient` overflowed and a lower scale, set by now, may help; at 1 the overflow is the model's."""
        if self.value <= 1 or all_finite(*gradient):
            return False
        self.value, self.growth_tracker = self.value / 2, 0
        return True

    def update(self) -> None:
        """After a gradient without overflow."""
        self.growth_tracker += 1
        if self.dynamic and self.growth_tracker >= GROWTH_INTERVAL and self.value < MAX_SCALE:
            self.value, self.growth_tracker = self.value * 2, 0

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs; empty where nothing is scaled."""
        return {"loss_scale": torch.tensor([self.value, self.growth_tracker])} if self.dynamic else {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        if self.dynamic and "loss_scale" in state:
            value, growth_tracker = state["loss_scale"].tolist()
            self.value, self.growth_tracker = value, int(growth_tracker)
