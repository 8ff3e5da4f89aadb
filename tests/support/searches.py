"""Searches of a few steps."""

from __future__ import annotations

from typing import Any

from conestool import SearchConfig


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
