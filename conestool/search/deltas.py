"""Floats at concept neurons: what `tune` trains when zeros alone are not enough, on the indices that it has chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from conestool.concept import Concept, Floats
from conestool.search.layout import Layout
from conestool.search.methods import Ranking
from conestool.search.objective import Objective
from conestool.search.processes import Processes
from conestool.search.saved import SavedRun

__all__ = ["TrainedDeltas", "divided", "filled", "saved_owners", "vector"]

EPSILON = 1e-8


@dataclass
class TrainedDeltas:
    """One float per weight that a concept shuts, trained by Adam from 0 on; no other weight moves.

    `owners` is boolean, (concepts, n): who shuts what. Each step takes the gradient of the sum of all subjects' L_con
    on one batch of each, the batches behind the first `after`. Vectors have an entry for each weight that is shut,
    shape (k,), fp32. Our choice; with `rate` 0.001 twenty steps move a float by 0.02 at most.
    """

    objectives: Sequence[Objective]
    owners: Tensor
    steps: int
    rate: float = 1e-3
    after: int = 0
    momentum: float = 0.9
    decay: float = 0.999
    places: list[Tensor] = field(init=False)
    values: Tensor = field(init=False)
    first: Tensor = field(init=False)
    second: Tensor = field(init=False)
    seen: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        shut = self.owners.any(0)
        self.places = [part.nonzero().flatten() for (part,) in self.objectives[0].parts(shut)]
        self.values = torch.zeros(sum(self.sizes), device=shut.device)
        self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)

    @property
    def sizes(self) -> list[int]:
        """Number of floats per parameter."""
        return [len(place) for place in self.places]

    def weights(self) -> Iterator[Tensor]:
        """For one parameter after the other its weights (n_i,), fp32, with the floats in their places."""
        parts = self.objectives[0].parts(self.objectives[0].theta)
        for (theta,), place, values in zip(parts, self.places, torch.split(self.values, self.sizes), strict=True):
            whole = theta.float().clone()
            whole[place] = values
            yield whole

    def step(self, index: int) -> float:
        """Learn from one batch of every subject; returns their mean L_con before the step."""
        gradient, total = torch.zeros_like(self.values), 0.0
        use = partial(self.add, torch.split(gradient, self.sizes))
        for objective in self.objectives:
            total += objective.gradient(self.weights(), self.after + index, use)
        self.seen += 1
        self.first.lerp_(gradient, 1 - self.momentum)
        self.second.lerp_(gradient.square_(), 1 - self.decay)
        root = (self.second / (1 - self.decay**self.seen)).sqrt_().add_(EPSILON)
        self.values.addcdiv_(self.first, root, value=-self.rate / (1 - self.momentum**self.seen))
        return total / len(self.objectives)

    def add(self, parts: Sequence[Tensor], number: int, gradient: Tensor) -> None:
        """Add what a parameter's gradient (n_i,) says of its floats to their part."""
        parts[number].add_(gradient[self.places[number]])

    def state(self) -> dict[str, Tensor]:
        """The owners, floats, both moments and the number of steps done."""
        vectors = {"owners": self.owners.byte(), "values": self.values, "first": self.first, "second": self.second}
        return {**vectors, "seen": torch.tensor(self.seen)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`, whose owners are these."""
        self.values, self.first = state["values"].to(self.values), state["first"].to(self.first)
        self.second, self.seen = state["second"].to(self.second), int(state["seen"])

    def ranking(self) -> Ranking:
        """What is shut stays shut."""
        shut = self.owners.any(0)
        return Ranking(shut.float(), int(shut.sum()))


def saved_owners(saved: SavedRun | None, owned: Tensor, processes: Processes) -> Tensor | None:
    """The `owners` of an interrupted training, of the shape of `owned`; None if `saved` holds none of this run.

    The first process reads the file and the others have it from there.
    """
    there = bool(saved and processes.first and saved.fits())
    if not processes.any(there):
        return None
    found = saved.load() if saved and there else None
    owners = found[1]["owners"].to(owned.device) if found else owned.byte()
    return processes.give(owners).bool()


def divided(trained: TrainedDeltas, layout: Layout) -> list[dict[str, Floats]]:
    """Of each concept, by param name, its share of every float at its own indices: those of a weight add up to it."""
    shares = [dict[str, Floats]() for _ in trained.owners]
    values = torch.split(trained.values, trained.sizes)
    counted = layout.parts(trained.owners.sum(0))
    for name, (count,), place, whole in zip(layout.parameters, counted, trained.places, values, strict=True):
        share = (whole / count[place]).cpu()
        for own, owned in zip(shares, own_parts(trained.owners, layout, name), strict=True):
            chosen = owned[place].cpu()
            if bool(chosen.any()):
                own[name] = share[chosen].numpy()
    return shares


def own_parts(owners: Tensor, layout: Layout, name: str) -> Iterator[Tensor]:
    """Of each concept, which weights of one parameter it shuts, boolean, (n_i,)."""
    number = list(layout.parameters).index(name)
    return (torch.split(own, layout.sizes)[number] for own in owners)


def vector(layout: Layout, concepts: Sequence[Concept]) -> Tensor:
    """The sum of the floats of `concepts` at their places, (n,), fp32, 0 elsewhere, where vectors lie."""
    parts = []
    for name, parameter in layout.parameters.items():
        part = torch.zeros(parameter.numel())
        for concept in concepts:
            if name in concept.deltas:
                part[torch.from_numpy(concept.indices[name].copy())] += torch.from_numpy(concept.deltas[name].copy())
        parts.append(part.to(layout.device))
    return torch.cat(parts)


def filled(theta: Tensor, layout: Layout, concepts: Sequence[Concept]) -> Tensor:
    """The weights `theta` (n,) with all `concepts` applied at strength 1: zeros, or what their floats add up to."""
    for concept in concepts:
        theta = theta * ~layout.shut(concept.indices)
    return theta + vector(layout, concepts) if any(concept.deltas for concept in concepts) else theta
