"""Digests and verdicts of base models, on the vectors that the independent implementation made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conestool.concept import BaseModelInfo
from conestool.fingerprint import fingerprint, match
from spec.reference import identity

VECTORS = json.loads((Path(__file__).parents[2] / "spec/vectors/identity.json").read_text(encoding="utf-8"))


def described(name: str, lacking: list[str], altered: dict[str, str]) -> BaseModelInfo:
    """What is known of a model, without the digests at some roundings, some fields from other models."""
    models = VECTORS["models"]
    model = models[name] | {key: models[other][key] for key, other in altered.items()}
    tensors = {param: tensor["shape"] for param, tensor in model["tensors"].items()}
    digests = {rounding: digest for rounding, digest in model["digests"].items() if rounding not in lacking}
    words = {"id": name, "family": "stable-diffusion", "dtype": "float32", "structure": model["structure"]}
    return BaseModelInfo(**words, tensors=tensors, digests=digests)


@pytest.mark.parametrize("name", VECTORS["models"])
def test_structure_and_digests(name: str) -> None:
    """Of weights given by their bits: ties, subnormals, NaNs, what overflows."""
    model = VECTORS["models"][name]
    weights = {
        param: np.array([int(bits, 16) for bits in tensor["bits"]], np.uint32).view(np.float32).reshape(tensor["shape"])
        for param, tensor in model["tensors"].items()
    }
    found = fingerprint(weights)
    assert found["structure"] == model["structure"]
    assert found["digests"] == model["digests"]


@pytest.mark.parametrize("pair", VECTORS["pairs"], ids=lambda pair: ", ".join(map(str, pair.values())))
@pytest.mark.parametrize("turn", [1, -1])
def test_verdicts(pair: dict[str, Any], turn: int) -> None:
    """The same in both directions, by both implementations; a rounding that is missing decides nothing."""
    pairs = [described(pair["x"], pair["lacking"], {}), described(pair["y"], pair["lacking"], pair["altered"])]
    x, y = pairs[::turn]
    found = match(x, y)
    assert (f"equal at {found.rounding}" if found.rounding else found.level.value) == pair["verdict"]
    assert identity.verdict(x.model_dump(), y.model_dump()) == pair["verdict"]
