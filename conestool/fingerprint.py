"""Whether two descriptions are of the same base model, in whatever dtype and packaging; numpy only.

Definitions: spec/cone-1.md, "Model identity". Tolerances cannot do this, because rounding to bfloat16 moves weights
more than a light fine-tune does; exact digests of every rounding can, because rounding is deterministic.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conestool.concept import BaseModelInfo

_Floats = NDArray[np.float32]

_CHUNK = 1 << 20


def f16(values: _Floats) -> _Floats:
    """Values rounded to float16 (to nearest, ties to even), as float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float16).astype(np.float32)


def bf16(values: _Floats) -> _Floats:
    """Values rounded to bfloat16 (to nearest, ties to even), as float32; NaN becomes 0x7FC00000."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return _canonical_nan(np.where(np.isnan(values), np.uint32(0x7FC00000), rounded).view(np.float32))


def _canonical_nan(values: _Floats) -> _Floats:
    """Every NaN as the same one, 0x7FC00000, so that digests do not depend on NaN payloads."""
    bad = np.isnan(values)
    if bad.any():
        values = values.copy()
        values.view(np.uint32)[bad] = 0x7FC00000
    return values


ROUNDINGS: Mapping[str, Callable[[_Floats], _Floats]] = {
    "f32": lambda w: w,
    "f16": f16,
    "bf16": bf16,
    "bf16(f16)": lambda w: bf16(f16(w)),
    "f16(bf16)": lambda w: f16(bf16(w)),
}
"""Each way in which a copy of a model may have been rounded; there is a digest for each."""


def fingerprint(weights: Mapping[str, NDArray[Any]] | Iterable[tuple[str, NDArray[Any]]]) -> dict[str, Any]:
    """`structure`, `tensors` and `digests` of BaseModelInfo, from a model's K/V weights (param name -> array).

    Tensors are taken one at a time, in any order, and may have any float dtype of numpy (torch's bfloat16 goes through
    float32, which is exact).
    """
    tensors: dict[str, list[int]] = {}
    hashes: dict[str, dict[str, bytes]] = {rounding: {} for rounding in ROUNDINGS}
    for param, values in weights.items() if isinstance(weights, Mapping) else weights:
        tensors[param] = list(values.shape)
        for rounding, digest in _tensor_digests(values).items():
            hashes[rounding][param] = digest
    return {
        "structure": _combined_digest(b"cone-structure-1\0", tensors),
        "tensors": {param: tensors[param] for param in sorted(tensors, key=str.encode)},
        "digests": {rounding: _combined_digest(b"cone-model-1\0", tensors, hashes[rounding]) for rounding in ROUNDINGS},
    }


def _tensor_digests(values: NDArray[Any]) -> dict[str, bytes]:
    """The sha256 of one tensor at every rounding."""
    flat = np.ascontiguousarray(values).reshape(-1)
    digests = {rounding: hashlib.sha256() for rounding in ROUNDINGS}
    for start in range(0, len(flat), _CHUNK):
        chunk = flat[start : start + _CHUNK].astype("<f4")
        for rounding, rounded in ROUNDINGS.items():
            digests[rounding].update(_canonical_nan(rounded(chunk)).astype("<f4", copy=False).tobytes())
    return {rounding: digest.digest() for rounding, digest in digests.items()}


def _combined_digest(prefix: bytes, tensors: Mapping[str, list[int]], hashes: Mapping[str, bytes] | None = None) -> str:
    """Sha256 hex of `prefix` and, per param in byte order, name length, name, dimensions, shape and hash."""
    digest = hashlib.sha256(prefix)
    for param in sorted(tensors, key=str.encode):
        name, shape = param.encode(), tensors[param]
        digest.update(len(name).to_bytes(8, "little") + name)
        digest.update(b"".join(number.to_bytes(8, "little") for number in [len(shape), *shape]))
        digest.update(hashes[param] if hashes else b"")
    return digest.hexdigest()


class Level(enum.Enum):
    """How two descriptions of a base model compare."""

    EQUAL = "equal"
    EQUAL_AT = "equal at"
    DIFFERENT = "different"


@dataclass(frozen=True)
class Match:
    """The outcome of a comparison: the level, the rounding for EQUAL_AT, and what to tell a person."""

    level: Level
    text: str
    rounding: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether concepts of the one may be used on the other."""
        return self.level is not Level.DIFFERENT


def match(info: BaseModelInfo, other: BaseModelInfo) -> Match:
    """Compare two base models; symmetric. See spec/cone-1.md, "Comparing two models"."""
    if info.structure != other.structure or info.tensors != other.tensors:
        return Match(Level.DIFFERENT, "different: other layers or shapes of K/V weights")
    mine, theirs = info.digests.get("f32"), other.digests.get("f32")
    if mine is not None and mine == theirs:
        return Match(Level.EQUAL, "equal")
    for rounding in list(ROUNDINGS)[1:]:
        if theirs is not None and info.digests.get(rounding) == theirs:
            return Match(Level.EQUAL_AT, f"equal at {_ROUNDING_NAMES[rounding]}", rounding)
        if mine is not None and other.digests.get(rounding) == mine:
            return Match(Level.EQUAL_AT, f"equal at {_ROUNDING_NAMES[rounding]}", rounding)
    return Match(Level.DIFFERENT, "different weights")


_ROUNDING_NAMES = {
    "f16": "float16",
    "bf16": "bfloat16",
    "bf16(f16)": "bfloat16 of float16",
    "f16(bf16)": "float16 of bfloat16",
}
