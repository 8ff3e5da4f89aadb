"""How many weights to shut: as told, as the method says, or as L_con on fixed noise favours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from conestool.errors import UsageError
from conestool.search.layout import top
from conestool.search.methods import Ranking
from conestool.search.objective import Batch, Objective

__all__ = ["CANDIDATES", "Choice", "choose"]

CANDIDATES = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


@dataclass(frozen=True)
class Choice:
    """The weights to shut (boolean, (n,)) and how their number came about: "given", "method" or "loss"."""

    shut: Tensor
    rule: str


def choose(objective: Objective, ranking: Ranking, density: float | None, probe: Batch) -> Choice:
    """Turn a ranking into a set of weights.

    `density` in (0, 1) fixes the number. Without it the method's own count counts, and where it has none (or 0: too
    few steps to cross any threshold), the candidate density with the lowest L_con on `probe` (fixed noise on the
    training photos and class images).
    """
    total = ranking.scores.numel()
    if density is not None:
        if not 0 < density < 1:
            raise UsageError(f"density {density} is not between 0 and 1", "0.01 shuts 1 % of the K/V weights")
        return Choice(top(ranking.scores, max(1, round(density * total))), "given")
    if ranking.count:
        return Choice(top(ranking.scores, ranking.count), "method")
    sets = [top(ranking.scores, max(1, round(candidate * total))) for candidate in CANDIDATES]
    losses = [objective.loss(objective.theta * ~shut, probe) for shut in sets]
    return Choice(sets[losses.index(min(losses))], "loss")
