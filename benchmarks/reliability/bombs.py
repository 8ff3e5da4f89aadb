"""Files at the limits of the specification: what reading the worst of them costs.

    python -m benchmarks.reliability.bombs [--out bombs.json] [NUMBER ...]

Each is read by conestool in a process of its own. Printed are the bytes of the file, the CPU seconds, the peak of
resident memory beyond what the process had before, and whether the file is accepted or why it isn't. Valid ones cost
what their limits allow (2^26 indices take 512 MiB as 64-bit integers, whatever a file is); invalid ones should cost
next to nothing. The largest needs about 5 GiB; with numbers, only those are read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import resource
import struct
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from conestool.errors import FormatError
from conestool.format import grid, loads
from tests.independent.attacks import MAGIC
from tests.independent.edges import VALID, Change, base, concept
from tests.independent.forging import Header, Packed, join, parts, relabelled
from tests.independent.values import nested

NEURONS = 2**26
MIB = 2**20
ROOM = MIB - 2000
"""What a bomb may take of the longest header."""
INVALID = VALID.parent / "invalid"
Bomb = tuple[str, Callable[[], bytes]]


def changed(change: Change, sections: list[bytes] | None = None) -> bytes:
    """The smallest vector with another header, and perhaps other sections; no reader looks at it on the way."""
    data = (VALID / "smallest.cone").read_bytes()
    header, before = parts(data)
    change(header)
    return join(header if sections is None else relabelled(header, sections), sections or before, data)


def repeated(size: int) -> bytes:
    """A frame of so many zeros, in blocks of 128 KiB that take 4 bytes each."""
    blocks = [min(2**17, size - at) for at in range(0, size, 2**17)]
    body = b"".join(
        (block << 3 | 2 | (at == len(blocks) - 1)).to_bytes(3, "little") + b"\0" for at, block in enumerate(blocks)
    )
    return MAGIC + b"\xa0" + struct.pack("<I", size) + body


def full(codec: int, k: int, coded: bytes) -> bytes:
    """A file of the first k weights of a line of k weights."""
    size = k // 8 if codec == 0 else k
    digest = hashlib.sha256(b"cone-concept-1\0" + struct.pack("<Q", 1) + b"a" + struct.pack("<3Q", 1, k, k))
    for at in range(0, k, 2**16):
        digest.update(struct.pack("<65536I", *range(at, at + 2**16)))

    def change(header: Header) -> None:
        base(header)["tensors"] = [["a", [k]]]
        concept(header).update(tensors=[[0, codec, k, 0, size]], id=digest.digest())

    return changed(change, [coded])


def grids(height: int = 2**20 - 1, step: int = 2, a: int = 32, tensors: int = 128, concepts: int = 1) -> bytes:
    """Every `step`th row of `tensors` columns of so many rows in `a` classes, in one concept or the same in several.

    As it stands 2^26 indices in as many rows as grids may have, in as many classes as there may be.
    """
    names = [f"{number:04x}" for number in range(tensors)]
    values = np.arange(0, height, step)
    classes = grid.Grid((np.arange(height) % a).astype(np.uint8), np.zeros(1, np.uint8), a, 1, (height, 1))
    raw, coded = (piece.tobytes() for piece in grid.encode(values, [height, 1], classes))
    digest = hashlib.sha256(b"cone-concept-1\0")
    for name in names:
        digest.update(struct.pack("<Q", 4) + name.encode() + struct.pack("<4Q", 2, height, 1, len(values)))
        digest.update(values.astype("<u4").tobytes())
    section = raw * tensors + zstandard.ZstdCompressor().compress(coded * tensors)
    rows = [[number, 2, len(values), len(raw), len(coded)] for number in range(tensors)]

    def change(header: Header) -> None:
        base(header)["tensors"] = [[name, [height, 1]] for name in names]
        fields = {**concept(header), "tensors": rows, "id": digest.digest(), "sections": [{"type": "indices"}]}
        header["concepts"] = [{**fields, "name": f"n{n:03d}", "identifier": f"i{n}"} for n in range(concepts)]

    return changed(change, [section] * concepts)


def ones(size: int) -> bytes:
    """A frame of so many bytes of ones."""
    return zstandard.ZstdCompressor(level=19).compress(b"\xff" * size)


def header_with(value: Any) -> bytes:
    """The smallest file with one unknown key more."""
    return changed(lambda header: header.update({"x-bomb": value}))


def keys(number: int) -> Header:
    """A map of so many keys, all nil."""
    return {f"{key:05x}": None for key in range(number)}


def long_grid(fill: bytes = b"\0") -> bytes:
    """A grid whose raw piece is as long as a file can be, and holds one byte: too few quotients, or too many."""
    size = 2**28 - 4096
    k = size // 5
    piece = b"\1\1" + struct.pack("<I", k) + fill * (size - 6)

    def change(header: Header) -> None:
        base(header)["tensors"] = [["a", [2**15, 2**15]]]
        concept(header)["tensors"] = [[0, 2, k, size, 0]]

    return changed(change, [piece + MAGIC + b"\x20\0\1\0\0"])


def many_tensors() -> bytes:
    """4,096 tensors, and 256 concepts without neurons."""

    def change(header: Header) -> None:
        base(header)["tensors"] = [[f"{number:04x}", [2**31 - 1]] for number in range(4096)]
        empty = {**concept(header), "tensors": [], "id": hashlib.sha256(b"cone-concept-1\0").digest()}
        header["concepts"] = [
            {**empty, "name": f"n{number:03d}", "identifier": f"i{number}", "sections": [{"type": "indices"}]}
            for number in range(256)
        ]

    return changed(change, [b""] * 256)


BOMBS: list[Bomb] = [
    ("valid: gaps, 2^26 indices", lambda: full(1, NEURONS, repeated(NEURONS))),
    ("valid: bitmap, 2^26 indices", lambda: full(0, NEURONS, ones(NEURONS // 8))),
    ("valid: grids, 2^26 indices", grids),
    ("valid: 16,380 grids of an index", lambda: grids(8, 8, 8, 4095, 4)),
    ("8 times 128 MiB of classes", lambda: grids(step=16, concepts=8)),
    ("valid: 1 MiB of empty arrays", lambda: header_with([[]] * ROOM)),
    ("valid: 1 MiB of empty maps", lambda: header_with([{}] * ROOM)),
    ("valid: 1 MiB of nested arrays", lambda: header_with([nested(14)] * (ROOM // 14))),
    ("valid: 1 MiB of keys", lambda: header_with(keys(ROOM // 7))),
    ("valid: 1 MiB of floats", lambda: header_with([0.5] * (ROOM // 9))),
    ("valid: 4,096 tensors, 256 concepts", many_tensors),
    ("grid of 256 MiB, quotients missing", long_grid),
    ("grid of 256 MiB of ones", lambda: long_grid(b"\xff")),
    ("bitmap with 2^29 ones for 2^26", lambda: (INVALID / "bitmap-flood.cone").read_bytes()),
    ("grid of 2^20 - 1 rows without bits", lambda: (INVALID / "grid-flat.cone").read_bytes()),
    ("frame of 128 MiB for 3 bytes", lambda: changed(lambda header: None, [repeated(2**27)])),
    ("1 MiB of critical features that are nil", lambda: changed(lambda header: header.update(critical=[None] * ROOM))),
    ("1 MiB of rows without items", lambda: changed(lambda header: concept(header).update(tensors=[[]] * ROOM))),
    ("1 MiB of digests that are nil", lambda: changed(lambda h: base(h).update(digests=keys(ROOM // 7)))),
    ("1 MiB of bases that are empty", lambda: changed(lambda header: header.update(bases=[{}] * ROOM))),
    ("1 MiB of nested arrays without end", lambda: header_with(Packed(b"\x91" * ROOM))),
    ("array of 2^32 - 1 items", lambda: header_with(Packed(b"\xdd\xff\xff\xff\xff"))),
    ("map of 2^32 - 1 items", lambda: header_with(Packed(b"\xdf\xff\xff\xff\xff"))),
]


def measure(data: bytes, answer: Connection) -> None:
    """Read a file, and tell what it cost."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    try:
        loads(data)
        verdict = "accepted"
    except FormatError as error:
        verdict = str(error)[:80]
    except Exception as error:
        verdict = f"FAULT: {type(error).__name__}"
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    answer.send({"cpu_s": round(seconds, 3), "peak_mib": round(peak / 1024), "verdict": verdict})


def cost(data: bytes) -> dict[str, Any]:
    """What reading a file costs in a process of its own."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=measure, args=(data, theirs))
    child.start()
    theirs.close()
    try:
        found: dict[str, Any] = ours.recv()
    except EOFError:
        found = {"cpu_s": 0, "peak_mib": 0, "verdict": "FAULT: the process died"}
    child.join()
    return {"bytes": len(data), **found}


def main() -> int:
    """Read every bomb and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("numbers", nargs="*", type=int)
    options = parser.parse_args()
    chosen = [BOMBS[number] for number in options.numbers or range(len(BOMBS))]
    rows = []
    print("| file | bytes | CPU s | peak MiB | |\n|---|---|---|---|---|")
    for about, make in chosen:
        row = {"about": about, **cost(make())}
        rows.append(row)
        print(
            f"| {about} | {row['bytes']:,} | {row['cpu_s']:.2f} | {row['peak_mib']:,} | {row['verdict']} |", flush=True
        )
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    wrong = [row for row in rows if (row["verdict"] == "accepted") != row["about"].startswith("valid")]
    return 1 if wrong or any("FAULT" in row["verdict"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
