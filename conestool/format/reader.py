"""Reading a .cone file: preamble and header, then sections; see spec/cone-1.md.

A header is read without its payload, without numpy and without zstd.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO

from conestool.concept import BaseModelInfo, ConceptInfo, numel
from conestool.errors import FormatError, UsageError, VersionError
from conestool.format import limits
from conestool.format.limits import Row, raw_length
from conestool.format.schema import BaseMap, ConceptMap, HeaderMap, read_map, read_origin

if TYPE_CHECKING:
    from conestool.concept import Concept, Cone, Indices

SIGNATURE = b"\x89CONE\r\n\x1a\n"
MAJOR, MINOR = 1, 0
PREAMBLE = struct.Struct("<9sBBBII")

_DAMAGED = "copy or download the file again"
_MAX_MESSAGE = 1000
"""Characters of an error that are shown: a file may have names of any length in its header."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself; `version` is (major, minor), `size` its bytes, `offset` where its payload begins."""

    version: tuple[int, int]
    size: int
    offset: int
    bases: tuple[BaseModelInfo, ...]
    concepts: tuple[ConceptInfo, ...]
    map: HeaderMap


def load(path: str | Path) -> Cone:
    """Read a .cone file; FormatError or VersionError for anything that spec/cone-1.md does not allow."""
    path = Path(path)
    try:
        with _opened(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            # Of a file that is too large only the preamble, which says whether a later version wrote it.
            data = stream.read(PREAMBLE.size if size > limits.MAX_FILE_BYTES else limits.MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    return _read(data, max(size, len(data)), str(path))


def loads(data: bytes, name: str = "<bytes>") -> Cone:
    """Read the bytes of a .cone file; `name` stands in front of every error."""
    return _read(data, len(data), name)


def _read(data: bytes, size: int, name: str) -> Cone:
    """The cone in `data`, the beginning of a file of `size` bytes."""
    from conestool.concept import Cone

    try:
        header = _parse_header(data, size)
        return Cone(_read_concepts(header, memoryview(data)), header.map.unknown_fields, header.version[1])
    except FormatError as error:
        raise _with_file_name(name, error) from error


def read_header(path: str | Path) -> Header:
    """The header of a .cone file; of the payload only the length is checked."""
    path = Path(path)
    try:
        with _opened(path) as stream:
            data = stream.read(PREAMBLE.size + limits.MAX_HEADER_BYTES)
            size = stream.seek(0, 2)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        return _parse_header(data, size)
    except FormatError as error:
        raise _with_file_name(str(path), error) from error


def _opened(path: Path) -> BinaryIO:
    """The open file; FormatError for a folder, which not every system refuses to open."""
    if path.is_dir():
        raise FormatError(f"{path}: is a folder, not a .cone file", "give the file")
    return path.open("rb")


def _parse_header(data: bytes, size: int) -> Header:
    """Preamble and header at the beginning of `data`; `size` is the length of the whole file."""
    if not data.startswith(SIGNATURE):
        raise FormatError(*_not_a_cone(data))
    version = data[len(SIGNATURE) : len(SIGNATURE) + 2]
    if version and version[0] > MAJOR:
        text = ".".join(map(str, version))
        raise VersionError(f"version {text}, later than {MAJOR}", "update conestool: pip install -U conestool")
    if len(data) < PREAMBLE.size:
        raise FormatError(f"truncated: {len(data)} bytes, the preamble has {PREAMBLE.size}", _DAMAGED)
    _, major, minor, reserved, length, crc = PREAMBLE.unpack_from(data)
    if major != MAJOR or reserved:
        raise FormatError(
            f"preamble: version {major}, reserved byte {reserved}, expected {MAJOR} and 0 (byte 9)", _DAMAGED
        )
    for what, bytes_of, most in (("file", size, limits.MAX_FILE_BYTES), ("header", length, limits.MAX_HEADER_BYTES)):
        if bytes_of > most:
            raise FormatError(f"{what} of {bytes_of} bytes, more than {most}")
    header = memoryview(data)[PREAMBLE.size : PREAMBLE.size + length]
    if len(header) < length:
        raise FormatError(f"truncated: header of {len(header)} bytes, expected {length} (byte {size})", _DAMAGED)
    if zlib.crc32(header, zlib.crc32(data[: PREAMBLE.size - 4])) != crc:
        raise FormatError("header: crc32 differs (byte 16)", _DAMAGED)
    found = _resolved((major, minor), PREAMBLE.size + length, read_map(header))
    if found.size != size:
        what = "truncated" if size < found.size else "too long"
        raise FormatError(f"{what}: {size} bytes, expected {found.size} (byte {min(size, found.size)})", _DAMAGED)
    return found


def _resolved(version: tuple[int, int], offset: int, header: HeaderMap) -> Header:
    """A checked header with its references resolved."""
    bases = tuple(_base_info(base) for base in header.bases)
    concepts = tuple(_concept_info(concept, bases[concept.base]) for concept in header.concepts)
    size = offset + sum(section.length for concept in header.concepts for section in concept.sections)
    return Header(version, size, offset, bases, concepts, header)


def _base_info(base: BaseMap) -> BaseModelInfo:
    """A base description in memory: maps by param name, hashes in hex."""
    return BaseModelInfo(
        **base.unknown_fields,
        id=base.id,
        revision=base.revision,
        family=base.family,
        dtype=base.dtype,
        tensors=dict(base.tensors),
        structure=base.structure.hex(),
        digests={rounding: digest.hex() for rounding, digest in base.digests.items()},
    )


def _concept_info(concept: ConceptMap, base: BaseModelInfo) -> ConceptInfo:
    """A concept of the header with its counts by param name."""
    params = list(base.tensors)
    counts = {params[row.tensor]: row.k for row in concept.rows}
    origin = read_origin(concept.origin)
    words = (concept.name, concept.class_noun, concept.identifier)
    return ConceptInfo(*words, concept.id.hex(), base, origin, MappingProxyType(counts))


def _read_concepts(header: Header, data: memoryview) -> tuple[Concept, ...]:
    """All concepts; every section's sha256 is checked before a byte of it is decoded."""
    from conestool.concept import Concept, Section

    concepts = []
    at = header.offset
    for number, (known, fields) in enumerate(zip(header.concepts, header.map.concepts, strict=True), start=1):
        where = f"section {number} ({known.name})"
        start, pieces = at, []
        for section in fields.sections:
            piece = data[at : at + section.length]
            if hashlib.sha256(piece).digest() != section.sha256:
                raise FormatError(f"{where}: sha256 of its {section.type} differs (byte {at})", _DAMAGED)
            pieces.append(piece)
            at += section.length
        concept = Concept(
            known.name,
            known.class_noun,
            known.identifier,
            _read_indices(where, fields.rows, known.base, pieces[0], start),
            known.base,
            known.origin,
            fields.unknown_fields,
            tuple(
                Section(section.type, bytes(piece), section.unknown_fields)
                for section, piece in zip(fields.sections[1:], pieces[1:], strict=True)
            ),
            fields.sections[0].unknown_fields,
        )
        if concept.id != known.id:
            raise FormatError(f"{where}: content id {concept.id[:12]}, the header says {known.id[:12]}", _DAMAGED)
        concepts.append(concept)
    return tuple(concepts)


def _read_indices(where: str, rows: list[Row], base: BaseModelInfo, data: memoryview, start: int) -> dict[str, Indices]:
    """The index sets of one section, whose first byte is byte `start` of the file."""
    from conestool.format import gaps

    if not rows:
        return {}
    tensors = [(param, numel(shape)) for param, shape in base.tensors.items()]
    lengths = [raw_length(tensors[row.tensor][1], row.k) for row in rows]
    raw = sum(lengths)
    try:
        content = gaps.decompress(data[raw:], sum(row.coded for row in rows))
    except FormatError as error:
        raise FormatError(f"{where}: {error} (byte {start + raw})", error.hint) from error
    planes = gaps.as_bytes(data)
    out, at, inside = {}, 0, 0
    for row, length in zip(rows, lengths, strict=True):
        param, n = tensors[row.tensor]
        try:
            out[param] = gaps.decode(planes[at : at + length], content[inside : inside + row.coded], n, row.k)
        except FormatError as error:
            raise FormatError(f"{where}: {param}: {error} (byte {start + at})", error.hint) from error
        at, inside = at + length, inside + row.coded
    return out


def _with_file_name(name: str, error: FormatError) -> FormatError:
    """The error with the file's name before it; what it quotes of the file is escaped, so that it stays one line."""
    text = str(error)
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:_MAX_MESSAGE])
    return type(error)(f"{name}: {shown}{'...' * (len(text) > _MAX_MESSAGE)}", error.hint)


def _not_a_cone(data: bytes) -> tuple[str, str]:
    """Message and hint for bytes without the signature."""
    if SIGNATURE.startswith(data):
        return f"truncated: {len(data)} bytes", _DAMAGED
    if data[1:5] == b"CONE" or data[:4] == b"CONE":
        return "damaged by a text-mode transfer (byte 0)", "copy the file again in binary mode"
    return "not a .cone file (byte 0)", "give a file made by `cones find` or `cones merge`"


def _unreadable(path: Path, error: OSError) -> UsageError:
    """A file that is missing or may not be read."""
    return UsageError(f"{path}: {(error.strerror or str(error)).lower()}", "check the name")
