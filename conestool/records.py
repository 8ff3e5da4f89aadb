"""What is known of a concept and of its base model: frozen records of metadata, without numpy.

A header is read with this alone, so that commands which need no index set start without numpy.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = [
    "BaseInfo",
    "ConceptInfo",
    "Hash",
    "Losses",
    "Origin",
    "Record",
    "layer_of",
    "plain",
    "size_of",
]

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A sha256 in lower-case hex."""


class Record(BaseModel):
    """A frozen map of metadata; keys it does not know are kept as they are."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)


class Losses(Record):
    """Mean losses on fixed noise before and after shutting (same timesteps and noise in every pair of numbers).

    `held_out` and `class_` are the instance and the class term of L_con, without lambda; `random` is the instance
    term with the same number of random indices per tensor shut. None where it was not measured.
    """

    held_out_before: float | None = None
    held_out_after: float | None = None
    random_after: float | None = None
    no_identifier_before: float | None = None
    no_identifier_after: float | None = None
    class_before: float | None = None
    class_after: float | None = None


class Origin(Record):
    """How one concept was found. It holds no path, no EXIF and no time, so that equal runs give equal files.

    `photos` are sha256 hex digests of the photos' upright RGB pixels, `held_out` how many of them the report kept back
    (0: the report used augmented copies), `parameters` everything the method was given or chose, `versions` the tool's
    and its libraries' versions, `warnings` what the finder doubted.
    """

    instance_prompt: str | None = None
    class_prompt: str | None = None
    method: str | None = None
    parameters: dict[str, Any] = {}
    seed: int | None = None
    photos: Annotated[list[Hash], Field(fail_fast=True)] = []
    held_out: int | None = None
    losses: Losses | None = None
    versions: dict[str, str] = {}
    warnings: Annotated[list[str], Field(fail_fast=True)] = []
    notes: str | None = None
    license: str | None = None
    author: str | None = None

    @field_validator("parameters", mode="before")
    @classmethod
    def plain_parameters(cls, value: Any) -> Any:
        """Tuples become lists and numpy scalars Python's, as they will be when read back from a file."""
        return plain(value)


class BaseInfo(Record):
    """The base model that a concept was found on; see "Model identity" in spec/cone-1.md.

    `tensors` maps each K/V param name to its shape, `digests` the rungs of the digest ladder to sha256 hex.
    conestool.fingerprint computes both, and `structure`.
    """

    id: str
    revision: str | None = None
    family: str
    dtype: str
    structure: Hash
    tensors: dict[str, list[int]]
    digests: dict[str, Hash]

    def weights(self) -> int:
        """Number of K/V weights of the model."""
        return sum(size_of(shape) for shape in self.tensors.values())


@dataclass(frozen=True)
class ConceptInfo:
    """A concept without its index sets, as a header tells it; `counts` is its number of neurons by param name."""

    name: str
    class_noun: str
    identifier: str
    id: str
    base: BaseInfo
    origin: Origin
    counts: Mapping[str, int]

    @property
    def neurons(self) -> int:
        """Number of concept neurons."""
        return sum(self.counts.values())

    @property
    def density(self) -> float:
        """Fraction of the base model's K/V weights that are neurons, 0 to 1."""
        return self.neurons / max(1, self.base.weights())

    @property
    def phrase(self) -> str:
        """The words that stand for the subject in a prompt, for example "sks dog"."""
        return f"{self.identifier} {self.class_noun}"


def plain(value: Any) -> Any:
    """`value` with tuples as lists and numpy scalars as Python's, all the way down."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.item() if is_numpy_scalar(value) else value


def is_numpy_scalar(value: Any) -> bool:
    """Whether `value` is numpy's; only somebody who has loaded numpy can have made one."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic)


def size_of(shape: Iterable[int]) -> int:
    """Number of weights of a tensor; 1 for a shape without dimensions."""
    return prod(shape)


def layer_of(param: str) -> str:
    """The attention layer of a K/V param name: all before `.to_k.weight` and the like."""
    return param.rsplit(".", 2)[0]
