"""Method `mask`: a learned hard mask with a straight-through gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from conestool.search.methods.base import Ranking, method
from conestool.search.objective import Objective
from conestool.search.parameters import SAMPLE, quantile, spread

__all__ = ["LearnedMask", "masked", "move", "observe", "strong"]

PIECE = 2**16
"""Weights that are worked on at once, so that what lies between stays in the processor's cache."""
LOCAL_SAMPLE = 2**15
"""By about how many of a parameter's weights its own quantile is taken."""
MOMENTS = torch.bfloat16
"""In which the running means are kept between two steps."""
TIE = 1e-3
"""What the order among gates at an end may add to a score between 0 and 1: too little to cross another gate."""


def move(
    gates: Tensor,
    first: Tensor,
    second: Tensor,
    bias: tuple[float, float],
    rate: float,
    floor: float,
    pull: float = 0.0,
) -> None:
    """Move `gates` (n,) in place as Adam would, by moments (n,) and what corrects their `bias`, and hold them in 0..1.

    Gates are fp32; moments may have fewer bits, and are computed with in fp32.
    The root-mean-square in the denominator is at least `floor`, before its bias is corrected; then every gate rises by
    `pull`.
    """
    root, room = bias[1] ** 0.5, gates.new_empty(min(PIECE, len(gates)))
    least = max(floor, 1e-30 * root)
    for gate, one, two in pieces(gates, first, second):
        rms = room[: len(two)].copy_(two).sqrt_().clamp_min_(least)
        gate.addcdiv_(one.float(), rms, value=-rate * root / bias[0]).add_(pull).clamp_(0, 1)


def masked(parts: Iterable[tuple[Tensor, ...]]) -> Iterator[Tensor]:
    """Of every part, weights and gates (n_i,), the weights, 0 where the gate is below 1/2, in the gates' dtype.

    Each takes the place of the one before: memory that is new must be cleared first, and that takes longer than this.
    """
    room = torch.empty(0)
    for weights, gates in parts:
        if len(room) < len(gates):
            room = torch.empty_like(gates)
        kept = torch.ge(gates, 0.5, out=room[: len(gates)])  # floats multiply in half the time of booleans
        yield kept.mul_(weights)


def strong(second: Tensor, floor: float, most: int = SAMPLE) -> float:
    """The `floor` quantile of the roots of `second` (n,), by at most about twice so many of them."""
    return quantile(spread(second, most).float().sqrt(), floor)


def observe(effect: Tensor, first: Tensor, second: Tensor, momentum: float, decay: float) -> None:
    """Take `effect` (n,), fp32, into its running mean `first` and that of its square `second`, both (n,), in place.

    Computed in fp32 and rounded to the moments' own dtype.
    """
    for new, one, two in pieces(effect, first, second):
        one.copy_(one.float().lerp_(new, 1 - momentum))
        two.copy_(two.float().mul_(decay).addcmul_(new, new, value=1 - decay))


def pieces(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same part of every vector, one after the other."""
    return zip(*(torch.split(vector, PIECE) for vector in vectors), strict=True)


@method("mask")
@dataclass
class LearnedMask:
    """One gate per weight, 1 at the start; a weight is shut while its gate is below 1/2.

    Each step runs the network under the hard mask and moves every gate along the straight-through gradient
    theta * dL_con/dtheta, as Adam would, but with the root-mean-square in the denominator floored at its
    `floor` quantile: without the floor, weights that hardly matter move as fast as those that do. The quantile is
    between that over all weights and that over the weights of the same parameter, their geometric mean with `local`
    1/2: with the first alone the parameters whose effects are large have more of what is shut.
    Every gate also rises by `pull` in each step, the gradient of an L1 penalty on what is shut: only effects above
    `pull` / `rate` of that floor shut a weight. Without it several times as many weights are shut for the same
    pictures, and everything else that the model draws suffers. `rate` is the largest move of a gate in the first step;
    it falls to the part `end` of itself over the steps, and the pull with it, so that the last batches do not decide
    what is shut.
    Our choices, all measured (docs/method.md); density settles by itself. Both moments are kept in bfloat16: what is
    lost of them lies far below the noise of a batch, and a vector of memory is saved.
    """

    objective: Objective
    steps: int = 60
    rate: float = 0.2
    momentum: float = 0.9
    decay: float = 0.95
    floor: float = 0.98
    local: float = 0.5
    pull: float = 0.02
    end: float = 0.0
    gates: Tensor = field(init=False)
    first: Tensor = field(init=False)
    second: Tensor = field(init=False)
    seen: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.gates = torch.ones_like(self.objective.theta, dtype=torch.float32)
        self.first = torch.zeros_like(self.gates, dtype=MOMENTS)
        self.second = torch.zeros_like(self.gates, dtype=MOMENTS)

    def step(self, index: int) -> float:
        """Learn from batch `index`; returns L_con under the hard mask before the step."""
        theta = self.objective.theta
        parts = list(self.objective.parts(theta, self.first, self.second))

        def use(number: int, gradient: Tensor) -> None:
            own, first, second = parts[number]
            observe(gradient.mul_(own), first, second, self.momentum, self.decay)

        loss = self.objective.gradient(masked(self.objective.parts(theta, self.gates)), index, use)
        left = 1 - (1 - self.end) * self.seen / self.steps
        self.seen += 1
        bias = 1 - self.momentum**self.seen, 1 - self.decay**self.seen
        overall = strong(self.second, self.floor)
        for gates, first, second in self.objective.parts(self.gates, self.first, self.second):
            floor = overall ** (1 - self.local) * strong(second, self.floor, LOCAL_SAMPLE) ** self.local
            move(gates, first, second, bias, left * self.rate, floor, left * self.pull)
        return loss

    def state(self) -> dict[str, Tensor]:
        """Gates, both moments and the number of steps done."""
        seen = torch.tensor(self.seen)
        return {"gates": self.gates, "first": self.first, "second": self.second, "seen": seen}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.gates = state["gates"].to(self.gates)
        self.first, self.second = state["first"].to(self.first), state["second"].to(self.second)
        self.seen = int(state["seen"])

    def ranking(self) -> Ranking:
        """How far each gate fell; those that fell below 1/2 are the method's own choice.

        Among gates that can go no further the running mean of theta * dL_con/dtheta decides, for other densities.
        """
        scores, count = 1 - self.gates, 0
        least, most = (float(end) for end in self.first.aminmax())
        share = TIE / max(-least, most, 1e-30)
        for score, gate, mean in pieces(scores, self.gates, self.first):
            ends = (gate <= 0) | (gate >= 1)
            score.addcmul_(ends.float(), mean, value=share)
            count += int((gate < 0.5).sum())
        return Ranking(scores, count)
