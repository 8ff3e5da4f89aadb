"""Files at the limits of the specification: what reading the worst of them costs.

    python -m benchmarks.reliability.bombs [--out bombs.json] [NUMBER ...]

Each is read by conestool in a process of its own. Printed are the bytes of the file, the CPU seconds, the peak of
resident memory beyond what the process had before, and whether the file is accepted or why it isn't. Valid ones cost
what their limits allow (2^26 indices take 256 MiB as 32-bit integers, whatever a file is); invalid ones should cost
next to nothing. With numbers, only those are read.
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

from conestool.errors import FormatError
from conestool.format import gaps, loads
from tests.hostile.attacks import MAGIC
from tests.hostile.systematic import VALID
from tests.hostile.values import nested
from tests.support.forging import Header, Packed, join, parts, relabelled

NEURONS = 2**26
MIB = 2**20
ROOM = MIB - 2000
"""What a bomb may take of the longest header."""
Bomb = tuple[str, Callable[[], bytes]]
Change = Callable[[Header], object]


def base(header: Header) -> Header:
    """The first base model."""
    result: Header = header["bases"][0]
    return result


def concept(header: Header) -> Header:
    """The first concept."""
    result: Header = header["concepts"][0]
    return result


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


def full(k: int) -> bytes:
    """A file of all k weights of a line, its quotients in a frame of repeated bytes."""
    digest = hashlib.sha256(b"cone-concept-1\0" + struct.pack("<Q", 1) + b"a" + struct.pack("<3Q", 1, k, k))
    for at in range(0, k, 2**16):
        digest.update(struct.pack("<65536I", *range(at, at + 2**16)))

    def change(header: Header) -> None:
        base(header)["tensors"] = [["a", [k]]]
        concept(header).update(tensors=[[0, k, k]], id=digest.digest())

    return changed(change, [repeated(k)])


def sparse() -> bytes:
    """2^26 indices in 4,096 tensors of two concepts that take many low bits: the longest file of all."""
    n, k, tensors = 2**31 - 1, 2**13, 4096
    values = np.arange(k, dtype=np.int64) * (n // k)
    raw, coded = (piece.tobytes() for piece in gaps.encode(values.astype(np.int32), n))
    names = [f"{number:04x}" for number in range(tensors)]
    digest = hashlib.sha256(b"cone-concept-1\0")
    for name in names:
        digest.update(struct.pack("<Q", 4) + name.encode() + struct.pack("<3Q", 1, n, k))
        digest.update(values.astype("<u4").tobytes())
    section = raw * tensors + gaps.compress(coded * tensors)

    def change(header: Header) -> None:
        base(header)["tensors"] = [[name, [n]] for name in names]
        rows = [[number, k, len(coded)] for number in range(tensors)]
        fields = {**concept(header), "tensors": rows, "id": digest.digest(), "sections": [{"type": "indices"}]}
        header["concepts"] = [{**fields, "name": f"n{n}", "identifier": f"i{n}"} for n in range(2)]

    return changed(change, [section] * 2)


def header_with(value: Any) -> bytes:
    """The smallest file with one unknown key more."""
    return changed(lambda header: header.update({"x-bomb": value}))


def keys(number: int) -> Header:
    """A map of so many keys, all nil."""
    return {f"{key:05x}": None for key in range(number)}


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
    ("valid: 2^26 indices of one tensor", lambda: full(NEURONS)),
    ("valid: 2^26 indices with low bits", sparse),
    ("valid: 1 MiB of empty arrays", lambda: header_with([[]] * ROOM)),
    ("valid: 1 MiB of empty maps", lambda: header_with([{}] * ROOM)),
    ("valid: 1 MiB of nested arrays", lambda: header_with([nested(14)] * (ROOM // 14))),
    ("valid: 1 MiB of keys", lambda: header_with(keys(ROOM // 7))),
    ("valid: 1 MiB of floats", lambda: header_with([0.5] * (ROOM // 9))),
    ("valid: 4,096 tensors, 256 concepts", many_tensors),
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
