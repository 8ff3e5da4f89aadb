"""From what is read in pictures to figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.identity.subjects import LineUp
from conestool.evaluation.attribute_metric import kept
from conestool.evaluation.judge import Reading

Thing = Mapping[str, str]


def subject_in(reading: Reading, wanted: Mapping[str, str]) -> int:
    """Return the place of the thing that has most of the wanted attributes."""
    return max(range(len(reading.things)), key=lambda place: kept(reading.things[place], wanted))


def chosen_by_attributes(thing: Thing, line_up: LineUp) -> float:
    """Return 1 if the subject has more of what is read than any other of the line-up; ties share."""
    shares = [kept(thing, each) for each in line_up.attributes]
    best = max(shares)
    return (shares[0] == best) / shares.count(best)


def chosen_by_features(features: Tensor, line_up: LineUp) -> Tensor:
    """Return for features (N, 256) whether the subject's are the nearest of the line-up, by cosine about its centre."""
    near = F.normalize(features - line_up.centre, dim=1) @ F.normalize(line_up.features - line_up.centre, dim=1).T
    return (near.argmax(1) == 0).float()


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard error in per cent of values in [0, 1]; NaN are left out."""
    found = torch.tensor([value for value in values if not math.isnan(value)], dtype=torch.float64)
    if not len(found):
        return math.nan, math.nan
    return float(100 * found.mean()), float(100 * found.std(correction=0) / len(found) ** 0.5)


def entropy(values: Sequence[str]) -> float:
    """Return the entropy in nats of how often each value comes."""
    return -sum(n / len(values) * math.log(n / len(values)) for n in Counter(values).values())


def variety(things: Sequence[Thing], names: Sequence[str]) -> float:
    """Return the mean entropy of the attributes of several individuals."""
    return sum(entropy([thing[name] for thing in things]) for name in names) / len(names)


def row(name: str, goal: str, value: float, met: bool | None, **more: float) -> dict[str, Any]:
    """Return a row of identity.json; `met` is None where nothing is asked or measured, and so are infinite numbers."""
    first, *rest = (round(each, 2) if math.isfinite(each) else None for each in (value, *more.values()))
    told = {"name": name, "goal": goal, "value": first, "met": None if math.isnan(value) else met}
    return told | dict(zip(more, rest, strict=True))
