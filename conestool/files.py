"""Writing files and folders whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from conestool.errors import OutputExistsError, UsageError
from conestool.text import quoted

__all__ = ["atomic_file", "atomic_folder", "check_output", "expand_user", "write_atomic"]

SHORT = 25
"""Characters of a name that a temporary one takes over, at most 100 of the 255 bytes that file systems allow."""


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
    with reported(path):
        target = Path(os.path.realpath(path))
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:SHORT]}.", suffix=target.suffix[:20], dir=target.parent)
        os.close(handle)
        try:
            yield Path(name)
            sync(Path(name))
            Path(name).chmod(0o666 & ~umask())
            check_output(path, force=force)
            move(Path(name), target, force)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync(target.parent)


def move(source: Path, target: Path, force: bool) -> None:
    """Let `source` become `target`; without `force` OutputExistsError if another process has made it meanwhile."""
    if not force:
        try:
            os.link(source, target)  # fails where a rename would replace
        except FileExistsError as error:
            raise OutputExistsError(f"{target}: exists already", "choose another name") from error
        except OSError:  # a file system without hard links
            source.replace(target)
        else:
            source.unlink()
        return
    source.replace(target)


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
    """A failure to write there, as UsageError that names `path`; an error about a file elsewhere passes as it is."""
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str) and not in_folder(error.filename, path):
            raise
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}", "choose another place") from error


@contextlib.contextmanager
def atomic_folder(path: str | Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends, and vanishes if the block raises.

    With `force` a folder that is there already is replaced as a whole. Raises as `check_output`.
    """
    path = Path(path)
    check_output(path, force=force, folder=True)
    with reported(path):
        work = Path(tempfile.mkdtemp(prefix=f".{path.name[:SHORT]}.", dir=path.parent))
        try:
            work.chmod(0o777 & ~umask())
            yield work
            swap(work, path, force)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        sync(path.parent)


def swap(work: Path, path: Path, force: bool) -> None:
    """Move `work` to `path`; what was there is set aside first, and put back if the move fails."""
    check_output(path, force=force, folder=True)
    if not os.path.lexists(path):
        work.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name[:SHORT]}.old.", dir=path.parent)) / path.name
    path.rename(old)
    try:
        work.rename(path)
    except OSError:
        old.rename(path)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


def in_folder(name: str, path: Path) -> bool:
    """Whether the file `name` lies somewhere in the folder of `path`, links resolved or not."""
    folders = (os.path.abspath(path.parent), os.path.dirname(os.path.realpath(path)))  # noqa: PTH100, PTH120
    return any(Path(os.path.abspath(name)).is_relative_to(folder) for folder in folders)  # noqa: PTH100


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
    """Ask the system to put a file, or a folder's entries, on disk; not every system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
