"""Bytes to Cone and back: preamble, header, sections; see spec/cone-1.md."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from conestool._atomic import write_atomic
from conestool.concept import Concept, Cone, Part
from conestool.errors import FormatError, UsageError
from conestool.format import canonical, limits
from conestool.format.entries import BITMAP, Entry, total
from conestool.format.header import Header
from conestool.format.indices import decode, encode, frame, unframe
from conestool.format.maps import ConceptMap, HeaderMap, SectionMap, read_map
from conestool.format.preamble import (
    DAMAGED,
    MAJOR,
    MINOR,
    PREAMBLE,
    SIGNATURE,
    parse_header,
    placed,
    read_header,
    refuse_large,
    unreadable,
)
from conestool.records import BaseInfo

__all__ = ["MAJOR", "MINOR", "SIGNATURE", "dumps", "load", "loads", "read_header", "save"]


def load(path: str | Path) -> Cone:
    """Read a .cone file; FormatError or VersionError for anything that spec/cone-1.md does not allow."""
    path = Path(path)
    refuse_large(path)
    try:
        return loads(path.read_bytes(), str(path))
    except OSError as error:
        raise unreadable(path, error) from error


def loads(data: bytes, name: str = "<bytes>") -> Cone:
    """Read the bytes of a .cone file; `name` stands in front of every error."""
    try:
        header = parse_header(data, len(data))
        return Cone(read_concepts(header, data), header.extra)
    except FormatError as error:
        raise placed(name, error) from error


def save(cone: Cone, path: str | Path, *, force: bool = False) -> Path:
    """Write a .cone file atomically; OutputExistsError if it is there and `force` is not given. Returns the path."""
    return write_atomic(path, dumps(cone), force=force)


def dumps(cone: Cone) -> bytes:
    """The bytes of a .cone file; the same for the same cone and library versions."""
    bases: dict[bytes, int] = {}
    concepts, sections = [], []
    for concept in cone.concepts:
        number = bases.setdefault(packed(base_map(concept.base)), len(bases))
        fields, parts = concept_map(concept, number)
        concepts.append(fields)
        sections += parts
    known = {"bases": [canonical.unpack(base) for base in bases], "concepts": concepts}
    header = packed(with_extra(HeaderMap, known, cone.extra))
    if len(header) > limits.HEADER:
        raise UsageError(f"header of {len(header)} bytes, more than {limits.HEADER}", "shorten notes, or merge fewer")
    try:
        read_map(header)
    except FormatError as error:
        raise UsageError(f"this cannot be written as a .cone file: {error}") from error
    preamble = PREAMBLE.pack(SIGNATURE, MAJOR, MINOR, 0, len(header), 0)[:-4]
    crc = struct.pack("<I", zlib.crc32(header, zlib.crc32(preamble)))
    data = b"".join([preamble, crc, header, *sections])
    if len(data) > limits.FILE:
        raise UsageError(f"a .cone file of {len(data)} bytes, more than {limits.FILE}", "merge fewer")
    return data


def read_concepts(header: Header, data: bytes) -> tuple[Concept, ...]:
    """All concepts; every section's sha256 is checked before a byte of it is decoded."""
    concepts = []
    at = header.offset
    for number, (known, fields) in enumerate(zip(header.concepts, header.map.concepts, strict=True), start=1):
        pieces = []
        where = f"section {number} ({known.name})"
        for section in fields.sections:
            piece = data[at : at + section.length]
            if hashlib.sha256(piece).digest() != section.sha256:
                raise FormatError(f"{where}: sha256 of its {section.type} differs (byte {at})", DAMAGED)
            pieces.append(piece)
            at += section.length
        start = at - sum(map(len, pieces))
        indices = read_indices(where, fields.entries, known.base, pieces[0], start)
        parts = [Part(s.type, p, s.extra) for s, p in zip(fields.sections[1:], pieces[1:], strict=True)]
        words = (known.name, known.class_noun, known.identifier)
        kept = (known.extra, tuple(parts), fields.sections[0].extra)
        concept = Concept(*words, indices, known.base, known.origin, *kept)
        if concept.id != known.id:
            raise FormatError(f"{where}: content id {concept.id[:12]}, the header says {known.id[:12]}", DAMAGED)
        concepts.append(concept)
    return tuple(concepts)


def read_indices(where: str, entries: list[Entry], base: BaseInfo, data: bytes, start: int) -> dict[str, Any]:
    """The index sets of one section, whose first byte is byte `start` of the file."""
    if not entries:
        return {}
    raw, coded = total(entries)
    try:
        content = unframe(data[raw:], coded)
    except FormatError as error:
        raise FormatError(f"{where}: {error} (byte {start + raw})", error.hint) from error
    shapes = list(base.tensors.items())
    stream = np.frombuffer(data, np.uint8)
    out, at, inside = {}, 0, 0
    for entry in entries:
        param, shape = shapes[entry.tensor]
        try:
            out[param] = decode(entry, stream[at : at + entry.raw], content[inside : inside + entry.coded], shape)
            out[param].flags.writeable = False
        except FormatError as error:
            raise FormatError(f"{where}: {param}: {error} (byte {start + at})", error.hint) from error
        at, inside = at + entry.raw, inside + entry.coded
    return out


def concept_map(concept: Concept, base: int) -> tuple[dict[str, Any], list[bytes]]:
    """The map of one concept for the header, and the bytes of its sections."""
    numbers = {param: number for number, param in enumerate(sorted(concept.base.tensors))}
    rows, raw, coded = [], [], []
    codecs = set()
    for param, values in concept.indices.items():
        pieces = encode(values, concept.base.tensors[param])
        rows.append([numbers[param], pieces.codec, len(values), len(pieces.raw), len(pieces.coded)])
        raw.append(pieces.raw.tobytes())
        coded.append(pieces.coded.tobytes())
        codecs.add(pieces.codec)
    payload = b"".join(raw) + (frame(b"".join(coded), BITMAP in codecs) if coded else b"")
    parts = [Part("indices", payload, concept.section), *concept.parts]
    known = {
        "name": concept.name,
        "class_noun": concept.class_noun,
        "identifier": concept.identifier,
        "base": base,
        "id": bytes.fromhex(concept.id),
        "tensors": rows,
        "sections": [section_map(part) for part in parts],
        "origin": record_map(concept.origin),
    }
    return with_extra(ConceptMap, known, concept.extra), [part.data for part in parts]


def section_map(part: Part) -> dict[str, Any]:
    """The map of one section for the header."""
    known = {"type": part.type, "length": len(part.data), "sha256": hashlib.sha256(part.data).digest()}
    return with_extra(SectionMap, known, part.extra)


def base_map(base: BaseInfo) -> dict[str, Any]:
    """The map of a base model for the header."""
    fields = record_map(base)
    fields["tensors"] = [[param, base.tensors[param]] for param in sorted(base.tensors)]
    fields["structure"] = bytes.fromhex(base.structure)
    fields["digests"] = {rung: bytes.fromhex(digest) for rung, digest in base.digests.items()}
    return fields


def record_map(record: BaseModel) -> dict[str, Any]:
    """A record as a map without the fields that have their default; unknown keys as they are."""
    defaults = {key: field.default for key, field in type(record).model_fields.items()}
    fields = {key: getattr(record, key) for key in defaults}
    kept = {key: value for key, value in fields.items() if value != defaults[key]}
    plain = {key: record_map(value) if isinstance(value, BaseModel) else value for key, value in kept.items()}
    return {**plain, **(record.model_extra or {})}


def with_extra(model: type[BaseModel], known: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`known` and the unknown keys of a file; UsageError if those have a meaning of their own."""
    taken = sorted(extra.keys() & model.model_fields.keys())
    if taken:
        raise UsageError(f"extra keys {taken} have a meaning of their own")
    return {**extra, **known}


def packed(value: Any) -> bytes:
    """Canonical msgpack of what was made in memory; UsageError if a header cannot hold it."""
    try:
        return canonical.pack(value)
    except ValueError as error:
        raise UsageError(f"this cannot be written as a .cone file: {error}") from error
