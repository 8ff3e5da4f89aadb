"""Read photo folders in children of a small process, and tell what came of it and what it cost.

`python -m tests.hostile.reading SECONDS FOLDER...` writes one JSON record a folder: photos, notes, error, seconds
of CPU, and the peak of resident memory in MiB. A child that takes more than SECONDS of wall clock is killed, and one
that wants more than CAP of memory does not get it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conestool.errors import PhotoError
from conestool.images.photos import read_photos
from tests.hostile.memory import limit_memory

CAP = 1 << 30
"""Bytes of address space that a reader may have more than at its start."""
ROOT = Path(__file__).parents[2]


def measured(folders: Sequence[Path], seconds: int) -> list[dict[str, Any]]:
    """The records of `folders`, read in a process of its own."""
    command = [sys.executable, "-m", "tests.hostile.reading", str(seconds), *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=seconds * len(folders) + 60)
    return [json.loads(line) for line in done.stdout.splitlines()]


def peak_memory() -> int:
    """MiB of memory that this process has held at once (Linux; unlike ru_maxrss it starts anew with the process)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) >> 10


def read(folder: Path) -> dict[str, Any]:
    """What reading a folder gives."""
    record: dict[str, Any] = {"folder": folder.name, "photos": [], "notes": [], "error": None, "hint": None}
    try:
        photos, record["notes"] = read_photos([folder])
        record["photos"] = [[photo.name, *photo.image.size] for photo in photos]
    except PhotoError as error:
        record |= {"error": str(error), "hint": error.hint}
    used = resource.getrusage(resource.RUSAGE_SELF)
    return record | {"cpu": round(used.ru_utime + used.ru_stime, 2), "peak": peak_memory()}


def main(seconds: int, folders: list[Path]) -> None:
    """Fork a child per folder."""
    for folder in folders:
        if not (child := os.fork()):
            signal.alarm(seconds)
            limit_memory(CAP)
            print(json.dumps(read(folder)), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            print(json.dumps({"folder": folder.name, "error": "killed", "cpu": None, "peak": None}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
