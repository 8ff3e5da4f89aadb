"""Which files are meant as photos: folders and paths as people give them, without ever waiting at a pipe."""

from __future__ import annotations

import errno
import os
import stat
import warnings
from collections.abc import Iterable, Sequence
from io import BufferedReader
from pathlib import Path

from PIL import Image

from conestool.diffusion.costs import check_cost
from conestool.errors import PhotoError

__all__ = ["FORMATS", "expand_paths", "open_file", "reason"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
CAPTION = ".txt"
"""Ending of the text beside a photo that says what it shows."""
ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II", b"MM")
MAX_BYTES = 1 << 29
NAMED = 5
LOOK_INTO = 1000
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def expand_paths(paths: Iterable[str | Path]) -> tuple[list[Path], list[str]]:
    """The image files that `paths` name, and notes on whatever else a folder holds; subfolders are not entered.

    A path named outright must be a file or a folder: PhotoError if it is not there, or a pipe, a socket or a device.
    """
    files: list[Path] = []
    notes: list[str] = []
    for path in map(Path, paths):
        kind = kind_of(path)
        if kind == "a folder":
            inside, remarks = sort_folder(path)
            files += inside
            notes += remarks
        elif kind:
            raise PhotoError(f"{path}: {kind}", "give folders, or JPEG, PNG, WebP, GIF, BMP or TIFF files")
        else:
            files.append(path)
    return list(dict.fromkeys(files)), notes


def sort_folder(folder: Path) -> tuple[list[Path], list[str]]:
    """The images in `folder` in name order, and notes on the rest; names that start with a dot are passed over.

    Files without an image's ending are looked into only where there are no more than 1,000 of them.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda each: each.name)
    except OSError as error:
        raise PhotoError(f"{folder}: cannot be listed: {reason(error)}", "change its permissions") from error
    unclear = [entry.name for entry in entries if not has_ending(entry)]
    files: list[Path] = []
    others: dict[str, list[str]] = {}
    for entry in entries:
        what = kind_of_entry(entry)
        if not what and not has_ending(entry):
            what = why_no_image(Path(entry), look=len(unclear) <= LOOK_INTO)
        if what:
            others.setdefault(what, []).append(entry.name)
        else:
            files.append(Path(entry))
    named = {f"{file.stem}{CAPTION}" for file in files}
    others = {what: kept for what, names in others.items() if (kept := [name for name in names if name not in named])}
    return files, [note for what, names in others.items() for note in tell_skipped(names, what)]


def has_ending(entry: os.DirEntry[str]) -> bool:
    """Whether an entry has the name of an image."""
    return Path(entry.name).suffix.lower() in ENDINGS


def kind_of_entry(entry: os.DirEntry[str]) -> str | None:
    """`kind_of` without asking the disk again about the plain files, which most are."""
    return None if entry.is_file(follow_symlinks=False) else kind_of(Path(entry))


def tell_skipped(names: Sequence[str], what: str) -> list[str]:
    """One note per name, or a single one with the number where there are many."""
    if len(names) <= NAMED:
        return [f"{name}: {what}, skipped" for name in names]
    return [f"{', '.join(names[: NAMED - 2])} and {len(names) - NAMED + 2:,} others: {what}, skipped"]


def kind_of(path: Path) -> str | None:
    """What lies at `path` if it is no regular file, links followed; None for a file."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if os.path.islink(path):  # noqa: PTH114  (the method of Path raises for names that are too long)
            return "a link in a circle" if error.errno == errno.ELOOP else "a link to nowhere"
        return "no such file or folder" if error.errno == errno.ENOENT else reason(error)
    except ValueError:  # a NUL in the path
        return "no such file or folder"
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "neither a file nor a folder")


def why_no_image(path: Path, look: bool) -> str | None:
    """What to say of a file without an image's ending that is none by its first bytes; None if it is one."""
    if not look:
        return "no image by its name, and too many to look into"
    try:
        with open_file(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if file.peek(4).startswith(SIGNATURES):
                if not too_costly(file):
                    Image.open(file, formats=FORMATS).close()
                return None
    except Image.DecompressionBombError:
        return None
    except Exception:  # whatever a decoder stumbles over: a file without an image's name need not be one
        return "not an image"
    return "not an image"


def too_costly(file: BufferedReader) -> bool:
    """Whether reading the picture will be refused for what it would cost, with its name."""
    try:
        check_cost(file, "")
    except PhotoError:
        return True
    return False


def open_file(path: Path) -> BufferedReader:
    """`path` opened for reading; PhotoError for an empty file, one too large, and for what is no regular file.

    Opened without blocking, so that even a pipe that took the file's place a moment ago is not waited for.
    """
    name = path.name
    kind = kind_of(path)
    if kind:
        raise PhotoError(f"{name}: {kind}")
    try:
        file = path.open("rb") if os.name == "nt" else os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise PhotoError(f"{name}: cannot be read: {reason(error)}") from error
    size = os.fstat(file.fileno()).st_size
    if 0 < size <= MAX_BYTES:
        return file
    file.close()
    raise PhotoError(f"{name}: {'an empty file' if not size else f'more than {MAX_BYTES >> 20} MiB'}")


def reason(error: BaseException) -> str:
    """The text of an exception without the path that an OSError carries."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]
