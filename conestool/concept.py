"""Concepts: a name, an identifier and sets of integers, with everything known of how they were found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conestool._text import check_name, check_words, fold_ascii
from conestool.errors import NameClashError, UsageError
from conestool.records import BaseInfo, ConceptInfo, Origin, size_of

__all__ = ["Concept", "Cone", "Indices", "Section", "check_name", "check_words", "content_id"]

Indices = NDArray[np.int32]
"""Sorted, duplicate-free, row-major positions inside one parameter; dtype int32, shape (k,)."""

_MAX_TENSOR_SIZE = 2**31 - 1
"""The most weights of one tensor, so that a position fits a signed 32-bit integer."""


@dataclass(frozen=True)
class Section:
    """A section behind a concept's indices, kept byte for byte with the unknown fields of its map in the header."""

    type: str
    data: bytes
    unknown_fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Concept:
    """One concept: its name and words, its index sets (param name -> Indices, no empty sets) and its origin.

    `sections` are its other sections, none of which this version knows. `unknown_fields` are those of its map in a
    file, `indices_unknown_fields` those of its section of indices, all kept for writing. Two concepts are equal if they
    have the same indices (by id) and the same metadata.
    """

    name: str
    class_noun: str
    identifier: str
    indices: Mapping[str, Indices]
    base: BaseInfo
    origin: Origin = field(default_factory=Origin)
    unknown_fields: Mapping[str, Any] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()
    indices_unknown_fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)
        check_words("class noun", self.class_noun)
        check_words("identifier", self.identifier)
        kept = {
            param: _checked(param, self.indices[param], self.base)
            for param in sorted(self.indices)
            if len(self.indices[param])
        }
        object.__setattr__(self, "indices", MappingProxyType(kept))

    @property
    def neurons(self) -> int:
        """Number of concept neurons."""
        return sum(len(values) for values in self.indices.values())

    @property
    def density(self) -> float:
        """Fraction of the base model's K/V weights that are neurons, 0 to 1."""
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
        unknown = (dict(self.unknown_fields), self.sections, dict(self.indices_unknown_fields))
        return (*words, self.base, self.origin, *unknown)

    @property
    def info(self) -> ConceptInfo:
        """The same without the index sets."""
        counts = {param: len(values) for param, values in self.indices.items()}
        return ConceptInfo(self.name, self.class_noun, self.identifier, self.id, self.base, self.origin, counts)

    @property
    def phrase(self) -> str:
        """The words that stand for the subject in a prompt, for example "sks dog"."""
        return f"{self.identifier} {self.class_noun}"


@dataclass(frozen=True)
class Cone:
    """What a .cone file holds: one or more concepts, ordered by name, with unique names and identifiers.

    Unique means that they differ when A to Z are taken for a to z. `unknown_fields` are those of a file's header map,
    `minor_version` is the one that a file had: both are kept for writing.
    """

    concepts: tuple[Concept, ...]
    unknown_fields: Mapping[str, Any] = field(default_factory=dict)
    minor_version: int = 0

    def __post_init__(self) -> None:
        if not self.concepts:
            raise UsageError("a .cone needs at least one concept")
        object.__setattr__(self, "concepts", tuple(sorted(self.concepts, key=lambda concept: concept.name)))
        refuse_clash(self.concepts, fold_ascii)

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
        """The concept of this name; failing that, the first whose name differs in case alone."""
        for concept in sorted(self.concepts, key=lambda concept: concept.name != name):
            if concept.name.casefold() == name.casefold():
                return concept
        raise UsageError(f"no concept named {name!r}", f"it holds: {', '.join(self.names)}")


def content_id(indices: Mapping[str, Indices], tensors: Mapping[str, list[int]]) -> str:
    """Sha256 hex over the non-empty index sets; see "Content id" in spec/cone-1.md.

    Per param name in byte order: its length and bytes, the number of dimensions and the shape, k and the positions;
    positions are little-endian u32, all else u64. Compression, metadata and notes have no part in it.
    """
    digest = hashlib.sha256(b"cone-concept-1\0")
    for param in sorted(indices, key=str.encode):
        values, name, shape = indices[param], param.encode(), tensors[param]
        if len(values):
            numbers = [len(shape), *shape, len(values)]
            digest.update(len(name).to_bytes(8, "little") + name)
            digest.update(b"".join(number.to_bytes(8, "little") for number in numbers))
            digest.update(np.ascontiguousarray(values.astype("<i4", copy=False)).data)
    return digest.hexdigest()


def _checked(param: str, values: NDArray[Any], base: BaseInfo) -> Indices:
    """Read-only int32 positions, a copy if somebody could still write to `values`.

    UsageError unless they are sorted unique positions inside the base model's parameter `param`.
    """
    if param not in base.tensors:
        raise UsageError(f"{param} is no K/V weight of the base model {base.id}")
    size = size_of(base.tensors[param])
    if size > _MAX_TENSOR_SIZE:
        raise UsageError(f"{param}: {size} weights, more than the {_MAX_TENSOR_SIZE} of a tensor")
    values = np.asarray(values)
    if values.ndim != 1 or values[0] < 0 or values[-1] >= size or bool((values[1:] <= values[:-1]).any()):
        raise UsageError(f"{param}: indices are not sorted, unique and within 0..{size - 1}")
    out = values.astype(np.int32, copy=values.flags.writeable)
    out.flags.writeable = False
    return out


def refuse_clash(concepts: Iterable[Concept], fold: Callable[[str], str]) -> None:
    """Raise NameClashError if two concepts have the same name or identifier once they are folded."""
    for attribute in ("name", "identifier"):
        seen: dict[str, Concept] = {}
        for concept in concepts:
            key = fold(getattr(concept, attribute))
            if key in seen:
                raise NameClashError(
                    f"two concepts have the {attribute} {key!r}: {seen[key].name} and {concept.name}",
                    f"find one of them again with --{attribute} set to something else",
                )
            seen[key] = concept
