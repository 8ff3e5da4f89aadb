"""Whether two descriptions are of the same base model, in whatever dtype and packaging; numpy only.

Definitions: spec/cone-1.md, "Model identity". Tolerances cannot do this, because rounding to bfloat16 moves weights
more than a light fine-tune does; exact digests of every rounding can, because rounding is deterministic.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conestool.records import BaseInfo, sample_positions, size_of

__all__ = ["RUNGS", "Fingerprint", "Level", "Match", "bf16", "f16", "fingerprint", "match", "sample_positions"]

Floats = NDArray[np.float32]

CHUNK = 1 << 20
TINY = np.float32(2.0**-25)
"""The largest magnitude that float16 rounds to zero."""


def f16(values: Floats) -> Floats:
    """Values rounded to float16 (to nearest, ties to even), as float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float16).astype(np.float32)


def bf16(values: Floats) -> Floats:
    """Values rounded to bfloat16 (to nearest, ties to even), as float32; NaN becomes 0x7FC00000."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return quiet(np.where(np.isnan(values), np.uint32(0x7FC00000), rounded).view(np.float32))


def quiet(values: Floats) -> Floats:
    """Every NaN as the same one, 0x7FC00000, so that digests do not depend on NaN payloads."""
    bad = np.isnan(values)
    if bad.any():
        values = values.copy()
        values.view(np.uint32)[bad] = 0x7FC00000
    return values


RUNGS: Mapping[str, Callable[[Floats], Floats]] = {
    "f32": lambda w: w,
    "f16": f16,
    "bf16": bf16,
    "bf16(f16)": lambda w: bf16(f16(w)),
    "f16(bf16)": lambda w: f16(bf16(w)),
}
"""The digest ladder: each way in which a copy of a model may have been rounded."""


@dataclass
class Fingerprint:
    """Takes a model's K/V weights one tensor at a time, in any order; `fields` are the entries of BaseInfo."""

    tensors: dict[str, list[int]] = field(default_factory=dict)
    hashes: dict[str, dict[str, bytes]] = field(default_factory=lambda: {rung: {} for rung in RUNGS})
    zeros: dict[str, int] = field(default_factory=dict)
    samples: dict[str, bytes] = field(default_factory=dict)

    def add(self, param: str, values: NDArray[Any]) -> None:
        """Take one tensor, of any float dtype of numpy (torch's bfloat16 goes through float32, which is exact)."""
        shape = list(values.shape)
        flat = np.ascontiguousarray(values).reshape(-1)
        digests = {rung: hashlib.sha256() for rung in RUNGS}
        zeros = 0
        for start in range(0, len(flat), CHUNK):
            chunk = flat[start : start + CHUNK].astype("<f4")
            zeros += int(np.count_nonzero(np.abs(chunk) <= TINY))
            for rung, rounded in RUNGS.items():
                digests[rung].update(quiet(rounded(chunk)).astype("<f4", copy=False).tobytes())
        self.tensors[param], self.zeros[param] = shape, zeros
        self.samples[param] = quiet(flat[sample_positions(len(flat))].astype(np.float32)).astype("<f4").tobytes()
        for rung, digest in digests.items():
            self.hashes[rung][param] = digest.digest()

    def fields(self) -> dict[str, Any]:
        """`structure`, `tensors`, `digests`, `zeros` and `samples` of BaseInfo, sorted by param name.

        No samples at all if one of them is NaN or infinite.
        """
        params = sorted(self.tensors, key=str.encode)
        samples = {param: self.samples[param] for param in params}
        finite = all(np.isfinite(np.frombuffer(sample, "<f4")).all() for sample in samples.values())
        return {
            "structure": joined(b"cone-structure-1\0", self.tensors),
            "tensors": {param: self.tensors[param] for param in params},
            "digests": {rung: joined(b"cone-model-1\0", self.tensors, hashes) for rung, hashes in self.hashes.items()},
            "zeros": {param: self.zeros[param] for param in params},
            "samples": samples if finite else {},
        }


def fingerprint(weights: Mapping[str, NDArray[Any]] | Iterable[tuple[str, NDArray[Any]]]) -> dict[str, Any]:
    """The fields of BaseInfo that come from weights (param name -> array), taken one tensor at a time."""
    taken = Fingerprint()
    for param, values in weights.items() if isinstance(weights, Mapping) else weights:
        taken.add(param, values)
    return taken.fields()


def joined(prefix: bytes, tensors: Mapping[str, list[int]], hashes: Mapping[str, bytes] | None = None) -> str:
    """Sha256 hex of `prefix` and, per param in byte order, name length, name, dimensions, shape and hash."""
    digest = hashlib.sha256(prefix)
    for param in sorted(tensors, key=str.encode):
        name, shape = param.encode(), tensors[param]
        digest.update(len(name).to_bytes(8, "little") + name)
        digest.update(b"".join(number.to_bytes(8, "little") for number in [len(shape), *shape]))
        digest.update(hashes[param] if hashes else b"")
    return digest.hexdigest()


class Level(enum.Enum):
    """How sure it is that two descriptions are of the same weights."""

    EQUAL = "equal"
    EQUAL_AT = "equal at"
    PROBABLE = "probable"
    DIFFERENT = "different"


@dataclass(frozen=True)
class Match:
    """The outcome of a comparison: the level, the rung for EQUAL_AT, and what to tell a person."""

    level: Level
    text: str
    rung: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether concepts of the one may be used on the other."""
        return self.level is not Level.DIFFERENT


def match(info: BaseInfo, other: BaseInfo) -> Match:
    """Compare two base models; symmetric. See spec/cone-1.md, "Comparing two models"."""
    if info.structure != other.structure or info.tensors != other.tensors:
        return Match(Level.DIFFERENT, "different: other layers or shapes of K/V weights")
    mine, theirs = info.digests.get("f32"), other.digests.get("f32")
    if mine is not None and mine == theirs:
        return Match(Level.EQUAL, "equal")
    for rung in list(RUNGS)[1:]:
        if theirs is not None and info.digests.get(rung) == theirs:
            return Match(Level.EQUAL_AT, f"equal at {LONG[rung]}", rung)
        if mine is not None and other.digests.get(rung) == mine:
            return Match(Level.EQUAL_AT, f"equal at {LONG[rung]}", rung)
    return siblings(info, other)


LONG = {
    "f16": "float16",
    "bf16": "bfloat16",
    "bf16(f16)": "bfloat16 of float16",
    "f16(bf16)": "float16 of bfloat16",
}


def siblings(info: BaseInfo, other: BaseInfo) -> Match:
    """PROBABLE if both are rounded, differently, and all samples and zero counts allow one original for both."""
    if not info.samples or info.samples.keys() != other.samples.keys() or info.zeros.keys() != other.zeros.keys():
        return Match(Level.DIFFERENT, "different weights")
    mine, theirs = precision(info), precision(other)
    more = {param: other.zeros[param] - count for param, count in info.zeros.items()}
    agreed = agreement(info, other, mine, theirs)
    if abs(sum(more.values())) > 2 + info.weights() // 2**14 and agreed > 0.75:
        return Match(Level.DIFFERENT, "different: many weights of one are zero in the other (a patched model?)")
    rounded = bool(mine and theirs) and (mine != theirs or len(mine) == 2)
    allowed = all(abs(extra) <= 2 + size_of(info.tensors[param]) // 2**16 for param, extra in more.items())
    if rounded and allowed and agreed == 1:
        return Match(Level.PROBABLE, "probably the same model in another dtype (not verified)")
    return Match(Level.DIFFERENT, "different weights")


def precision(info: BaseInfo) -> frozenset[str]:
    """The rounded dtypes that hold every weight exactly: a subset of f16 and bf16."""
    return frozenset(rung for rung in ("f16", "bf16") if info.digests.get(rung) == info.digests.get("f32"))


def agreement(info: BaseInfo, other: BaseInfo, mine: frozenset[str], theirs: frozenset[str]) -> float:
    """Share of the samples whose rounding intervals overlap, 0 to 1."""
    params = sorted(info.samples)
    a, b = (np.frombuffer(b"".join(x.samples[param] for param in params), "<f4") for x in (info, other))
    if a.shape != b.shape:
        return 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return float(np.mean(np.abs(a - b) <= half(a, mine) + half(b, theirs)))


def half(values: NDArray[np.float64], dtypes: frozenset[str]) -> NDArray[np.float64]:
    """Half a unit in the last place of each dtype, summed: how far the original may have been from `values`."""
    exponent = np.where(values == 0, -1000, np.frexp(values)[1] - 1)
    total = np.zeros_like(values)
    if "f16" in dtypes:
        total += np.ldexp(1.0, np.maximum(exponent, -14) - 11)
    if "bf16" in dtypes:
        total += np.ldexp(1.0, np.maximum(exponent, -126) - 8)
    return total
