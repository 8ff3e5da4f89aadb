"""Searches of a few steps, and how alike two of them ended."""

from __future__ import annotations

from typing import Any

from conestool import Cone, SearchConfig


def quick(method: str = "mask", steps: int = 3, **changes: Any) -> SearchConfig:
    """A search of a few steps, without pictures of other things unless `changes` say so."""
    short: dict[str, Any] = {
        "batch_size": 2,
        "num_class_images": 4,
        "num_crops": 0,
        "other_class_weight": 0.0,
        "captions": "none",
        "density": 0.02,
    }
    return SearchConfig(method=f"{method},steps={steps}", **(short | changes))


def common(one: Cone, other: Cone) -> float:
    """Share of the indices of the first concept of either that both have."""
    first, second = (
        {(name, index) for name, values in cone.concepts[0].indices.items() for index in values.tolist()}
        for cone in (one, other)
    )
    return len(first & second) / len(first | second)
