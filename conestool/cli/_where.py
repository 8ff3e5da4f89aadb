"""How a concept's neurons crowd in rows and columns."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from conestool.concept import Concept

__all__ = ["FULLEST", "crowding"]

FULLEST = 0.1
"""The share of a tensor's rows, or columns, that count as crowded: those with the most neurons."""


def crowding(concept: Concept, seed: int = 0) -> dict[str, float]:
    """Share of the neurons in the fullest tenth of the rows, and of the columns, of each tensor.

    Rows are a projection's outputs, columns its inputs. `random rows` and `random columns` are the same for as many
    random positions in every tensor: with few neurons the fullest tenth holds more than a tenth of any set.
    """
    rng = np.random.default_rng(seed)
    totals = dict.fromkeys(("rows", "columns", "random rows", "random columns"), 0)
    for param, values in concept.indices.items():
        shape = concept.base.tensors[param] or [1]
        rows, columns = shape[0], prod(shape[1:])
        drawn = rng.integers(rows * columns, size=len(values))
        for name, places in (("", values), ("random ", drawn)):
            totals[f"{name}rows"] += fullest(places // columns, rows)
            totals[f"{name}columns"] += fullest(places % columns, columns)
    return {key: count / max(1, concept.neurons) for key, count in totals.items()}


def fullest(lines: Any, count: int) -> int:
    """How many of `lines`, numbers below `count`, fall on the fullest tenth of all lines, at least on one."""
    found = np.sort(np.unique(lines, return_counts=True)[1])[::-1]  # without room for the empty lines of a giant
    return int(found[: max(1, round(FULLEST * count))].sum())
