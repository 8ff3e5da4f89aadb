"""What a picture would cost before its decoder is asked: time and memory that no count of pixels shows.

A progressive JPEG of a few kilobytes may go over all its pixels a thousand times, a TIFF that takes no room on the disk
may list a hundred million numbers, which Pillow makes Python's of. Both are counted here without being decoded.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from io import BufferedIOBase
from typing import NamedTuple

from PIL import Image

from conestool.errors import PhotoError

__all__ = ["check_cost", "check_metadata"]

SCANNED = 1 << 31
"""Pixels of a JPEG times its scans; programs write about ten scans, and 178 million pixels may have twelve."""
METADATA = 1 << 25
"""Bytes of a JPEG before its first scan, and of EXIF in any format: 32 MiB; a colour profile takes at most half."""
TAGS = 1 << 27
"""Bytes that the tags of a TIFF may hold, 128 MiB: text, and what Photoshop keeps there."""
NUMBERS = 1 << 20
"""Numbers that the tags of a TIFF may hold: the places of the strips of 65,535 rows in four planes, and their sizes."""

MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)
BLOCK = 1 << 16
END, SCAN, TABLES = 0xD9, 0xDA, (0xC4, 0xC8, 0xCC)
UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of one value by a tag's type."""
TEXTS = (1, 2, 6, 7)
"""Types that stay bytes."""


class Segment(NamedTuple):
    """A piece of a JPEG: its marker, where it begins, and the first bytes of what it holds."""

    marker: int
    at: int
    content: bytes


def check_cost(file: BufferedIOBase, name: str) -> None:
    """PhotoError for a JPEG or TIFF that would take far more than its pixels; the file is left at its beginning."""
    head = file.read(4)
    if head.startswith(b"\xff\xd8"):
        check_scans(file, name)
    elif head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        check_tags(file, name, "<" if head.startswith(b"I") else ">", big=b"+" in head)
    file.seek(0)


def check_metadata(image: Image.Image, name: str) -> None:
    """Refuse an opened picture with too much EXIF, of which Pillow would make Python's numbers."""
    if len(image.info.get("exif") or b"") > METADATA:
        raise PhotoError(too_much(name))


def too_much(name: str) -> str:
    """What is wrong with a picture that is mostly something else."""
    return f"{name}: more than {METADATA >> 20} MiB of metadata"


def check_scans(file: BufferedIOBase, name: str) -> None:
    """Refuse a JPEG with too many scans for its size, or with too much before the first one."""
    pixels = scans = 0
    for marker, at, content in segments(file):
        if 0xC0 <= marker <= 0xCF and marker not in TABLES and len(content) == 5:
            _, height, width = struct.unpack(">BHH", content)
            pixels = max(pixels, height * width)
        scans += marker == SCAN
        if scans > 1 and pixels * scans > SCANNED:
            raise PhotoError(f"{name}: {scans} scans or more, too many for {pixels:,} pixels")
        if not scans and at > METADATA:
            raise PhotoError(too_much(name))


def segments(file: BufferedIOBase) -> Iterator[Segment]:
    """The segments of a JPEG until its end, or that of the file; what is coded between them is passed over."""
    file.seek(2)
    while (marker := next_marker(file)) not in (None, END):
        at = file.tell()
        length = max(2, int.from_bytes(file.read(2), "big"))
        yield Segment(int(marker), at, file.read(min(5, length - 2)))
        file.seek(at + length)


def next_marker(file: BufferedIOBase) -> int | None:
    """The next marker, the file left behind it; None where there is no more."""
    rest = b""
    while block := file.read(BLOCK):
        data = rest + block
        if found := MARKER.search(data):
            file.seek(found.end() - len(data), os.SEEK_CUR)
            return found[1][0]
        rest = data[-1:] if data.endswith(b"\xff") else b""
    return None


def check_tags(file: BufferedIOBase, name: str, order: str, *, big: bool) -> None:
    """Refuse a TIFF whose first directory, the only one that is read, lists too many numbers or bytes."""
    numbers = size = 0
    for kind, count in tags(file, order, big):
        size += count * UNITS.get(kind, 0)
        numbers += 0 if kind in TEXTS or kind not in UNITS else count
    if numbers > NUMBERS:
        raise PhotoError(f"{name}: {numbers:,} numbers in its tags, the most is {NUMBERS:,}")
    if size > TAGS:
        raise PhotoError(f"{name}: {size:,} bytes in its tags, the most is {TAGS:,}")


def tags(file: BufferedIOBase, order: str, big: bool) -> Iterator[tuple[int, int]]:
    """Type and count of each tag of the first directory, as far as the file goes."""
    file.seek(8 if big else 4)
    file.seek(one(file, order + ("Q" if big else "L")))
    entry = struct.Struct(order + ("2xHQ8x" if big else "2xHL4x"))
    for _ in range(one(file, order + ("Q" if big else "H"))):
        if len(data := file.read(entry.size)) < entry.size:
            return
        yield entry.unpack(data)


def one(file: BufferedIOBase, layout: str) -> int:
    """The next number of the file; 0 at its end."""
    data = file.read(struct.calcsize(layout))
    return int(struct.unpack(layout, data)[0]) if len(data) == struct.calcsize(layout) else 0
