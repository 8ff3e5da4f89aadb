"""Files and folders that appear whole or not at all.

An output is made in a hidden folder beside it, such as `.dog.cone.k3j2h1g0.cones-tmp`, and renamed when it is complete.
To replace a folder takes two renames: a process killed between them leaves the old folder in the hidden one, and the
next write there puts it back. A hidden folder that has not changed for a day is removed by the next write there. Ages
are measured by the clock of the file system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from conestool._text import quoted
from conestool.errors import OutputExistsError, UsageError

ENDING = ".cones-tmp"
DAY = 24 * 3600.0
SHOWN = 40
"""Characters of the output's name in the hidden folder's: few enough for any file system, whatever the alphabet."""
NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}


def check_output(path: str | Path, *, overwrite: bool = False, folder: bool = False) -> None:
    """Refuse an output that cannot be written, before the work for it begins.

    OutputExistsError if something is there already (`overwrite` lets a file, or with `folder` a folder, be replaced);
    UsageError if the parent folder is missing or not writable, or if `path` is a folder where a file is wanted or the
    other way round.
    """
    path = Path(path)
    if _is_device(path):
        if _is_terminal(path):
            raise UsageError(f"{path}: a terminal, will not write a file to it", "give the name of a file")
        return
    parent = path.parent
    if not parent.is_dir():
        raise UsageError(f"{path}: {parent} is not a folder", f"make it first: mkdir -p {quoted(parent)}")
    if path.is_dir() and not folder:
        raise UsageError(f"{path}: is a folder", "give the name of a file, such as dog.cone")
    if folder and path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file, not a folder", "give another name")
    if not overwrite and os.path.lexists(path):
        raise OutputExistsError(f"{path}: exists already", "choose another name, or overwrite it with --overwrite")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: the folder {parent} is not writable", "choose another folder")


def write_atomic(path: str | Path, data: bytes, *, overwrite: bool = False, mend: bool = True) -> Path:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part; returns the path.

    Without `mend` it does not look for what killed writers left, which takes the longer the more files are there.
    A device or pipe is written to directly. UsageError and OutputExistsError as `check_output`, and UsageError for any
    other failure to write.
    """
    path = Path(path)
    if not _is_device(path):
        with atomic_file(path, overwrite=overwrite, mend=mend) as temporary:
            temporary.write_bytes(data)
        return path
    with _reported(path):
        path.write_bytes(data)
    return path


@contextlib.contextmanager
def atomic_file(path: str | Path, *, overwrite: bool = False, mend: bool = True) -> Iterator[Path]:
    """A temporary file, empty at first, that becomes `path` when the block ends, and vanishes if the block raises.

    It lies in the same folder; fsync, rename, fsync of the folder. Raises as `write_atomic`.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    with _reported(path), _workplace(path, mend) as (work, target):
        new = work / "new" / target.name
        new.parent.mkdir()
        new.touch()
        mode = new.stat().st_mode
        yield new
        _finish(new, mode)
        check_output(path, overwrite=overwrite)
        new.replace(target) if overwrite else _move_to_free(new, path, target)
        _sync_entries(target.parent)


@contextlib.contextmanager
def atomic_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends, and vanishes if the block raises.

    With `overwrite` a folder that is there already is replaced as a whole. Its files get the permissions of new files,
    which some libraries do not give them. Raises as `check_output`.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite, folder=True)
    with _reported(path), _workplace(path) as (work, target):
        new = work / "new" / target.name
        new.mkdir(parents=True)
        yield new
        (work / "mode").touch()
        for place, _, files in os.walk(new):
            for name in files:
                _finish(Path(place, name), (work / "mode").stat().st_mode)
            _sync_entries(Path(place))
        _replace_folder(new, path, target, work / "old", overwrite)
        _sync_entries(target.parent)


@contextlib.contextmanager
def _workplace(path: Path, mend: bool = True) -> Iterator[tuple[Path, Path]]:
    """A new hidden folder beside `path`, removed when the block ends, and `path` with links resolved."""
    target = Path(os.path.realpath(path))
    work = Path(tempfile.mkdtemp(prefix=f".{target.name[:SHOWN]}.", suffix=ENDING, dir=target.parent))
    try:
        if mend:
            _mend(target.parent, work.stat().st_mtime)
        yield work, target
    finally:
        _put_back(work)
        shutil.rmtree(work, ignore_errors=True)


def _mend(folder: Path, now: float) -> None:
    """Put back what killed writers set aside in `folder`, and remove hidden folders unchanged for a day."""
    for work in folder.glob(f".*{ENDING}"):
        if not work.is_symlink() and work.is_dir():
            with contextlib.suppress(OSError):
                _put_back(work)
                if now - max(path.lstat().st_mtime for path in (work, *work.rglob("*"))) > DAY:
                    shutil.rmtree(work)


def _put_back(work: Path) -> None:
    """Return a folder that was set aside to its name, unless something has that name by now."""
    for old in (work / "old").glob("*"):
        if not os.path.lexists(work.parent / old.name):
            with contextlib.suppress(OSError):
                old.rename(work.parent / old.name)


def _move_to_free(new: Path, path: Path, target: Path) -> None:
    """Give a file the name `target` unless something else has it by now; then OutputExistsError for `path`."""
    try:
        os.link(new, target)
    except FileExistsError:
        check_output(path)
        raise
    except OSError:  # no hard links on this file system: the check before must do
        new.replace(target)


def _replace_folder(new: Path, path: Path, target: Path, old: Path, overwrite: bool) -> None:
    """Give a folder the name `target`; with `overwrite` what has that name is moved into the folder `old` first."""
    while True:
        check_output(path, overwrite=overwrite, folder=True)
        try:
            new.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
        shutil.rmtree(old, ignore_errors=True)
        old.mkdir()
        with contextlib.suppress(FileNotFoundError):  # what was in the way is gone again
            target.rename(old / target.name)


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """A failure to write, as UsageError that names `path`; an error about a file elsewhere passes as it is.

    Except that there is no room: while a file is copied, the system names the one that is read.
    """
    try:
        yield
    except OSError as error:
        elsewhere = str(error.filename) not in ("None", str(path)) and ENDING not in str(error.filename)
        if elsewhere and error.errno not in NO_ROOM:
            raise
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}", "choose another place") from error


def _finish(path: Path, mode: int) -> None:
    """Set a file's permissions and put its bytes on disk; OSError if that fails, but not where it cannot be asked."""
    path.chmod(mode)
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(handle)


def _sync_entries(folder: Path) -> None:
    """Ask the system to put a folder's entries on disk; not every system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def expand_user(path: str | Path) -> Path:
    """`path` with ~ written out; as it is where there is no such user, or no home."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  (the method of Path raises there)


def _is_device(path: Path) -> bool:
    """Whether `path` is something that exists and is neither a file nor a folder, such as /dev/null or a pipe."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _is_terminal(path: Path) -> bool:
    """Whether the device `path` is a terminal, such as /dev/stdout often is; pipes are not opened to find out."""
    try:
        if not path.is_char_device():
            return False
        handle = os.open(path, os.O_WRONLY | getattr(os, "O_NOCTTY", 0))
    except OSError:
        return False
    try:
        return os.isatty(handle)
    finally:
        os.close(handle)
