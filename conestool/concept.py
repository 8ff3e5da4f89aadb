"""Concepts: a name, an identifier and sets of integers, with everything known of how they were found.

A header is read with the records of metadata alone (`ConceptInfo` and those that it holds), so numpy is imported where
index sets are: commands which need none start without it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator

from conestool._display import concept_html
from conestool._names import has_word, nearest, rewrite
from conestool._text import check_name, check_prompt, check_words, fold, fold_ascii
from conestool.errors import NameClashError, PromptError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Indices: TypeAlias = "NDArray[np.int32]"
"""Sorted, duplicate-free, row-major positions inside one parameter; dtype int32, shape (k,)."""

_MAX_TENSOR_SIZE = 2**31 - 1
"""The most weights of one tensor, so that a position fits a signed 32-bit integer."""

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A sha256 in lower-case hex."""


class Record(BaseModel):
    """A frozen map of metadata; keys it does not know are kept as they are."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)


class Losses(Record):
    """Mean losses on fixed noise before and after zeroing (same timesteps and noise in every pair of numbers).

    `held_out` and `class_` are the instance and the class term of L_con, without lambda; `random` is the instance
    term with the same number of random indices per tensor zeroed. None where it was not measured.
    """

    held_out_before: float | None = None
    held_out_after: float | None = None
    random_after: float | None = None
    no_identifier_before: float | None = None
    no_identifier_after: float | None = None
    class_before: float | None = None
    class_after: float | None = None


class Provenance(Record):
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
        return to_builtin(value)


class BaseModelInfo(Record):
    """The base model that a concept was found on; see "Model identity" in spec/cone-1.md.

    `tensors` maps each K/V param name to its shape, `digests` the digests by rounding, as sha256 hex.
    conestool.fingerprint computes both, and `structure`.
    """

    id: str
    revision: str | None = None
    family: str
    dtype: str
    structure: Hash
    tensors: dict[str, list[int]]
    digests: dict[str, Hash]

    def __repr__(self) -> str:
        """Id, family and dtype, and the number of K/V weights; the digests are in the fields."""
        return f"BaseModelInfo({self.id!r}, {self.family}, {self.dtype}, {self.num_weights:,} K/V weights)"

    @property
    def num_weights(self) -> int:
        """Number of K/V weights of the model."""
        return sum(numel(shape) for shape in self.tensors.values())


@dataclass(frozen=True)
class ConceptInfo:
    """A concept without its index sets, as a header tells it; `counts` is its number of neurons by param name."""

    name: str
    class_noun: str
    identifier: str
    id: str
    base: BaseModelInfo
    origin: Provenance
    counts: Mapping[str, int]

    def __repr__(self) -> str:
        """Name, words, neurons and base model."""
        return f"ConceptInfo({summary(self)})"

    @property
    def neurons(self) -> int:
        """Number of concept neurons."""
        return sum(self.counts.values())

    @property
    def density(self) -> float:
        """Fraction of the base model's K/V weights that are neurons, 0 to 1."""
        return self.neurons / max(1, self.base.num_weights)

    @property
    def phrase(self) -> str:
        """The words that stand for the subject in a prompt, for example "sks dog"."""
        return f"{self.identifier} {self.class_noun}"


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
    base: BaseModelInfo
    origin: Provenance = field(default_factory=Provenance)
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

    def __repr__(self) -> str:
        """Name, words, neurons and base model."""
        return f"Concept({summary(self)})"

    def _repr_html_(self) -> str:
        """What a notebook shows: name, words, neurons, losses, and a bar for each layer."""
        return repr_html(self.info)

    @property
    def neurons(self) -> int:
        """Number of concept neurons."""
        return sum(len(values) for values in self.indices.values())

    @property
    def density(self) -> float:
        """Fraction of the base model's K/V weights that are neurons, 0 to 1."""
        return self.neurons / max(1, self.base.num_weights)

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

    def __repr__(self) -> str:
        """Every concept in a word or two, and the base model."""
        parts = (f"{one.name}: {one.phrase!r}, {one.neurons:,} neurons" for one in self.concepts)
        return f"Cone({'; '.join(parts)}; on {self.base.id!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows: every concept."""
        return "".join(repr_html(one.info) for one in self.concepts)

    @property
    def base(self) -> BaseModelInfo:
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

    def prompt(self, text: str) -> str:
        """`text` as a pipeline with these concepts needs it, each name replaced by its identifier and class noun.

        "a dog in a hat" becomes "a sks dog in a zwx hat", as `render` sends it. PromptError for an empty prompt, or one
        that names none of the concepts, which then would change a picture without being in it.
        """
        sent = rewrite(check_prompt(text), self.concepts)
        if not any(has_word(sent, concept.identifier) for concept in self.concepts):
            meant = nearest(text, self.concepts)
            hint = f"did you mean {meant}? " if meant else ""
            raise PromptError(f"{text!r} names no concept", f"{hint}it holds: {', '.join(self.names)}")
        return sent

    def __getitem__(self, name: str) -> Concept:
        """The concept of this name; failing that, the first whose name differs in case or Unicode form alone."""
        for concept in sorted(self.concepts, key=lambda concept: concept.name != name):
            if fold(concept.name) == fold(name):
                return concept
        raise UsageError(f"no concept named {name!r}", f"it holds: {', '.join(self.names)}")


def summary(concept: Concept | ConceptInfo) -> str:
    """What a person wants to know of a concept first."""
    return (
        f"{concept.name!r}: {concept.phrase!r}, {concept.neurons:,} neurons ({concept.density:.2%}) "
        f"on {concept.base.id!r}, id {concept.id[:10]}"
    )


def repr_html(concept: ConceptInfo) -> str:
    """Name, words, neurons, losses and layers as HTML; whatever the texts hold stays text."""
    found = concept.origin.losses
    pairs = {
        "photos": (found and found.held_out_before, found and found.held_out_after),
        "random weights": (found and found.held_out_before, found and found.random_after),
        "class": (found and found.class_before, found and found.class_after),
    }
    losses = [f"{name} {after / before - 1:+.1%}" for name, (before, after) in pairs.items() if before and after]
    rows = {
        "in a prompt": concept.phrase,
        "neurons": f"{concept.neurons:,} ({concept.density:.2%} of the K/V weights of {concept.base.id})",
        "loss": ", ".join(losses) or "not measured",
        "warnings": "; ".join(concept.origin.warnings),
    }
    sizes = {param: numel(shape) for param, shape in concept.base.tensors.items()}
    return concept_html(concept.name, rows, concept.counts, sizes)


def content_id(indices: Mapping[str, Indices], tensors: Mapping[str, list[int]]) -> str:
    """Sha256 hex over the non-empty index sets; see "Content id" in spec/cone-1.md.

    Per param name in byte order: its length and bytes, the number of dimensions and the shape, k and the positions;
    positions are little-endian u32, all else u64. Compression, metadata and notes have no part in it.
    """
    import numpy as np

    digest = hashlib.sha256(b"cone-concept-1\0")
    for param in sorted(indices, key=str.encode):
        values, name, shape = indices[param], param.encode(), tensors[param]
        if len(values):
            numbers = [len(shape), *shape, len(values)]
            digest.update(len(name).to_bytes(8, "little") + name)
            digest.update(b"".join(number.to_bytes(8, "little") for number in numbers))
            digest.update(np.ascontiguousarray(values.astype("<i4", copy=False)).data)
    return digest.hexdigest()


def _checked(param: str, values: NDArray[Any], base: BaseModelInfo) -> Indices:
    """Read-only int32 positions, a copy if somebody could still write to `values`.

    UsageError unless they are sorted unique positions inside the base model's parameter `param`.
    """
    import numpy as np

    if param not in base.tensors:
        raise UsageError(f"{param} is no K/V weight of the base model {base.id}")
    size = numel(base.tensors[param])
    if size > _MAX_TENSOR_SIZE:
        raise UsageError(f"{param}: {size} weights, more than the {_MAX_TENSOR_SIZE} of a tensor")
    values = np.asarray(values)
    whole = values.ndim == 1 and values.dtype.kind in "iu"
    if not whole or values[0] < 0 or values[-1] >= size or bool((values[1:] <= values[:-1]).any()):
        raise UsageError(f"{param}: indices are not whole numbers, sorted, unique and within 0..{size - 1}")
    out = values.astype(np.int32, copy=values.flags.writeable)
    out.flags.writeable = False
    return out


def refuse_clash(concepts: Sequence[Concept], fold: Callable[[str], str], sources: Sequence[str] = ()) -> None:
    """Raise NameClashError if two concepts have the same name or identifier once they are folded.

    `sources` says of each concept where it came from, such as its file.
    """
    places = dict(enumerate(sources))
    for attribute in ("name", "identifier"):
        seen: dict[str, int] = {}
        for number, concept in enumerate(concepts):
            key = fold(getattr(concept, attribute))
            if key in seen:
                first = concepts[seen[key]]
                two = [
                    f"{each.name} of {places[at]}" if at in places else each.name
                    for at, each in ((seen[key], first), (number, concept))
                ]
                raise NameClashError(
                    f"{two[0]} and {two[1]}: two concepts with the {attribute} {key!r}",
                    f"find one of them again with --{attribute} set to something else",
                )
            seen[key] = number


def to_builtin(value: Any) -> Any:
    """`value` with tuples as lists and numpy scalars as Python's, all the way down."""
    if isinstance(value, Mapping):
        return {key: to_builtin(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_builtin(item) for item in value]
    numpy = sys.modules.get("numpy")  # only somebody who has loaded it can have made a scalar of it
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value


def numel(shape: Iterable[int]) -> int:
    """Number of weights of a tensor; 1 for a shape without dimensions."""
    return prod(shape)
