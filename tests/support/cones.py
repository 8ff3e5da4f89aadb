"""Concepts without a model behind them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from conestool.concept import BaseModelInfo, Concept, Indices
from conestool.fingerprint import fingerprint

SHAPES = {"up.attn1.to_k.weight": (24, 24), "up.attn1.to_v.weight": (24, 24), "up.attn2.to_k.weight": (24, 40)}


def base(seed: int = 0, shapes: Mapping[str, tuple[int, ...]] = SHAPES, **fields: Any) -> BaseModelInfo:
    """The identity of random weights."""
    rng = np.random.default_rng(seed)
    weights = {param: rng.standard_normal(shape).astype(np.float32) for param, shape in shapes.items()}
    return BaseModelInfo(
        **{"id": "tiny", "family": "stable-diffusion", "dtype": "float32", **fields, **fingerprint(weights)}
    )


def concept(name: str = "dog", identifier: str = "", *, seed: int = 0, share: float = 0.05, **fields: Any) -> Concept:
    """A concept with random indices in every tensor."""
    rng = np.random.default_rng([seed, *name.encode()])
    info = fields.pop("info", None) or base()
    indices: dict[str, Indices] = {}
    for param, shape in info.tensors.items():
        n = prod(shape)
        indices[param] = np.sort(rng.choice(n, round(share * n), replace=False)).astype(np.int32)
    return Concept(name, fields.pop("class_noun", name), identifier or f"sks{name}", indices, info, **fields)
