"""Method `mask`: a learned hard mask with a straight-through gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from conestool.search.methods.base import Ranking, method
from conestool.search.objective import Objective
from conestool.search.parameters import MAX_SUBSAMPLE, approx_quantile, subsample

__all__ = ["LearnedMask", "adam_step_", "masked_weights", "rms_floor", "update_moments_"]

CHUNK = 2**16
"""Weights that are worked on at once, so that what lies between stays in the processor's cache."""
LOCAL_SAMPLE = 2**15
"""By about how many of a parameter's weights its own quantile is taken."""
MOMENTS = torch.bfloat16
"""In which the running means are kept between two steps."""
TIE = 1e-3
"""What the order among gates at an end may add to a score between 0 and 1: too little to cross another gate."""


def adam_step_(
    gates: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    bias: tuple[float, float],
    lr: float,
    floor: float,
    l1: float = 0.0,
) -> None:
    """Move `gates` (n,) in place as Adam would, by moments (n,) and what corrects their `bias`, and hold them in 0..1.

    Gates are fp32; moments may have fewer bits, and are computed with in fp32.
    The root-mean-square in the denominator is at least `floor`, before its bias is corrected; then every gate rises by
    `l1`.
    """
    root, room = bias[1] ** 0.5, gates.new_empty(min(CHUNK, len(gates)))
    least = max(floor, 1e-30 * root)
    for gate, one, two in chunks(gates, exp_avg, exp_avg_sq):
        rms = room[: len(two)].copy_(two).sqrt_().clamp_min_(least)
        gate.addcdiv_(one.float(), rms, value=-lr * root / bias[0]).add_(l1).clamp_(0, 1)


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


def rms_floor(exp_avg_sq: Tensor, quantile: float, most: int = MAX_SUBSAMPLE) -> float:
    """The `quantile` of the roots of `exp_avg_sq` (n,), by at most about twice so many of them."""
    return approx_quantile(subsample(exp_avg_sq, most).float().sqrt(), quantile)


def update_moments_(effect: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, momentum: float, decay: float) -> None:
    """Take `effect` (n,), fp32, into the running means `exp_avg` and of squares `exp_avg_sq`, both (n,), in place.

    Computed in fp32 and rounded to the moments' own dtype.
    """
    for new, one, two in chunks(effect, exp_avg, exp_avg_sq):
        one.copy_(one.float().lerp_(new, 1 - momentum))
        two.copy_(two.float().mul_(decay).addcmul_(new, new, value=1 - decay))


def chunks(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same part of every vector, one after the other."""
    return zip(*(torch.split(vector, CHUNK) for vector in vectors), strict=True)


@method("mask")
@dataclass
class LearnedMask:
    """One gate per weight, 1 at the start; a weight is zeroed while its gate is below 1/2.

    Each step runs the network under the hard mask and moves every gate along the straight-through gradient theta *
    dL_con/dtheta, as Adam would, but with the root-mean-square in the denominator floored at its `eps_quantile`
    quantile: without the floor, weights that hardly matter move as fast as those that do. The quantile is between that
    over all weights and that over the weights of the same parameter, their geometric mean with `eps_per_tensor` 1/2:
    with the first alone the parameters whose effects are large have more of what is zeroed. Every gate also rises by
    `l1` in each step, the gradient of an L1 penalty on what is zeroed: only effects above `l1` / `lr` of that floor
    zero a weight. Without it several times as many weights are zeroed for the same pictures, and everything else that
    the model draws suffers. `lr` is the largest move of a gate in the first step; it falls to the part
    `final_lr_factor` of itself over the steps, and `l1` with it, so that the last batches do not decide what is zeroed.
    Our choices, all measured (docs/method.md); density settles by itself. Both moments are kept in bfloat16: what is
    lost of them lies far below the noise of a batch, and a vector of memory is saved.
    """

    objective: Objective
    steps: int = 60
    lr: float = 0.2
    momentum: float = 0.9
    decay: float = 0.95
    eps_quantile: float = 0.98
    eps_per_tensor: float = 0.5
    l1: float = 0.02
    final_lr_factor: float = 0.0
    gates: Tensor = field(init=False)
    exp_avg: Tensor = field(init=False)
    exp_avg_sq: Tensor = field(init=False)
    steps_done: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.gates = torch.ones_like(self.objective.weights, dtype=torch.float32)
        self.exp_avg = torch.zeros_like(self.gates, dtype=MOMENTS)
        self.exp_avg_sq = torch.zeros_like(self.gates, dtype=MOMENTS)

    def step(self, index: int) -> float:
        """Learn from batch `index`; returns L_con under the hard mask before the step."""
        weights = self.objective.weights
        parts = list(self.objective.split_by_parameter(weights, self.exp_avg, self.exp_avg_sq))

        def callback(number: int, gradient: Tensor) -> None:
            own, exp_avg, exp_avg_sq = parts[number]
            update_moments_(gradient.mul_(own), exp_avg, exp_avg_sq, self.momentum, self.decay)

        loss = self.objective.gradient(
            masked_weights(self.objective.split_by_parameter(weights, self.gates)), index, callback
        )
        left = 1 - (1 - self.final_lr_factor) * self.steps_done / self.steps
        self.steps_done += 1
        bias = 1 - self.momentum**self.steps_done, 1 - self.decay**self.steps_done
        overall = rms_floor(self.exp_avg_sq, self.eps_quantile)
        for gates, exp_avg, exp_avg_sq in self.objective.split_by_parameter(self.gates, self.exp_avg, self.exp_avg_sq):
            floor = (
                overall ** (1 - self.eps_per_tensor)
                * rms_floor(exp_avg_sq, self.eps_quantile, LOCAL_SAMPLE) ** self.eps_per_tensor
            )
            adam_step_(gates, exp_avg, exp_avg_sq, bias, left * self.lr, floor, left * self.l1)
        return loss

    def state_dict(self) -> dict[str, Tensor]:
        """Gates, both moments and the number of steps done."""
        steps_done = torch.tensor(self.steps_done)
        return {"gates": self.gates, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq, "steps_done": steps_done}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume from `state`."""
        self.gates = state["gates"].to(self.gates)
        self.exp_avg, self.exp_avg_sq = state["exp_avg"].to(self.exp_avg), state["exp_avg_sq"].to(self.exp_avg_sq)
        self.steps_done = int(state["steps_done"])

    def ranking(self) -> Ranking:
        """How far each gate fell; those that fell below 1/2 are the method's own choice.

        Among gates that can go no further the running mean of theta * dL_con/dtheta decides, for other densities.
        """
        scores, count = 1 - self.gates, 0
        least, most = (float(end) for end in self.exp_avg.aminmax())
        share = TIE / max(-least, most, 1e-30)
        for score, gate, mean in chunks(scores, self.gates, self.exp_avg):
            ends = (gate <= 0) | (gate >= 1)
            score.addcmul_(ends.float(), mean, value=share)
            count += int((gate < 0.5).sum())
        return Ranking(scores, count)
