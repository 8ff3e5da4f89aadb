"""The hidden folder beside an output in which it is made: locked while in use, swept up later if its maker was killed.

`.dog.cone.1c291ca3.k3j2h1g0.cones-tmp` tells by its ending what it is, and by the eight digits which host made it. Its
maker holds a lock on it (flock), which the system takes back when the process ends, however it ends; so a folder
whose lock is free is nobody's, and no process number has to be trusted. Locks may not be seen by other hosts that
share the folder, so what another host made is let be until it is a day old by the file system's own clock.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # no flock on Windows: nothing is swept up there
    fcntl = None  # type: ignore[assignment]

__all__ = ["NEW", "OLD", "sweep", "workplace"]

ENDING = ".cones-tmp"
PATTERN = re.compile(rf"\..*\.([0-9a-f]{{8}})\.[a-z0-9_]+{re.escape(ENDING)}", re.DOTALL)
SHOWN = 40
"""Characters of the output's name in the folder's: few enough for any file system, whatever the alphabet."""
NEW, OLD = "new", "old"
"""The parts of the folder: what is being made, and what it is about to replace."""
FOREIGN_AGE = 24 * 3600.0
"""Seconds without a change after which what another host made counts as left behind."""


@contextlib.contextmanager
def workplace(output: Path) -> Iterator[tuple[Path, Path]]:
    """A new empty folder beside `output`, removed when the block ends, and the path of `output` with links resolved.

    Those left behind there are removed first.
    """
    target = Path(os.path.realpath(output))
    sweep(target.parent)
    work = make(target)
    handle = claim(work)
    while handle is None:
        work = make(target)
        handle = claim(work)
    try:
        yield work, target
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(handle)


def make(target: Path) -> Path:
    """A new folder whose name says what it is for, what it is and where it was made."""
    return Path(tempfile.mkdtemp(prefix=f".{target.name[:SHOWN]}.{host()}.", suffix=ENDING, dir=target.parent))


def claim(work: Path) -> int | None:
    """Lock a folder made just now; None if a sweep saw it before that and took it for left behind."""
    if fcntl is None:
        return os.open(os.devnull, os.O_RDONLY)
    try:
        handle = os.open(work, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):  # no locks on this file system: then no sweep will get one either
        fcntl.flock(handle, fcntl.LOCK_EX)
    if is_at(handle, work):
        return handle
    os.close(handle)
    return None


def sweep(folder: Path) -> None:
    """Remove the work folders in `folder` whose makers are gone; what cannot be told or removed stays."""
    if fcntl is None:
        return
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if entry.name.endswith(ENDING) and PATTERN.fullmatch(entry.name)]
    except OSError:
        return
    for name in found:
        with contextlib.suppress(OSError):
            sweep_one(folder / name)


def sweep_one(work: Path) -> None:
    """Remove one work folder, if its lock is free and its host was this one or it is old; OSError if it is in use."""
    handle = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(handle, work) and (made_here(work) or long_unchanged(work)):
            put_back(work)
            shutil.rmtree(work, ignore_errors=True)
    finally:
        os.close(handle)


def put_back(work: Path) -> None:
    """Return what was set aside to where it was, if its replacement never came."""
    old = work / OLD
    for item in old.iterdir() if old.is_dir() else ():
        if not os.path.lexists(work.parent / item.name):
            item.rename(work.parent / item.name)


def is_at(handle: int, path: Path) -> bool:
    """Whether the open folder is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def host() -> str:
    """Eight hex digits that differ from host to host."""
    name = os.uname().nodename if hasattr(os, "uname") else ""
    return f"{zlib.crc32(name.encode()):08x}"


def made_here(work: Path) -> bool:
    """Whether a work folder was made on this host."""
    match = PATTERN.fullmatch(work.name)
    return match is not None and match[1] == host()


def long_unchanged(work: Path) -> bool:
    """Whether nothing happened in a work folder for a day, by the clock that stamps a file made beside it now."""
    with tempfile.TemporaryFile(dir=work.parent) as fresh:
        now = os.fstat(fresh.fileno()).st_mtime
    return now - newest(work) > FOREIGN_AGE


def newest(work: Path) -> float:
    """The last change of a folder or of anything in it."""
    return max(path.lstat().st_mtime for path in (work, *work.rglob("*")))
