"""Digests by rounding: copies in any dtype match, changed models do not, siblings are told apart."""

from __future__ import annotations

import hashlib
import struct
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from conestool.concept import BaseModelInfo
from conestool.fingerprint import ROUNDINGS, Level, bf16, f16, fingerprint, match

Weights = dict[str, NDArray[np.float32]]
SHAPES = {f"block.{i}.attn{j}.to_{kind}.weight": (48, 40) for i in range(8) for j in (1, 2) for kind in "kv"}


def weights(seed: int = 0) -> Weights:
    """32 tensors of the size of weights."""
    rng = np.random.default_rng(seed)
    return {name: (rng.standard_normal(shape) * 0.03).astype(np.float32) for name, shape in SHAPES.items()}


def info(tensors: Weights) -> BaseModelInfo:
    """The description of a model with these weights."""
    return BaseModelInfo(id="m", family="f", dtype="float32", **fingerprint(tensors))


def copies(original: Weights) -> dict[str, Weights]:
    """Copies as torch makes them, all cast up to float32 again; the name says how."""
    half, brain = torch.float16, torch.bfloat16
    chains: dict[str, tuple[torch.dtype, ...]] = {
        "f32": (),
        "f16": (half,),
        "bf16": (brain,),
        "bf16(f16)": (half, brain),
        "f16(bf16)": (brain, half),
    }
    out: dict[str, Weights] = {}
    for name, chain in chains.items():
        out[name] = {}
        for param, values in original.items():
            tensor = torch.from_numpy(values)
            for dtype in chain:
                tensor = tensor.to(dtype)
            out[name][param] = tensor.float().numpy()
    return out


ORIGINAL = weights()
COPIES = copies(ORIGINAL)
INFOS = {name: info(tensors) for name, tensors in COPIES.items()}


def special() -> NDArray[np.float32]:
    """Ties, subnormals, overflow, zeros of both signs, infinities, and random bits."""
    rng = np.random.default_rng(0)
    random_bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    exact = np.array([0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11], np.float32)
    ends = np.array([65504, 65519.996, 65520, 1e30, 3.4e38, np.inf, -np.inf, 2**-24, 2**-25, 6e-8, 1e-40], np.float32)
    values: NDArray[np.float32] = np.concatenate([random_bits, exact, ends])
    return np.asarray(values[~np.isnan(values)], np.float32)


@pytest.mark.parametrize(("rounded", "dtype"), [(f16, torch.float16), (bf16, torch.bfloat16)])
def test_rounds_as_torch_does(rounded: object, dtype: torch.dtype) -> None:
    """Bit for bit, for every kind of value."""
    values = special()
    expected = torch.from_numpy(values).to(dtype).float().numpy()
    found = rounded(values)  # type: ignore[operator]
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_digest_by_hand() -> None:
    """The bytes that the specification lists, for two small tensors."""
    tensors = {"b": np.array([[1.0, -0.0]], np.float32), "a": np.array(0.1, np.float32)}
    fields = fingerprint(tensors)
    of_a = hashlib.sha256(struct.pack("<f", 0.1)).digest()
    of_b = hashlib.sha256(struct.pack("<2f", 1.0, -0.0)).digest()
    head_a = struct.pack("<Q", 1) + b"a" + struct.pack("<Q", 0)
    head_b = struct.pack("<Q", 1) + b"b" + struct.pack("<3Q", 2, 1, 2)
    assert fields["structure"] == hashlib.sha256(b"cone-structure-1\0" + head_a + head_b).hexdigest()
    assert fields["digests"]["f32"] == hashlib.sha256(b"cone-model-1\0" + head_a + of_a + head_b + of_b).hexdigest()
    tenth = 0x3DCD0000
    of_a = hashlib.sha256(struct.pack("<I", tenth)).digest()
    assert fields["digests"]["bf16"] == hashlib.sha256(b"cone-model-1\0" + head_a + of_a + head_b + of_b).hexdigest()
    assert list(fields["tensors"].items()) == [("a", []), ("b", [1, 2])]


def test_does_not_depend_on_order_dtype_or_layout() -> None:
    """Tensors in any order, one at a time, as float16, in column order."""
    half = {name: values.astype(np.float16) for name, values in COPIES["f16"].items()}
    turned = ((name, np.asfortranarray(half[name])) for name in sorted(half, reverse=True))
    assert fingerprint(turned) == fingerprint(COPIES["f16"])


@pytest.mark.parametrize("rounding", list(ROUNDINGS))
def test_the_original_matches_every_copy(rounding: str) -> None:
    """By the rounding that made the copy, in both directions."""
    there, back = match(INFOS["f32"], INFOS[rounding]), match(INFOS[rounding], INFOS["f32"])
    assert there == back and there.accepted
    assert there.level is (Level.EQUAL if rounding == "f32" else Level.EQUAL_AT)
    assert there.rounding == (None if rounding == "f32" else rounding)


def test_copies_of_copies_siblings_and_other_models_are_told_apart() -> None:
    """bf16 of a float16 copy is equal at bfloat16 to that copy; a float16 and a bfloat16 copy of one model are not."""
    found = match(INFOS["f16"], INFOS["bf16(f16)"])
    assert (found.level, found.rounding, found.text) == (Level.EQUAL_AT, "bf16", "equal at bfloat16")
    assert match(INFOS["f16(bf16)"], INFOS["bf16"]).level in (Level.EQUAL, Level.EQUAL_AT)
    siblings = match(INFOS["f16"], INFOS["bf16"])
    assert siblings == match(INFOS["bf16"], INFOS["f16"]) and not siblings.accepted
    assert (siblings.level, siblings.text) == (Level.DIFFERENT, "different weights")
    other = copies(weights(1))
    for one, two in product(("f16", "bf16"), repeat=2):
        assert match(INFOS[one], info(other[two])).level is Level.DIFFERENT
    found = match(INFOS["f32"], info({name: values[:, :20] for name, values in ORIGINAL.items()}))
    assert found.level is Level.DIFFERENT and "layers or shapes" in found.text


def noise(tensors: Weights) -> Weights:
    """Relative noise of 1e-4 on all weights."""
    rng = np.random.default_rng(9)
    return {n: (v * (1 + 1e-4 * rng.standard_normal(v.shape))).astype(np.float32) for n, v in tensors.items()}


def one_tensor(tensors: Weights) -> Weights:
    """One changed tensor of 32."""
    name = sorted(tensors)[5]
    return {**tensors, name: (tensors[name] * np.float32(1.001)).astype(np.float32)}


def one_zero(tensors: Weights) -> Weights:
    """One weight set to zero, as the smallest concept would."""
    name = sorted(tensors)[5]
    changed = tensors[name].copy()
    changed[0, 0] = 0
    return {**tensors, name: changed}


def fine_tuned(tensors: Weights) -> Weights:
    """Every weight moved by 1e-3 of the weights' size, as light fine-tuning does."""
    rng = np.random.default_rng(8)
    return {n: (v + 3e-5 * rng.standard_normal(v.shape)).astype(np.float32) for n, v in tensors.items()}


CHANGES = [noise, one_tensor, one_zero, fine_tuned]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("rounding", list(ROUNDINGS))
def test_a_changed_model_is_different(change: object, rounding: str) -> None:
    """In every dtype."""
    changed = info(copies(change(ORIGINAL))[rounding])  # type: ignore[operator]
    assert {match(INFOS[other], changed).level for other in INFOS} == {Level.DIFFERENT}
