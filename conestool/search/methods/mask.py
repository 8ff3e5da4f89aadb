"""Method `mask`: a learned hard mask with a straight-through gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from conestool.search.config import DECAY, SHARE, MethodConfig, at_least, setting
from conestool.search.methods.base import Method, Ranking, search_method
from conestool.search.objective import Objective
from conestool.search.parameters import MAX_SUBSAMPLE, approx_quantile, subsample

_CHUNK = 2**16
"""Weights that a CPU works on at once, so that what lies between stays in its cache."""
LOCAL_SAMPLE = 2**15
"""By about how many of a parameter's weights its own quantile is taken."""
MOMENTS = torch.bfloat16
"""In which the running means are kept between two steps."""
_TIE = 1e-3
"""What the order among gates at an end may add to a score between 0 and 1: too little to cross another gate."""


def adam_step_(
    gates: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    bias: tuple[float, float],
    lr: float,
    floor: Tensor,
    l1: float = 0.0,
) -> None:
    """Move `gates` (n,) in place as Adam would, by moments (n,) and what corrects their `bias`, and hold them in 0..1.

    Gates are fp32; moments may have fewer bits, and are computed with in fp32.
    The root-mean-square in the denominator is at least `floor`, before its bias is corrected; then every gate rises by
    `l1`.
    """
    root, room = bias[1] ** 0.5, gates.new_empty(min(_chunk(gates), len(gates)))
    least = floor.clamp_min(1e-30 * root)
    for gate, one, two in _chunks(gates, exp_avg, exp_avg_sq):
        rms = room[: len(two)].copy_(two).sqrt_().clamp_min_(least)
        gate.addcdiv_(one.float(), rms, value=-lr * root / bias[0])
        (gate.add_(l1) if l1 else gate).clamp_(0, 1)


def masked_weights(parts: Iterable[tuple[Tensor, ...]]) -> Iterator[Tensor]:
    """Of every part, weights and gates (n_i,), the weights, 0 where the gate is below 1/2, in the gates' dtype.

    Each takes the place of the one before: memory that is new must be cleared first, and that takes longer than this.
    """
    room = torch.empty(0)
    for weights, gates in parts:
        if len(room) < len(gates):
            room = torch.empty_like(gates)
        kept = torch.ge(gates, 0.5, out=room[: len(gates)])  # floats multiply in half the time of booleans
        yield kept.mul_(weights)


def rms_floor(exp_avg_sq: Tensor, quantile: float, most: int = MAX_SUBSAMPLE) -> Tensor:
    """The `quantile` of the roots of `exp_avg_sq` (n,), of no dimension, by at most about twice so many of them."""
    return approx_quantile(subsample(exp_avg_sq, most), quantile).sqrt()


def update_moments_(effect: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, beta1: float, beta2: float) -> None:
    """Take `effect` (n,), fp32, into the running means `exp_avg` and of squares `exp_avg_sq`, both (n,), in place.

    Computed in fp32 and rounded to the moments' own dtype.
    """
    for new, one, two in _chunks(effect, exp_avg, exp_avg_sq):
        one.copy_(one.float().lerp_(new, 1 - beta1))
        two.copy_(two.float().mul_(beta2).addcmul_(new, new, value=1 - beta2))


def _chunk(vector: Tensor) -> int:
    """How much of a vector is worked on at once: on a card all, since there every piece is a launch."""
    return _CHUNK if vector.device.type == "cpu" else max(1, len(vector))


def _chunks(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same part of every vector, one after the other."""
    return zip(*(torch.split(vector, _chunk(vector)) for vector in vectors), strict=True)


@dataclass(frozen=True, kw_only=True)
class MaskConfig(MethodConfig):
    """A learned gate for every weight, which is zeroed below 1/2.

    Our choices, all measured (docs/method.md). Without the floor of the denominator, weights that hardly matter move as
    fast as those that do. Without `l1` several times as many weights are zeroed for the same pictures, and everything
    else that the model draws suffers: only effects above l1 / lr of the floor zero a weight.
    """

    lr: float = setting(0.2, "Largest move of a gate in the first step.", at_least(0))
    final_lr_factor: float = setting(0.0, "Part of lr and l1 that is left at the last step; they fall linearly.", SHARE)
    l1: float = setting(0.025, "Rise of every gate in a step, the gradient of an L1 penalty.", at_least(0))
    eps_quantile: float = setting(
        0.98, "Quantile of the root-mean-squares below which Adam's denominator never falls.", SHARE
    )
    eps_per_tensor: float = setting(
        0.5, "0: that quantile over all weights; 1: of each parameter; else between them.", SHARE
    )
    beta1: float = setting(0.9, "Decay of the running mean of theta * gradient.", DECAY)
    beta2: float = setting(0.95, "Decay of the running mean of its square.", DECAY)


@search_method("mask", MaskConfig)
@dataclass
class LearnedMask(Method):
    """One gate per weight, 1 at the start; a weight is zeroed while its gate is below 1/2.

    Each step runs the network under the hard mask and moves every gate along the straight-through gradient
    theta * dL_con/dtheta, as Adam would, but with the root-mean-square in the denominator floored. The floor is between
    the quantile over all weights and that over the weights of the same parameter, their geometric mean with
    `eps_per_tensor` 1/2: with the first alone the parameters whose effects are large have more of what is zeroed.
    Steps become smaller, so that the last batches do not decide what is zeroed; the density settles by itself. Both
    moments are kept in bfloat16: what is lost of them lies far below the noise of a batch, and a vector of memory is
    saved.
    """

    objective: Objective
    config: MaskConfig
    gates: Tensor = field(init=False)
    exp_avg: Tensor = field(init=False)
    exp_avg_sq: Tensor = field(init=False)
    steps_done: int = field(init=False, default=0)
    state_names: ClassVar = ("gates", "exp_avg", "exp_avg_sq", "steps_done")

    def __post_init__(self) -> None:
        self.gates = torch.ones_like(self.objective.weights, dtype=torch.float32)
        self.exp_avg = torch.zeros_like(self.gates, dtype=MOMENTS)
        self.exp_avg_sq = torch.zeros_like(self.gates, dtype=MOMENTS)

    def step(self, index: int) -> float:
        """Learn from batch `index`; returns L_con under the hard mask before the step."""
        config, weights = self.config, self.objective.weights
        parts = list(self.objective.split_by_parameter(weights, self.exp_avg, self.exp_avg_sq))

        def callback(number: int, gradient: Tensor) -> None:
            own, exp_avg, exp_avg_sq = parts[number]
            update_moments_(gradient.mul_(own), exp_avg, exp_avg_sq, config.beta1, config.beta2)

        masked = masked_weights(self.objective.split_by_parameter(weights, self.gates))
        loss = self.objective.gradient(masked, index, callback)
        left = 1 - (1 - config.final_lr_factor) * self.steps_done / config.steps
        self.steps_done += 1
        bias = 1 - config.beta1**self.steps_done, 1 - config.beta2**self.steps_done
        share = config.eps_per_tensor
        overall = rms_floor(self.exp_avg_sq, config.eps_quantile) ** (1 - share)
        for gates, exp_avg, exp_avg_sq in self.objective.split_by_parameter(self.gates, self.exp_avg, self.exp_avg_sq):
            floor = overall * rms_floor(exp_avg_sq, config.eps_quantile, LOCAL_SAMPLE) ** share
            adam_step_(gates, exp_avg, exp_avg_sq, bias, left * config.lr, floor, left * config.l1)
        return loss

    def count(self) -> int:
        """The gates below 1/2."""
        return int((self.gates < 0.5).sum())

    def ranking(self) -> Ranking:
        """How far each gate fell; those that fell below 1/2 are the method's own choice.

        Among gates that can go no further the running mean of theta * dL_con/dtheta decides, for other densities.
        """
        scores = 1 - self.gates
        least, most = (float(end) for end in self.exp_avg.aminmax())
        share = _TIE / max(-least, most, 1e-30)
        for score, gate, mean in self.objective.split_by_parameter(scores, self.gates, self.exp_avg):
            ends = (gate <= 0) | (gate >= 1)
            score.addcmul_(ends.float(), mean.float(), value=share)
        return Ranking(scores, self.count())
