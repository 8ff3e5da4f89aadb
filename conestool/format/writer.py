"""Writing a .cone file: header, index sets, preamble; see spec/cone-1.md."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from conestool._atomic import write_atomic
from conestool.concept import BaseModelInfo, Concept, Cone, Section, numel
from conestool.errors import FormatError, UsageError
from conestool.format import gaps, limits, msgpack
from conestool.format.reader import MAJOR, MINOR, PREAMBLE, SIGNATURE
from conestool.format.schema import ConceptMap, HeaderMap, SectionMap, read_map


def save(cone: Cone, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a .cone file atomically; OutputExistsError if it is there, unless `overwrite`. Returns the path."""
    return write_atomic(path, dumps(cone), overwrite=overwrite)


def dumps(cone: Cone) -> bytes:
    """The bytes of a .cone file; the same for the same cone and library versions."""
    bases: dict[bytes, int] = {}
    concepts, payload = [], []
    for concept in cone.concepts:
        number = bases.setdefault(_packed(_base_map(concept.base)), len(bases))
        rows, indices = _encode(concept)
        sections = [Section("indices", indices, concept.indices_unknown_fields), *concept.sections]
        concepts.append(_concept_map(concept, number, rows, sections))
        payload += [section.data for section in sections]
    known = {"bases": [msgpack.unpack(base) for base in bases], "concepts": concepts}
    header = _packed(_with_unknown(HeaderMap, known, cone.unknown_fields))
    if len(header) > limits.MAX_HEADER_BYTES:
        raise UsageError(
            f"header of {len(header)} bytes, more than {limits.MAX_HEADER_BYTES}", "shorten notes, or merge fewer"
        )
    try:
        read_map(header)
    except FormatError as error:
        raise UsageError(f"this cannot be written as a .cone file: {error}") from error
    minor = max(MINOR, cone.minor_version)
    preamble = PREAMBLE.pack(SIGNATURE, MAJOR, minor, 0, len(header), 0)[:-4]
    crc = struct.pack("<I", zlib.crc32(header, zlib.crc32(preamble)))
    data = b"".join([preamble, crc, header, *payload])
    if len(data) > limits.MAX_FILE_BYTES:
        raise UsageError(f"a .cone file of {len(data)} bytes, more than {limits.MAX_FILE_BYTES}", "merge fewer")
    return data


def _encode(concept: Concept) -> tuple[list[list[int]], bytes]:
    """The tensor table and the section of the index sets."""
    numbers = {param: number for number, param in enumerate(sorted(concept.base.tensors))}
    rows, raw, coded = [], [], []
    for param, values in concept.indices.items():
        planes, quotients = gaps.encode(values, numel(concept.base.tensors[param]))
        rows.append([numbers[param], len(values), len(quotients)])
        raw.append(planes.tobytes())
        coded.append(quotients.tobytes())
    return rows, b"".join(raw) + (gaps.compress(b"".join(coded)) if coded else b"")


def _concept_map(concept: Concept, base: int, rows: list[list[int]], sections: list[Section]) -> dict[str, Any]:
    """The map of one concept for the header; an origin that says nothing is left out."""
    origin = _record_map(concept.origin)
    known = {
        "name": concept.name,
        "class_noun": concept.class_noun,
        "identifier": concept.identifier,
        "base": base,
        "id": bytes.fromhex(concept.id),
        "tensors": rows,
        "sections": [_section_map(section) for section in sections],
        **({"origin": origin} if origin else {}),
    }
    return _with_unknown(ConceptMap, known, concept.unknown_fields)


def _section_map(section: Section) -> dict[str, Any]:
    """The map of one section for the header."""
    known = {"type": section.type, "length": len(section.data), "sha256": hashlib.sha256(section.data).digest()}
    return _with_unknown(SectionMap, known, section.unknown_fields)


def _base_map(base: BaseModelInfo) -> dict[str, Any]:
    """The map of a base model for the header."""
    fields = _record_map(base)
    fields["tensors"] = [[param, base.tensors[param]] for param in sorted(base.tensors)]
    fields["structure"] = bytes.fromhex(base.structure)
    fields["digests"] = {rounding: bytes.fromhex(digest) for rounding, digest in base.digests.items()}
    return fields


def _record_map(record: BaseModel) -> dict[str, Any]:
    """A record as a map without the fields that have their default; unknown keys as they are."""
    defaults = {key: field.default for key, field in type(record).model_fields.items()}
    fields = {key: getattr(record, key) for key in defaults}
    kept = {key: value for key, value in fields.items() if value != defaults[key]}
    plain = {key: _record_map(value) if isinstance(value, BaseModel) else value for key, value in kept.items()}
    return {**plain, **(record.model_extra or {})}


def _with_unknown(model: type[BaseModel], known: dict[str, Any], unknown: Mapping[str, Any]) -> dict[str, Any]:
    """`known` and the unknown fields of a file; UsageError if those have a meaning of their own."""
    taken = sorted(unknown.keys() & model.model_fields.keys())
    if taken:
        raise UsageError(f"unknown fields {taken} have a meaning of their own")
    return {**unknown, **known}


def _packed(value: Any) -> bytes:
    """Canonical msgpack of what was made in memory; UsageError if a header cannot hold it."""
    try:
        return msgpack.pack(value)
    except ValueError as error:
        raise UsageError(f"this cannot be written as a .cone file: {error}") from error
