"""The maps of the header as they stand in the file: types, ranges and references; unknown keys are kept."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from conestool._text import check_name, check_words, fold_ascii
from conestool.concept import Losses, Provenance, numel
from conestool.errors import FormatError, UsageError, VersionError
from conestool.format import limits, msgpack
from conestool.format.limits import Row, check_row, raw_length

_FEATURES: frozenset[str] = frozenset()
"""Names of critical features that this version knows."""

_Sha256 = Annotated[bytes, Field(min_length=32, max_length=32)]
_Natural = Annotated[int, Field(ge=0)]
_Size = Annotated[int, Field(ge=1, lt=2**31)]
_Shape = Annotated[list[_Size], Field(max_length=limits.MAX_DIMENSIONS)]
_FAIL_FAST: Any = Field(fail_fast=True)
"""Stop at the first fault of a list: a header has room for a million, and a million reports take seconds."""


class FileMap(BaseModel):
    """A map of the header: frozen, strict, unknown keys kept, nil refused for known keys."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def no_nil(cls, raw: Any) -> Any:
        """An optional key is left out, never nil."""
        _refuse_nil(cls, raw)
        return raw

    @property
    def unknown_fields(self) -> dict[str, Any]:
        """The keys this version does not know."""
        return dict(self.model_extra or {})


class SectionMap(FileMap):
    """Kind, length and sha256 of a section."""

    type: Annotated[str, Field(min_length=1, max_length=64)]
    length: _Natural
    sha256: _Sha256


class _TensorMap(FileMap):
    """A K/V tensor: state-dict name and shape."""

    name: Annotated[str, Field(min_length=1, max_length=512)]
    shape: _Shape

    @field_validator("shape")
    @classmethod
    def size(cls, shape: list[int]) -> list[int]:
        """A flat index fits 31 bits."""
        if numel(shape) >= 2**31:
            raise ValueError(f"{numel(shape)} weights, more than {2**31 - 1}")
        return shape


class BaseMap(FileMap):
    """A base model."""

    id: str
    revision: str | None = None
    family: str
    dtype: str
    structure: _Sha256
    tensors: Annotated[
        list[Annotated[list[Any], Field(min_length=2, max_length=2)]], Field(max_length=limits.MAX_TENSORS), _FAIL_FAST
    ]
    digests: dict[str, _Sha256]

    @field_validator("tensors")
    @classmethod
    def names_and_shapes(cls, rows: list[list[Any]]) -> list[list[Any]]:
        """Pairs of a name and a shape, names rising."""
        names = [_TensorMap.model_validate({"name": name, "shape": shape}).name for name, shape in rows]
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
    base: _Natural
    id: _Sha256
    tensors: Annotated[list[Annotated[list[_Natural], Field(min_length=3, max_length=3)]], _FAIL_FAST]
    sections: Annotated[list[SectionMap], Field(min_length=1, max_length=limits.MAX_SECTIONS), _FAIL_FAST]
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
    def rows(self) -> list[Row]:
        """The tensor table."""
        return [Row(*row) for row in self.tensors]


class HeaderMap(FileMap):
    """The whole header."""

    bases: Annotated[list[BaseMap], Field(min_length=1, max_length=limits.MAX_BASES), _FAIL_FAST]
    concepts: Annotated[list[ConceptMap], Field(min_length=1, max_length=limits.MAX_CONCEPTS), _FAIL_FAST]
    critical: Annotated[list[str], _FAIL_FAST] = []

    @model_validator(mode="after")
    def references(self) -> HeaderMap:
        """Concepts in order of their names, without clashes, each with a base; each base used."""
        names = [concept.name for concept in self.concepts]
        for words in (names, [concept.identifier for concept in self.concepts]):
            if len(set(map(fold_ascii, words))) != len(words):
                raise ValueError("two concepts have the same name or identifier")
        if names != sorted(names):
            raise ValueError("concepts are not in order of their names")
        if {concept.base for concept in self.concepts} != set(range(len(self.bases))):
            raise ValueError(f"concepts do not refer to bases 0 to {len(self.bases) - 1}, each at least once")
        for concept in self.concepts:
            self._check_tensors(concept)
        rows = [row for concept in self.concepts for row in concept.rows]
        k = sum(row.k for row in rows)
        if k > limits.MAX_NEURONS:
            raise ValueError(f"{k} indices, more than {limits.MAX_NEURONS}")
        if len(rows) > limits.MAX_TABLE_ROWS:
            raise ValueError(f"{len(rows)} rows in tensor tables, more than {limits.MAX_TABLE_ROWS}")
        return self

    def _check_tensors(self, concept: ConceptMap) -> None:
        """Refuse a tensor table that does not fit the base's shapes or the section's length."""
        tensors = self.bases[concept.base].tensors
        raw = 0
        for row in concept.rows:
            if row.tensor >= len(tensors):
                raise ValueError(f"{concept.name}: tensor {row.tensor}, expected < {len(tensors)}")
            param, n = tensors[row.tensor][0], numel(tensors[row.tensor][1])
            try:
                check_row(row, n)
            except FormatError as error:
                raise ValueError(f"{concept.name}: {param}: {error}") from error
            raw += raw_length(n, row.k)
        length = concept.sections[0].length
        if length <= raw if concept.tensors else length:
            raise ValueError(f"{concept.name}: section of {length} bytes for raw pieces of {raw} bytes")


def _refuse_nil(model: type[BaseModel], raw: Any) -> None:
    """ValueError if a key that `model` knows is nil."""
    if isinstance(raw, Mapping):
        for key in model.model_fields:
            if key in raw and raw[key] is None:
                raise ValueError(f"{key} is nil")


def read_map(data: bytes | memoryview) -> HeaderMap:
    """The checked header; FormatError, or VersionError for an unknown critical feature."""
    try:
        raw = msgpack.unpack(data)
    except FormatError as error:
        raise FormatError(f"header: {error}") from error
    critical = raw.get("critical", [])
    if isinstance(critical, list) and all(isinstance(feature, str) for feature in critical):
        unknown = sorted(set(critical) - _FEATURES)
        if unknown:
            raise VersionError(
                f"header: needs {', '.join(unknown)[:200]}", "update conestool: pip install -U conestool"
            )
    header = _validated(raw)
    if isinstance(header, str):
        raise FormatError(f"header: {header}")
    return header


def _validated(raw: Any) -> HeaderMap | str:
    """The checked header, or its first fault.

    As text, since an error raised while pydantic's is handled would refer to that, and the garbage collector cannot
    look into it: whoever kept our error would never be freed.
    """
    try:
        header = HeaderMap.model_validate(raw)
        for concept in header.concepts:
            read_origin(concept.origin)
    except ValidationError as error:
        return _first_error(error)
    except ValueError as error:
        return str(error)
    return header


def read_origin(raw: dict[str, Any]) -> Provenance:
    """The origin of a concept, with the same strictness as the header's own maps."""
    _refuse_nil(Provenance, raw)
    _refuse_nil(Losses, raw.get("losses"))
    return Provenance.model_validate(raw)


def _first_error(error: ValidationError) -> str:
    """The first fault of a validation, as `concepts.0.name: what is wrong`."""
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part)[:80] for part in fault["loc"])
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
