"""The beginning of a file: preamble and header, checked without the payload, without numpy and without zstd."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from conestool.errors import FormatError, UsageError, VersionError
from conestool.format import limits
from conestool.format.header import Header
from conestool.format.maps import read_map

__all__ = [
    "DAMAGED",
    "MAJOR",
    "MINOR",
    "PREAMBLE",
    "SIGNATURE",
    "parse_header",
    "placed",
    "read_header",
    "refuse_large",
    "unreadable",
]

SIGNATURE = b"\x89CONE\r\n\x1a\n"
MAJOR, MINOR = 1, 0
PREAMBLE = struct.Struct("<9sBBBII")
DAMAGED = "copy or download the file again"
MESSAGE = 1000
"""Characters of an error that are shown: a file may have names of any length in its header."""


def read_header(path: str | Path) -> Header:
    """The header of a .cone file; of the payload only the length is checked."""
    path = Path(path)
    refuse_large(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(PREAMBLE.size + limits.HEADER)
            size = stream.seek(0, 2)
        return parse_header(data, size)
    except OSError as error:
        raise unreadable(path, error) from error
    except FormatError as error:
        raise placed(str(path), error) from error


def parse_header(data: bytes, size: int) -> Header:
    """Preamble and header at the beginning of `data`; `size` is the length of the whole file."""
    if not data.startswith(SIGNATURE):
        raise FormatError(*foreign(data))
    version = data[len(SIGNATURE) : len(SIGNATURE) + 2]
    if version and version[0] > MAJOR:
        text = ".".join(map(str, version))
        raise VersionError(f"version {text}, later than {MAJOR}", "update conestool: pip install -U conestool")
    if len(data) < PREAMBLE.size:
        raise FormatError(f"truncated: {len(data)} bytes, the preamble has {PREAMBLE.size}", DAMAGED)
    _, major, minor, reserved, length, crc = PREAMBLE.unpack_from(data)
    if major != MAJOR or reserved:
        raise FormatError(
            f"preamble: version {major}, reserved byte {reserved}, expected {MAJOR} and 0 (byte 9)", DAMAGED
        )
    if length > limits.HEADER or size > limits.FILE:
        raise FormatError(f"header of {length} bytes in a file of {size}, more than a reader may take (byte 12)")
    header = data[PREAMBLE.size : PREAMBLE.size + length]
    if len(header) < length:
        raise FormatError(f"truncated: header of {len(header)} bytes, expected {length} (byte {size})", DAMAGED)
    if zlib.crc32(header, zlib.crc32(data[: PREAMBLE.size - 4])) != crc:
        raise FormatError("header: crc32 differs (byte 16)", DAMAGED)
    found = Header.of((major, minor), PREAMBLE.size + length, read_map(header))
    if found.size != size:
        what = "truncated" if size < found.size else "too long"
        raise FormatError(f"{what}: {size} bytes, expected {found.size} (byte {min(size, found.size)})", DAMAGED)
    return found


def placed(name: str, error: FormatError) -> FormatError:
    """The error with the file's name before it; what it quotes of the file is escaped, so that it stays one line."""
    text = str(error)
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:MESSAGE])
    return type(error)(f"{name}: {shown}{'...' * (len(text) > MESSAGE)}", error.hint)


def foreign(data: bytes) -> tuple[str, str]:
    """Message and hint for bytes without the signature."""
    if SIGNATURE.startswith(data):
        return f"truncated: {len(data)} bytes", DAMAGED
    if data[1:5] == b"CONE" or data[:4] == b"CONE":
        return "damaged by a text-mode transfer (byte 0)", "copy the file again in binary mode"
    return "not a .cone file (byte 0)", "give a file made by `cones find` or `cones merge`"


def refuse_large(path: Path) -> None:
    """Refuse a folder or a file beyond the cap before reading it; UsageError if there is none."""
    if path.is_dir():
        raise FormatError(f"{path}: is a folder, not a .cone file", "give the file")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    if size > limits.FILE:
        raise FormatError(f"{path}: {size} bytes, more than {limits.FILE}")


def unreadable(path: Path, error: OSError) -> UsageError:
    """A file that is missing or may not be read."""
    return UsageError(f"{path}: {(error.strerror or str(error)).lower()}", "check the name")
