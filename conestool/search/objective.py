"""The concept-implanting loss L_con and its gradient with respect to the K/V weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from conestool.models.conditioning import Conditioning
from conestool.models.devices import all_finite, check_finite
from conestool.models.model import Model
from conestool.models.noise_schedule import NoiseSchedule, predict_noise, schedule_of, stratified_timesteps
from conestool.search.batches import Batch, LatentImages, LossTerm
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.parameters import FlatParameters, GradientCallback

__all__ = ["GROWTH_INTERVAL", "MAX_SCALE", "NUM_FROZEN_TARGETS", "LossScale", "Objective"]

_EVAL_SEED = 20_230_309
_FULL_RANGE = (0.0, 1.0)
NUM_FROZEN_TARGETS = 128


@dataclass
class Objective:
    """L_con over `terms` on `model`, whose K/V weights are trainable as `params`; batch k depends on (seed, k) alone.

    Timesteps come from `timestep_range`, a part of the schedule (0: no noise, 1: nothing but noise); evaluation batches
    see all of it. Terms with frozen targets have `num_frozen_targets` each, computed once at the untouched weights;
    `keep_frozen` is given a term's name and how to compute them, and may return those of an earlier search. At
    most `micro_batch_size` samples go through the denoiser at once. Each of the `processes` computes its rows of a
    batch; all have the result. Weights to ask about and gradients come in parts, one for each parameter: no vector of
    all of them takes memory.
    """

    model: Model
    params: FlatParameters
    terms: Sequence[LossTerm]
    _: KW_ONLY
    seed: int = 0
    timestep_range: tuple[float, float] = _FULL_RANGE
    micro_batch_size: int = 32
    processes: DistributedState = SINGLE_PROCESS
    num_frozen_targets: int = NUM_FROZEN_TARGETS
    keep_frozen: Callable[[str, Callable[[], Batch]], Batch] = lambda name, compute: compute()
    schedule: NoiseSchedule = field(init=False)
    scale: LossScale = field(init=False)
    frozen_targets: dict[str, Batch] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.schedule = schedule_of(self.model)
        self.scale = LossScale.of(self.model.dtype)
        for number, term in enumerate(self.terms):
            if term.target == "frozen":
                compute = partial(self._cache_frozen_targets, term, self.seed * 1_000_003 + 7 + number)
                self.frozen_targets[term.name] = self.keep_frozen(term.name, compute)

    def _cache_frozen_targets(self, term: LossTerm, seed: int) -> Batch:
        """`num_frozen_targets` samples of `term`; the target outside a subject mask is the untouched model's output."""

        def drawn(conditioning: Conditioning) -> Batch:
            draw = torch.Generator().manual_seed(seed)
            return self.draw(
                replace(term, conditioning=conditioning), self.num_frozen_targets, draw, self.timestep_range
            )

        if term.background_conditioning is None or term.subject_mask is None:
            return self._with_model_targets(drawn(term.conditioning))
        batch, kept = drawn(term.conditioning), self._with_model_targets(drawn(term.background_conditioning)).target
        masks = term.subject_mask[self.pick(term, self.num_frozen_targets, torch.Generator().manual_seed(seed))]
        return replace(batch, target=kept.lerp(batch.target, masks.to(kept)))

    @property
    def weights(self) -> Tensor:
        """The untouched weights, shape (n,), in their own dtype; not to be changed."""
        return self.params.weights

    def split_by_parameter(self, *vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """For one parameter after the other, its part of each of the `vectors` (n,): a view."""
        return self.params.split_by_parameter(*vectors)

    def draw(self, term: LossTerm, count: int, generator: torch.Generator, span: tuple[float, float]) -> Batch:
        """`count` samples of `term`: pictures in turn, prompts at random, stratified timesteps, CPU noise."""
        chosen = self.pick(term, count, generator)
        pictures = term.images[chosen]
        latents = pictures.latents
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        prompts = term.sample_prompts(chosen, generator).to(latents.device)
        timesteps = stratified_timesteps(count, len(self.schedule), generator, span).to(latents.device)
        return Batch(
            noisy_latents=self.schedule.add_noise(latents, noise, timesteps),
            timesteps=timesteps,
            target=self.schedule.target(latents, noise, timesteps),
            loss_weights=torch.full((count,), term.weight / count, device=latents.device),
            conditioning=term.conditioning[prompts].with_micro_conditioning(pictures.micro_conditioning),
        )

    def pick(self, term: LossTerm, count: int, generator: torch.Generator) -> Tensor:
        """Numbers of `count` pictures of `term`, all in turn; the first that a draw takes from its generator."""
        order = torch.randperm(len(term.images), generator=generator)
        return order.repeat(-(-count // len(order)))[:count]

    def batch(self, index: int) -> Batch:
        """The batch of step `index`: `size` samples of every term."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + 1000 + index)
        parts = [
            self.sample_frozen(term, generator) or self.draw(term, term.size, generator, self.timestep_range)
            for term in self.terms
        ]
        return Batch.cat(parts)

    def selection_batch(self, size: int) -> Batch:
        """A batch with `size` samples of every term on noise of its own, to compare sets of weights on."""
        parts = []
        for number, term in enumerate(self.terms):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + 500 + number)
            parts.append(self.frozen_targets.get(term.name) or self.draw(term, size, generator, self.timestep_range))
        return Batch.cat(parts)

    def eval_batch(
        self, images: LatentImages, conditioning: Conditioning, size: int, span: tuple[float, float] = _FULL_RANGE
    ) -> Batch:
        """`size` samples of `images` on fixed noise whose weighted errors add up to their mean, whatever the seed."""
        term = LossTerm(name="eval", images=images, conditioning=conditioning, size=size)
        return self.draw(term, size, torch.Generator().manual_seed(_EVAL_SEED), span)

    def sample_frozen(self, term: LossTerm, generator: torch.Generator) -> Batch | None:
        """`size` of the frozen targets of `term`, or None if it has none."""
        if term.name not in self.frozen_targets:
            return None
        whole = self.frozen_targets[term.name]
        chosen = torch.randperm(len(whole), generator=generator)[: term.size]
        part = whole[chosen]
        return replace(part, loss_weights=torch.full_like(part.loss_weights, term.weight / len(chosen)))

    @torch.no_grad()
    def _with_model_targets(self, batch: Batch) -> Batch:
        """`batch` with the present model's output as target."""
        answers = torch.zeros_like(batch.target)
        for rows in self._local_microbatches(batch):
            part = batch[rows]
            answer = predict_noise(self.model, self.schedule, part.noisy_latents, part.timesteps, part.conditioning)
            answers[rows.to(answers.device)] = answer
        return replace(batch, target=self.processes.all_reduce(answers))

    def gradient(self, weights: Tensor | Iterable[Tensor], index: int, callback: GradientCallback) -> float:
        """Give dL_con/dtheta at `weights` on batch `index` to `callback`, by parameters; returns that batch's L_con.

        `weights` are a vector (n,) or a part for each parameter, each asked for when the one before is in its place;
        they stay as given. Where one backward pass does it all, each gradient is used while the pass goes on, so that
        they are never there together. Raises NonFiniteError if a gradient or the loss is not finite: no method may rank
        by such numbers, and what it has learned in this step is worthless.
        """
        self.params.set_(weights)
        batch, sums = self.batch(index), list[Tensor]()

        def checked(number: int, part: Tensor) -> None:
            sums.append(part.sum())
            callback(number, part)

        if len(batch) <= self.micro_batch_size and self.processes.num_processes == 1 and not self.scale.dynamic:
            loss = self._backward(batch, checked)
        else:
            gradient, loss = self._accumulate_gradients(batch)
            while self.scale.backoff(gradient):
                gradient, loss = self._accumulate_gradients(batch)
            for number, part in enumerate(gradient):
                checked(number, part)
        check_finite(loss, f"L_con at step {index + 1}", self.model.dtype)
        check_finite(torch.stack(sums), f"the gradient of L_con at step {index + 1}", self.model.dtype)
        self.scale.update()
        return loss

    def _backward(self, batch: Batch, callback: GradientCallback) -> float:
        """Give the gradient of this process's rows, times the loss scale, to `callback`; returns their loss."""
        loss = 0.0
        with self.params.stream_gradients(callback):
            for part in self.chunks(batch):
                value = (part.loss_weights * self.per_sample_loss(part)).sum()
                torch.autograd.backward(value * self.scale.value)
                loss += float(value.detach())
        return loss

    def _accumulate_gradients(self, batch: Batch) -> tuple[list[Tensor], float]:
        """Gradient, a part for each parameter, and loss of `batch` over all passes and processes, whatever they are."""
        found: dict[int, Tensor] = {}

        def add(number: int, part: Tensor) -> None:
            found[number] = found[number].add_(part) if number in found else part

        loss = self._backward(batch, add)
        gradient = [self.processes.all_reduce(found[number]) for number in sorted(found)]
        if self.scale.value != 1:
            for part in gradient:
                part.div_(self.scale.value)
        return gradient, self.processes.sum(loss, self.weights.device)

    @torch.no_grad()
    def loss(self, weights: Tensor, batch: Batch) -> float:
        """Sum of weights * squared errors of `batch` at `weights` (n,); NonFiniteError if it is not finite."""
        self.params.set_(weights)
        own = sum(float((part.loss_weights * self.per_sample_loss(part)).sum()) for part in self.chunks(batch))
        loss = self.processes.sum(own, self.weights.device)
        check_finite(loss, "a loss of the report", self.model.dtype)
        return loss

    def per_sample_loss(self, batch: Batch) -> Tensor:
        """(b,), fp32: mean squared error per sample."""
        answer = predict_noise(self.model, self.schedule, batch.noisy_latents, batch.timesteps, batch.conditioning)
        return (answer - batch.target).square().flatten(1).mean(1)

    def chunks(self, batch: Batch) -> list[Batch]:
        """This process's rows of `batch` in parts of at most `micro_batch_size` samples."""
        return [batch[rows] for rows in self._local_microbatches(batch)]

    def _local_microbatches(self, batch: Batch) -> list[Tensor]:
        """Row numbers of those parts."""
        return [rows for rows in torch.split(self.processes.shard(len(batch)), self.micro_batch_size) if len(rows)]


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

    def state_dict(self) -> dict[str, Tensor]:
        """What `load_state_dict` needs; empty where nothing is scaled."""
        return {"loss_scale": torch.tensor([self.value, self.growth_tracker])} if self.dynamic else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume from `state`."""
        if self.dynamic and "loss_scale" in state:
            value, growth_tracker = state["loss_scale"].tolist()
            self.value, self.growth_tracker = value, int(growth_tracker)
