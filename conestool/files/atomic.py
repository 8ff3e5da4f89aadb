"""Writing files and folders whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from conestool.errors import OutputExistsError, UsageError
from conestool.files.exchange import exchange
from conestool.files.workplace import NEW, OLD, workplace
from conestool.text import quoted

__all__ = ["atomic_file", "atomic_folder", "check_output", "expand_user", "write_atomic"]

NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
CANNOT_EXCHANGE = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV}


def check_output(path: str | Path, *, force: bool = False, folder: bool = False) -> None:
    """Refuse an output that cannot be written, before the work for it begins.

    OutputExistsError if something is there already (`force` allows a file, or with `folder` a folder, to be replaced);
    UsageError if the parent folder is missing or not writable, or if `path` is a folder where a file is wanted or the
    other way round.
    """
    path = Path(path)
    if is_device(path):
        if is_terminal(path):
            raise UsageError(f"{path}: a terminal, will not write a file to it", "give the name of a file")
        return
    parent = path.parent
    if not parent.is_dir():
        raise UsageError(f"{path}: {parent} is not a folder", f"make it first: mkdir -p {quoted(parent)}")
    if path.is_dir() and not folder:
        raise UsageError(f"{path}: is a folder", "give the name of a file, such as dog.cone")
    if folder and path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file, not a folder", "give another name")
    if not force and os.path.lexists(path):
        raise OutputExistsError(f"{path}: exists already", "choose another name, or overwrite it with --force")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: the folder {parent} is not writable", "choose another folder")


def write_atomic(path: str | Path, data: bytes, *, force: bool = False) -> Path:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part; returns the path.

    A device or pipe is written to directly. UsageError and OutputExistsError as `check_output`, and UsageError for any
    other failure to write.
    """
    path = Path(path)
    if not is_device(path):
        with atomic_file(path, force=force) as temporary:
            temporary.write_bytes(data)
        return path
    with reported(path):
        path.write_bytes(data)
    return path


@contextlib.contextmanager
def atomic_file(path: str | Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary file, empty at first, that becomes `path` when the block ends, and vanishes if the block raises.

    It lies in the same folder; fsync, rename, fsync of the folder. Raises as `write_atomic`.
    """
    path = Path(path)
    check_output(path, force=force)
    with reported(path), workplace(path) as (work, target):
        new = work / NEW / target.name
        new.parent.mkdir()
        new.touch()
        yield new
        new.chmod(0o666 & ~umask())
        sync(new)
        check_output(path, force=force)
        new.replace(target) if force else move_to_free(new, path, target)
        sync_entries(target.parent)


def move_to_free(new: Path, path: Path, target: Path) -> None:
    """Give a file the name `target` unless something else has it by now; then OutputExistsError for `path`."""
    try:
        os.link(new, target)
    except FileExistsError:
        check_output(path)
        raise
    except OSError:  # no hard links on this file system: the check before must do
        new.replace(target)


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
    """A failure to write there, as UsageError that names `path`; an error about a file elsewhere passes as it is.

    Except that there is no room: while a file is copied, the system names the one that is read.
    """
    try:
        yield
    except OSError as error:
        elsewhere = isinstance(error.filename, str | os.PathLike) and not in_folder(error.filename, path)
        if elsewhere and error.errno not in NO_ROOM:
            raise
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}", "choose another place") from error


@contextlib.contextmanager
def atomic_folder(path: str | Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends, and vanishes if the block raises.

    With `force` a folder that is there already is replaced as a whole. Raises as `check_output`.
    """
    path = Path(path)
    check_output(path, force=force, folder=True)
    with reported(path), workplace(path) as (work, target):
        new = work / NEW / target.name
        new.mkdir(parents=True)
        yield new
        finish_tree(new)
        check_output(path, force=force, folder=True)
        move_folder(new, path, target, work, force)
        sync_entries(target.parent)


def move_folder(new: Path, path: Path, target: Path, work: Path, force: bool) -> None:
    """Give a folder the name `target`; with `force` what has that name already ends up in `work`."""
    while not renamed(new, target):
        check_output(path, force=force, folder=True)
        with contextlib.suppress(FileNotFoundError):  # what was in the way is gone again
            swap(new, target, work)
            return


def renamed(new: Path, target: Path) -> bool:
    """Rename a folder unless the other name is that of a folder with something in it; whether that was done."""
    try:
        new.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def swap(new: Path, target: Path, work: Path) -> None:
    """Put the folder `new` where `target` is, in one step where the system can."""
    try:
        exchange(new, target)
    except OSError as error:
        if error.errno not in CANNOT_EXCHANGE:
            raise
        set_aside(new, target, work)


def set_aside(new: Path, target: Path, work: Path) -> None:
    """Put the folder `new` where `target` is, in two steps.

    What was there is put back if the second fails, and by the next `sweep` if the process is killed in between.
    """
    old = work / OLD / target.name
    old.parent.mkdir(exist_ok=True)
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise


def in_folder(name: str | os.PathLike[str], path: Path) -> bool:
    """Whether the file `name` lies somewhere in the folder of `path`, links resolved or not.

    True too if that can't be told, since the current folder is gone.
    """
    try:
        folders = (os.path.abspath(path.parent), os.path.dirname(os.path.realpath(path)))  # noqa: PTH100, PTH120
        return any(Path(os.path.abspath(name)).is_relative_to(folder) for folder in folders)  # noqa: PTH100
    except FileNotFoundError:
        return True


def expand_user(path: str | Path) -> Path:
    """`path` with ~ written out; as it is where there is no such user, or no home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_device(path: Path) -> bool:
    """Whether `path` is something that exists and is neither a file nor a folder, such as /dev/null or a pipe."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def is_terminal(path: Path) -> bool:
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


def umask() -> int:
    """The process's umask (it can only be read by setting it)."""
    current = os.umask(0o077)
    os.umask(current)
    return current


def sync(path: Path) -> None:
    """Put a file's bytes on disk; OSError if that fails, since they may be lost, but not where it cannot be asked."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(handle)


def sync_entries(folder: Path) -> None:
    """Ask the system to put a folder's entries on disk; not every system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def finish_tree(folder: Path) -> None:
    """Give every file in a folder a new file's permissions, which some libraries do not, and put all of it on disk."""
    mode = 0o666 & ~umask()
    for place, _, files in os.walk(folder):
        for name in files:
            Path(place, name).chmod(mode)
            sync(Path(place, name))
        sync_entries(Path(place))
