"""The maps of the header as they stand in the file: types, ranges and references; unknown keys are kept."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from conestool.errors import FormatError, UsageError, VersionError
from conestool.format import canonical, limits
from conestool.format.entries import Entry, check, total
from conestool.records import Losses, Origin, size_of
from conestool.text import check_name, check_words

__all__ = [
    "FEATURES",
    "BaseMap",
    "ConceptMap",
    "FileMap",
    "HeaderMap",
    "SectionMap",
    "TensorMap",
    "read_map",
    "read_origin",
]

FEATURES: frozenset[str] = frozenset()
"""Names of critical features that this version knows."""

Sha256 = Annotated[bytes, Field(min_length=32, max_length=32)]
Natural = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1, lt=2**31)]
Shape = Annotated[list[Size], Field(max_length=limits.DIMENSIONS)]
FIRST: Any = Field(fail_fast=True)
"""Stop at the first fault of a list: a header has room for a million, and a million reports take seconds."""


class FileMap(BaseModel):
    """A map of the header: frozen, strict, unknown keys kept, nil refused for known keys."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def no_nil(cls, raw: Any) -> Any:
        """An optional key is left out, never nil."""
        refuse_nil(cls, raw)
        return raw

    @property
    def extra(self) -> dict[str, Any]:
        """The keys this version does not know."""
        return dict(self.model_extra or {})


class SectionMap(FileMap):
    """Kind, length and sha256 of a section."""

    type: Annotated[str, Field(min_length=1, max_length=64)]
    length: Natural
    sha256: Sha256


class TensorMap(FileMap):
    """A K/V tensor: state-dict name and shape."""

    name: Annotated[str, Field(min_length=1, max_length=512)]
    shape: Shape

    @field_validator("shape")
    @classmethod
    def size(cls, shape: list[int]) -> list[int]:
        """A flat index fits 31 bits."""
        if size_of(shape) >= 2**31:
            raise ValueError(f"{size_of(shape)} weights, more than {2**31 - 1}")
        return shape


class BaseMap(FileMap):
    """A base model."""

    id: str
    revision: str | None = None
    family: str
    dtype: str
    structure: Sha256
    tensors: Annotated[
        list[Annotated[list[Any], Field(min_length=2, max_length=2)]], Field(max_length=limits.TENSORS), FIRST
    ]
    digests: dict[str, Sha256]

    @field_validator("tensors")
    @classmethod
    def names_and_shapes(cls, rows: list[list[Any]]) -> list[list[Any]]:
        """Pairs of a name and a shape, names rising."""
        names = [TensorMap.model_validate({"name": name, "shape": shape}).name for name, shape in rows]
        if any(a >= b for a, b in pairwise(names)):
            raise ValueError("tensors are not in rising order of their names")
        return rows

    @field_validator("digests")
    @classmethod
    def has_f32(cls, digests: dict[str, bytes]) -> dict[str, bytes]:
        """The digest that every description has."""
        if "f32" not in digests:
            raise ValueError("digests lack f32")
        return digests


class ConceptMap(FileMap):
    """A concept; `tensors` has one row per non-empty index set, `sections` begins with its indices."""

    name: str
    class_noun: str
    identifier: str
    base: Natural
    id: Sha256
    tensors: Annotated[list[Annotated[list[Natural], Field(min_length=5, max_length=5)]], FIRST]
    sections: Annotated[list[SectionMap], Field(min_length=1, max_length=limits.SECTIONS), FIRST]
    origin: dict[str, Any] = {}

    @model_validator(mode="after")
    def words_and_sections(self) -> ConceptMap:
        """Usable words, and exactly one section of indices, the first; rows in rising order."""
        try:
            check_name(self.name)
            check_words("class noun", self.class_noun)
            check_words("identifier", self.identifier)
        except UsageError as error:
            raise ValueError(str(error)) from error
        kinds = [section.type for section in self.sections]
        if kinds[0] != "indices" or len(set(kinds)) != len(kinds):
            raise ValueError("sections must begin with indices and differ in type")
        numbers = [row[0] for row in self.tensors]
        if any(a >= b for a, b in pairwise(numbers)):
            raise ValueError("tensors are not in rising order of their numbers")
        return self

    @property
    def entries(self) -> list[Entry]:
        """The tensor table."""
        return [Entry(*row) for row in self.tensors]


class HeaderMap(FileMap):
    """The whole header."""

    bases: Annotated[list[BaseMap], Field(min_length=1, max_length=limits.BASES), FIRST]
    concepts: Annotated[list[ConceptMap], Field(min_length=1, max_length=limits.CONCEPTS), FIRST]
    critical: Annotated[list[str], FIRST] = []

    @model_validator(mode="after")
    def references(self) -> HeaderMap:
        """Concepts in order of their names, without clashes, each with a base; each base used."""
        names = [concept.name for concept in self.concepts]
        for words in (names, [concept.identifier for concept in self.concepts]):
            if len({word.casefold() for word in words}) != len(words):
                raise ValueError("two concepts have the same name or identifier")
        if names != sorted(names):
            raise ValueError("concepts are not in order of their names")
        if {concept.base for concept in self.concepts} != set(range(len(self.bases))):
            raise ValueError(f"concepts do not refer to bases 0 to {len(self.bases) - 1}, each at least once")
        for concept in self.concepts:
            self.check_tensors(concept)
        entries = [entry for concept in self.concepts for entry in concept.entries]
        k, rows, coded = sum(entry.k for entry in entries), len(entries), total(entries)[1]
        for what, count, most in (
            ("indices", k, limits.NEURONS),
            ("rows in tensor tables", rows, limits.ROWS),
            ("bytes of coded pieces", coded, limits.CODED),
        ):
            if count > most:
                raise ValueError(f"{count} {what}, more than {most}")
        return self

    def check_tensors(self, concept: ConceptMap) -> None:
        """Refuse a tensor table that does not fit the base's shapes, the codecs or the section's length."""
        tensors = self.bases[concept.base].tensors
        for entry in concept.entries:
            if entry.tensor >= len(tensors):
                raise ValueError(f"{concept.name}: tensor {entry.tensor}, expected < {len(tensors)}")
            try:
                check(entry, tensors[entry.tensor][1])
            except FormatError as error:
                raise ValueError(f"{concept.name}: {tensors[entry.tensor][0]}: {error}") from error
        raw, _ = total(concept.entries)
        length = concept.sections[0].length
        if length <= raw if concept.tensors else length:
            raise ValueError(f"{concept.name}: section of {length} bytes for raw pieces of {raw} bytes")


def refuse_nil(model: type[BaseModel], raw: Any) -> None:
    """ValueError if a key that `model` knows is nil."""
    if isinstance(raw, Mapping):
        for key in model.model_fields:
            if key in raw and raw[key] is None:
                raise ValueError(f"{key} is nil")


def read_map(data: bytes) -> HeaderMap:
    """The checked header; FormatError, or VersionError for an unknown critical feature."""
    try:
        raw = canonical.unpack(data)
    except FormatError as error:
        raise FormatError(f"header: {error}") from error
    critical = raw.get("critical", [])
    if isinstance(critical, list) and all(isinstance(feature, str) for feature in critical):
        unknown = sorted(set(critical) - FEATURES)
        if unknown:
            raise VersionError(
                f"header: needs {', '.join(unknown)[:200]}", "update conestool: pip install -U conestool"
            )
    header = validated(raw)
    if isinstance(header, str):
        raise FormatError(f"header: {header}")
    return header


def validated(raw: Any) -> HeaderMap | str:
    """The checked header, or its first fault.

    As text, since an error raised while pydantic's is handled would refer to that, and the garbage collector cannot
    look into it: whoever kept our error would never be freed.
    """
    try:
        header = HeaderMap.model_validate(raw)
        for concept in header.concepts:
            read_origin(concept.origin)
    except ValidationError as error:
        return first(error)
    except ValueError as error:
        return str(error)
    return header


def read_origin(raw: dict[str, Any]) -> Origin:
    """The origin of a concept, with the same strictness as the header's own maps."""
    refuse_nil(Origin, raw)
    refuse_nil(Losses, raw.get("losses"))
    return Origin.model_validate(raw)


def first(error: ValidationError) -> str:
    """The first fault of a validation, as `concepts.0.name: what is wrong`."""
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part)[:80] for part in fault["loc"])
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
