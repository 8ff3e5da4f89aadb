"""Concepts: a name, an identifier and sets of integers, with everything known of how they were found."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conestool.errors import NameClashError, UsageError
from conestool.records import BaseInfo, Origin, size_of
from conestool.text import check_name, check_words

__all__ = ["Concept", "Cone", "Indices", "Part", "check_name", "check_words", "content_id"]

Indices = NDArray[np.int64]
"""Sorted, duplicate-free, row-major positions inside one parameter; dtype int64, shape (k,)."""

TENSOR_SIZE = 2**31 - 1
"""The most weights of one tensor, so that a position fits a signed 32-bit integer."""


@dataclass(frozen=True)
class Part:
    """A section behind a concept's indices, kept byte for byte with its header's unknown keys."""

    type: str
    data: bytes
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Concept:
    """One concept: its name and words, its index sets (param name -> Indices, no empty sets) and its origin.

    `parts` hold its other sections, none of which this version knows. `extra` holds unknown optional keys of a file,
    `section` those that its section of indices has, all kept for writing. Two concepts are equal if they have the same
    indices (by id) and the same metadata.
    """

    name: str
    class_noun: str
    identifier: str
    indices: Mapping[str, Indices]
    base: BaseInfo
    origin: Origin = field(default_factory=Origin)
    extra: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    section: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)
        check_words("class noun", self.class_noun)
        check_words("identifier", self.identifier)
        kept = {key: freeze(self.indices[key]) for key in sorted(self.indices) if len(self.indices[key])}
        for param, values in kept.items():
            check_indices(param, values, self.base)
        object.__setattr__(self, "indices", MappingProxyType(kept))

    @property
    def neurons(self) -> int:
        """Number of concept neurons."""
        return sum(len(values) for values in self.indices.values())

    @property
    def density(self) -> float:
        """Fraction of the base model's K/V weights that are shut, 0 to 1."""
        return self.neurons / max(1, self.base.weights())

    @cached_property
    def id(self) -> str:
        """Content id: sha256 hex over the index sets alone; see "Content id" in spec/cone-1.md."""
        return content_id(self.indices, self.base.tensors)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Concept):
            return NotImplemented
        return self.id == other.id and self.metadata == other.metadata

    def __hash__(self) -> int:
        return hash((self.id, self.name))

    @property
    def metadata(self) -> tuple[Any, ...]:
        """Everything but the index sets, for comparison."""
        words = (self.name, self.class_noun, self.identifier)
        return (*words, self.base, self.origin, dict(self.extra), self.parts, dict(self.section))

    @property
    def phrase(self) -> str:
        """The words that stand for the subject in a prompt, for example "sks dog"."""
        return f"{self.identifier} {self.class_noun}"


@dataclass(frozen=True)
class Cone:
    """What a .cone file holds: one or more concepts, ordered by name, with unique names and identifiers.

    `extra` holds unknown optional header keys of a file, kept for writing.
    """

    concepts: tuple[Concept, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.concepts:
            raise UsageError("a .cone needs at least one concept")
        object.__setattr__(self, "concepts", tuple(sorted(self.concepts, key=lambda concept: concept.name)))
        refuse_clash(self.concepts, "name")
        refuse_clash(self.concepts, "identifier")

    @property
    def base(self) -> BaseInfo:
        """The base model of the first concept; those of the others match it (merge sees to that)."""
        return self.concepts[0].base

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts' names, in order."""
        return tuple(concept.name for concept in self.concepts)

    @property
    def id(self) -> str:
        """Content id: sha256 hex over the sorted content ids of the concepts, so order and grouping do not matter."""
        digest = hashlib.sha256(b"cone-file-1\0")
        for concept_id in sorted(concept.id for concept in self.concepts):
            digest.update(bytes.fromhex(concept_id))
        return digest.hexdigest()

    def __getitem__(self, name: str) -> Concept:
        for concept in self.concepts:
            if concept.name.casefold() == name.casefold():
                return concept
        raise UsageError(f"no concept named {name!r}", f"it holds: {', '.join(self.names)}")


def content_id(indices: Mapping[str, Indices], tensors: Mapping[str, list[int]]) -> str:
    """Sha256 hex over the non-empty index sets: per param name in byte order, its length and bytes, the number of
    dimensions and the shape, k and the positions; positions are little-endian u32, all else u64.

    Compression, metadata and notes have no part in it (format.md, requirement 8).
    """
    digest = hashlib.sha256(b"cone-concept-1\0")
    for param in sorted(indices, key=str.encode):
        values, name, shape = indices[param], param.encode(), tensors[param]
        if len(values):
            numbers = [len(shape), *shape, len(values)]
            digest.update(len(name).to_bytes(8, "little") + name)
            digest.update(b"".join(number.to_bytes(8, "little") for number in numbers))
            digest.update(np.ascontiguousarray(values, dtype="<u4").data)
    return digest.hexdigest()


def freeze(values: Indices) -> Indices:
    """A read-only int64 view of `values`, a copy if somebody could still write to them."""
    array = np.asarray(values, dtype=np.int64)
    out = array.copy() if array.flags.writeable else array.view()
    out.flags.writeable = False
    return out


def check_indices(param: str, values: Indices, base: BaseInfo) -> None:
    """Raise UsageError unless `values` are sorted unique positions inside the base model's parameter `param`."""
    if param not in base.tensors:
        raise UsageError(f"{param} is no K/V weight of the base model {base.id}")
    size = size_of(base.tensors[param])
    if size > TENSOR_SIZE:
        raise UsageError(f"{param}: {size} weights, more than the {TENSOR_SIZE} of a tensor")
    if values.ndim != 1 or values[0] < 0 or values[-1] >= size or bool((values[1:] <= values[:-1]).any()):
        raise UsageError(f"{param}: indices are not sorted, unique and within 0..{size - 1}")


def refuse_clash(concepts: Iterable[Concept], attribute: str) -> None:
    """Raise NameClashError if two concepts have the same `attribute` (case aside)."""
    seen: dict[str, Concept] = {}
    for concept in concepts:
        key = str(getattr(concept, attribute)).casefold()
        if key in seen:
            raise NameClashError(
                f"two concepts have the {attribute} {key!r}: {seen[key].name} and {concept.name}",
                f"find one of them again with --{attribute} set to something else",
            )
        seen[key] = concept
