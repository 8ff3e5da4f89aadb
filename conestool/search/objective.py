"""The concept-implanting loss L_con and its gradient with respect to the K/V weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from conestool.errors import DeviceError
from conestool.models.conditioning import Conditioning
from conestool.models.devices import all_finite, check_finite
from conestool.models.memory import Fit, free_memory, in_parts, shrinking, that_fit
from conestool.models.model import Model
from conestool.models.noise_schedule import NoiseSchedule, predict_noise, schedule_of, stratified_timesteps
from conestool.search.batches import Batch, LatentImages, LossTerm
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.parameters import FlatParameters, GradientCallback

__all__ = ["GROWTH_INTERVAL", "MAX_SCALE", "NUM_FROZEN_TARGETS", "LossScale", "Objective"]

_EVAL_SEED = 20_230_309
_FULL_RANGE = (0.0, 1.0)
NUM_FROZEN_TARGETS = 128
MAX_SAMPLES = 32
"""The most samples that the denoiser sees at once."""
_AMPLE = 32
"""Sizes of the denoiser that the activations of one sample never take: those of real ones take about one."""


@dataclass
class Objective:
    """L_con over `terms` on `model`, whose K/V weights are trainable as `params`; batch k depends on (seed, k) alone.

    Timesteps come from `timestep_range`, a part of the schedule (0: no noise, 1: nothing but noise); evaluation batches
    see all of it. Terms with frozen targets have `num_frozen_targets` each, computed once at the untouched weights;
    `keep_frozen` is given a term's name and how to compute them, and may return those of an earlier search. At most
    `micro_batch_size` samples go through the denoiser at once; where it is None, as many as fit: what is computed
    without gradients measures that itself, for steps `fit` does, and where memory runs out all the same there are fewer
    from then on. Each of the `processes` computes its rows of a batch; all have the result. Weights to ask about and
    gradients come in parts, one for each parameter.
    """

    model: Model
    params: FlatParameters
    terms: Sequence[LossTerm]
    _: KW_ONLY
    seed: int = 0
    timestep_range: tuple[float, float] = _FULL_RANGE
    micro_batch_size: int | None = None
    processes: DistributedState = SINGLE_PROCESS
    num_frozen_targets: int = NUM_FROZEN_TARGETS
    keep_frozen: Callable[[str, Callable[[], Batch]], Batch] = lambda name, compute: compute()
    schedule: NoiseSchedule = field(init=False)
    scale: LossScale = field(init=False)
    step_size: int = field(init=False, default=MAX_SAMPLES)
    forward: Fit | None = field(init=False, default=None)
    frozen_targets: dict[str, Batch] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.schedule = schedule_of(self.model)
        self.scale = LossScale.of(self.model.dtype)
        for number, term in enumerate(self.terms):
            if term.target == "frozen":
                compute = partial(self._cache_frozen_targets, term, self.seed * 1_000_003 + 7 + number)
                self.frozen_targets[term.name] = self.keep_frozen(term.name, compute)

    def _cache_frozen_targets(self, term: LossTerm, seed: int) -> Batch:
        """`num_frozen_targets` samples of `term`; the target of a scene is the true noise where the subject is."""

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
            cell_weights=term.cell_weights(chosen),
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

    def eval_batch(self, images: LatentImages, conditioning: Conditioning, size: int) -> Batch:
        """`size` samples of `images` on fixed noise whose weighted errors add up to their mean, whatever the seed."""
        term = LossTerm(name="eval", images=images, conditioning=conditioning, size=size)
        return self.draw(term, size, torch.Generator().manual_seed(_EVAL_SEED), _FULL_RANGE)

    def sample_frozen(self, term: LossTerm, generator: torch.Generator) -> Batch | None:
        """`size` of the frozen targets of `term`, or None if it has none."""
        if term.name not in self.frozen_targets:
            return None
        whole = self.frozen_targets[term.name]
        chosen = torch.randperm(len(whole), generator=generator)[: term.size]
        part = whole[chosen]
        return replace(part, loss_weights=torch.full_like(part.loss_weights, term.weight / len(chosen)))

    def fit(self, num_gradients: int = 1) -> Fit:
        """Measure how many samples of a step go through at once, forward and backward, and take so many from now on.

        `num_gradients` of all weights lie there meanwhile: a step of several objectives holds one of each.
        OutOfMemoryError if one is too many. Weights and scores are as they were.
        """
        batch = self.batch(0)

        def run(count: int) -> None:
            self._backward(batch[torch.arange(count) % len(batch)], torch.arange(count), count)

        # the own one does from the second pass on
        reserve = 4 * num_gradients * self.weights.numel() if self.weights.device == self.model.device else 0
        found = self._that_fit(run, len(batch), reserve)
        self.step_size = found.samples
        return found

    def _that_fit(self, run: Callable[[int], object], batch_size: int, reserve: int = 0) -> Fit:
        """How many samples of this process's share of a batch `run` can take at once.

        Nothing is measured on the CPU where there is room for far more than a denoiser of this size can need.
        """
        device = self.model.device
        most = max(1, min(len(self.processes.shard(batch_size)), MAX_SAMPLES))
        share = 1.0
        if device.type == "cpu":
            share, free = 1 / self.processes.num_processes, free_memory(device) or 0
            if share * free > _AMPLE * most * sum(weight.nbytes for weight in self.model.denoiser.parameters()):
                return Fit(most, most, 0, free)
        return that_fit(run, most, device, reserve=reserve, share=share)

    @torch.no_grad()
    def _in_parts(self, batch: Batch, work: Callable[[Batch], Tensor]) -> list[Tensor]:
        """What `work` makes of this process's rows of `batch`, without gradients, in parts that fit."""
        rows, device, fixed = self.processes.shard(len(batch)), self.model.device, self.micro_batch_size
        if self.forward is None and not fixed:
            self.forward = self._that_fit(lambda count: work(batch[torch.arange(count) % len(batch)]), len(batch))
        size = fixed or (self.forward.samples if self.forward else MAX_SAMPLES)
        found, size = in_parts(len(rows), size, lambda part: work(batch[rows[part]]), device, fixed=bool(fixed))
        if self.forward:
            self.forward = replace(self.forward, samples=max(size, 1))
        return found

    def _with_model_targets(self, batch: Batch) -> Batch:
        """`batch` with the present model's output as target."""
        answers, rows = torch.zeros_like(batch.target), self.processes.shard(len(batch))
        if len(rows):
            answers[rows.to(answers.device)] = torch.cat(self._in_parts(batch, self._predict))
        return replace(batch, target=self.processes.all_reduce(answers))

    def gradient(self, weights: Tensor | Iterable[Tensor], index: int, callback: GradientCallback) -> float:
        """Give dL_con/dtheta at `weights` on batch `index` to `callback`, by parameters; returns that batch's L_con.

        `weights` are a vector (n,) or a part for each parameter, each asked for when the one before is in its place;
        they stay as given. `callback` is first called when all is computed and known to be finite, so that an error on
        the way leaves a method as it was. Raises NonFiniteError if a gradient or the loss is not finite: no method may
        rank by such numbers. DeviceError if there is a loss and no gradient at all, as where a backend drops it. On a
        device this waits for it once.
        """
        self.params.set_(weights)
        batch = self.batch(index)
        while True:
            gradient, told = self._accumulate_gradients(batch)
            if not self.scale.backoff(told[1:], gradient):
                break
        check_finite(told[0], f"L_con at step {index + 1}", self.model.dtype)
        check_finite(told[1:], f"the gradient of L_con at step {index + 1}", self.model.dtype)
        if told[0] and not told[1:].any() and not any(part.any() for part in gradient):
            raise DeviceError(
                f"the gradient of L_con at step {index + 1} is zero everywhere",
                "nothing can be found by it: another device or dtype may compute it (--device cpu)",
            )
        scale = self.scale.value
        self.scale.update()
        for number in reversed(range(len(gradient))):
            part = gradient.pop()
            callback(number, part.div_(scale) if scale != 1 else part)
        return float(told[0])

    def _backward(self, batch: Batch, rows: Tensor, size: int) -> tuple[list[Tensor], Tensor]:
        """Gradient, times the loss scale and a part for each parameter, and loss of `rows`, at most `size` at once."""
        found: dict[int, Tensor] = {}

        def add(number: int, part: Tensor) -> None:
            found[number] = found[number].add_(part) if number in found else part

        loss = torch.zeros((), device=self.model.device)
        with self.params.stream_gradients(add):
            for some in torch.split(rows, size) if len(rows) else ():
                part = batch[some]
                value = (part.loss_weights * self.per_sample_loss(part)).sum()
                torch.autograd.backward(value * self.scale.value)
                loss += value.detach()
        return [found[number] for number in sorted(found)], loss

    def _accumulate_gradients(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Gradient times the loss scale, in parts, over all passes and processes; on the CPU loss and sums."""
        rows, size = self.processes.shard(len(batch)), self.micro_batch_size
        work, device = partial(self._backward, batch, rows), self.model.device
        (gradient, loss), taken = shrinking(work, size or self.step_size, device, fixed=bool(size))
        self.step_size = taken
        gradient = [self.processes.all_reduce(part) for part in gradient]
        loss = self.processes.all_reduce(loss).to(gradient[0].device)
        return gradient, torch.stack([loss, *(part.sum() for part in gradient)]).cpu()

    def loss(self, weights: Tensor | Iterable[Tensor], batch: Batch) -> float:
        """Sum of weights * squared errors of `batch` at `weights`, as in `gradient`; NonFiniteError if not finite."""
        self.params.set_(weights)
        parts = self._in_parts(batch, lambda part: (part.loss_weights * self.per_sample_loss(part)).sum())
        own = float(torch.stack(parts).sum()) if parts else 0.0
        loss = self.processes.sum(own, self.weights.device)
        check_finite(loss, "a loss of the report", self.model.dtype)
        return loss

    def per_sample_loss(self, batch: Batch) -> Tensor:
        """(b,), fp32: mean squared error per sample, by `cell_weights`."""
        return ((self._predict(batch) - batch.target).square() * batch.cell_weights).flatten(1).mean(1)

    def _predict(self, batch: Batch) -> Tensor:
        """What the model answers to `batch`, fp32."""
        return predict_noise(self.model, self.schedule, batch.noisy_latents, batch.timesteps, batch.conditioning)


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

    def backoff(self, sums: Tensor, gradient: Sequence[Tensor]) -> bool:
        """Whether `gradient` overflowed and a lower scale, set by now, may help; at 1 the overflow is the model's.

        Finite `sums` of its parts say that it did not.
        """
        if self.value <= 1 or bool(sums.isfinite().all()) or all_finite(*gradient):
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
