"""Every place of a few files attacked in turn, so that nothing is left to chance."""

from __future__ import annotations

import copy
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.hostile.attacks import places
from tests.hostile.values import VALUES
from tests.support.forging import join, mend, parts

VALID = Path(__file__).parents[2] / "spec/vectors/valid"
SLOW = ("limit-indices.cone", "limit-rows.cone")
"""They take a reader up to a second, changed or not: benchmarks/reliability/bombs.py measures such files."""
FILES = [path.read_bytes() for path in sorted(VALID.glob("*.cone")) if path.name not in SLOW]
"""What mutants are made of."""
SMALL, RICH = "smallest.cone", ("unknown.cone", "two-bases.cone")
Task = tuple[str, Callable[[], bytes]]
"""The name of a sweep, and what makes one of its files."""


def sweep() -> list[Task]:
    """All files of all sweeps, each made when it is asked for."""
    small = (VALID / SMALL).read_bytes()
    rich = [(VALID / file).read_bytes() for file in RICH]
    return [
        *preambles(small),
        *cuts(small),
        *(task for data in (small, *rich) for task in flips(data)),
        *(task for data in rich for task in fields(data)),
    ]


def preambles(data: bytes) -> Iterator[Task]:
    """Every value of every byte of the preamble, the CRC put right."""
    for at in range(20):
        for value in range(256):
            yield "every preamble byte", partial(sealed, data, at, value)


def sealed(data: bytes, at: int, value: int) -> bytes:
    """A file with one byte set, and the CRC put right unless the byte is the CRC's."""
    changed = data[:at] + bytes([value]) + data[at + 1 :]
    if 16 <= at < 20:
        return changed
    (size,) = struct.unpack_from("<I", changed, 12)
    return changed[:16] + struct.pack("<I", zlib.crc32(changed[:16] + changed[20 : 20 + size])) + changed[20:]


def cut(data: bytes, size: int) -> bytes:
    """Its beginning."""
    return data[:size]


def cuts(data: bytes) -> Iterator[Task]:
    """Every beginning of a file."""
    for size in range(len(data)):
        yield "every length", partial(cut, data, size)


def flips(data: bytes) -> Iterator[Task]:
    """Every bit of the header flipped, the CRC put right."""
    (size,) = struct.unpack_from("<I", data, 12)
    header, rest = data[20 : 20 + size], data[20 + size :]
    for bit in range(8 * size):
        at, mask = bit // 8, 1 << bit % 8
        changed = header[:at] + bytes([header[at] ^ mask]) + header[at + 1 :]
        yield "every header bit", partial(join, changed, [rest], data)


def fields(data: bytes) -> Iterator[Task]:
    """Every value of the header, arrays and maps included, left out and set to each of `VALUES`."""
    header, _ = parts(data)
    for number in range(len(list(places(header)))):
        for value in (None, *([value] for value in VALUES)):
            yield "every field and value", partial(with_field, data, number, value)


def with_field(data: bytes, number: int, value: list[Any] | None) -> bytes:
    """A file whose header has another value (None: none) at one of its places."""
    header, sections = parts(data)
    place, key = list(places(header))[number]
    if value is None:
        del place[key]
    else:
        place[key] = copy.deepcopy(value[0])
    return mend(join(header, sections, data))
