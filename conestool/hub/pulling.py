"""Which .cone files a repository of the Hub has, and reading one of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from conestool import format as cones
from conestool.concept import Cone
from conestool.errors import FormatError, UsageError
from conestool.format import limits
from conestool.hub.asking import MAIN, api, hub_errors

__all__ = ["ENDING", "Listed", "Pulled", "cached_files", "fetch", "listed_files", "plain_name", "pull", "read_cone"]

ENDING = ".cone"
PLAIN = re.compile(r"\w[\w .+'()-]*\.cone")
SHOWN = 20
"""File names that an error lists."""


class Listed(NamedTuple):
    """A file of a repository; `size` in bytes, None if only the cache was asked."""

    path: str
    size: int | None


def plain_name(name: str) -> bool:
    """Whether a file name is one that no shell, terminal or file system minds."""
    return bool(PLAIN.fullmatch(name)) and len(name.encode()) <= 200


@dataclass(frozen=True)
class Pulled:
    """A .cone file of a repository, read and found good; `revision` is the commit it came from."""

    repository: str
    path: str
    revision: str | None
    data: bytes
    cone: Cone


def pull(repository: str, path: str | None = None, *, revision: str | None = None, offline: bool = False) -> Pulled:
    """Fetch one .cone file, the only one where `path` is not given, and read it; no file is written but the cache's.

    UsageError if that does not name one file, HubError for what goes wrong on the way, FormatError for a bad file.
    """
    if path is None:
        known = (cached_files if offline else listed_files)(repository, revision)
        chosen = choose(repository, [each for each in known if each.path.endswith(ENDING)])
        refuse_large(repository, chosen)
        path = chosen.path
    elif not offline:
        refuse_large(repository, *[each for each in listed_files(repository, revision) if each.path == path])
    return read_cone(repository, path, revision=revision, offline=offline)


def choose(repository: str, files: Sequence[Listed]) -> Listed:
    """The only file; UsageError that lists them where there are several, or none."""
    if len(files) == 1:
        return files[0]
    if not files:
        raise UsageError(f"{repository}: no {ENDING} file in it", "see the files on its page")
    names = ", ".join(each.path for each in files[:SHOWN]) + (", ..." if len(files) > SHOWN else "")
    raise UsageError(f"{repository}: {len(files)} {ENDING} files: {names}", "name one of them after the repository")


def refuse_large(repository: str, *files: Listed) -> None:
    """FormatError for a file that no reader would take, before it is downloaded."""
    for each in files:
        if each.size is not None and each.size > limits.FILE:
            raise FormatError(
                f"{repository}/{each.path}: {each.size} bytes, more than the {limits.FILE} of a .cone file"
            )


def read_cone(repository: str, path: str, *, revision: str | None = None, offline: bool = False) -> Pulled:
    """Fetch one .cone file into the Hub's cache, or find it there, and read it; errors as `pull`."""
    data, commit = fetch(repository, path, revision, offline)
    return Pulled(repository, path, commit, data, cones.loads(data, f"{repository}/{path}"))


def fetch(repository: str, path: str, revision: str | None = None, offline: bool = False) -> tuple[bytes, str | None]:
    """The bytes of any file, cut off where no .cone file may be that long, and the commit it came from."""
    from huggingface_hub import hf_hub_download

    options: dict[str, Any] = {"revision": revision, "local_files_only": offline, "library_name": "conestool"}
    with hub_errors(f"{repository}/{path}", revision, offline):
        local = Path(str(hf_hub_download(repository, path, **options)))
        with local.open("rb") as stream:
            return stream.read(limits.FILE + 1), commit_of(local, path)


def commit_of(local: Path, path: str) -> str | None:
    """The commit of a file in the cache, snapshots/COMMIT/path; None where the cache is laid out otherwise."""
    snapshot = local.parents[len(PurePosixPath(path).parts) - 1]
    return snapshot.name if snapshot.parent.name == "snapshots" else None


def listed_files(repository: str, revision: str | None = None) -> list[Listed]:
    """The files of a repository at a branch, tag or commit."""
    with hub_errors(repository, revision):
        info = api().model_info(repository, revision=revision, files_metadata=True)
    return [Listed(each.rfilename, each.size) for each in info.siblings or ()]


def cached_files(repository: str, revision: str | None = None) -> list[Listed]:
    """The files of a repository that the Hub's cache has at that branch, tag or commit; nothing is asked of the Hub."""
    from huggingface_hub import constants, scan_cache_dir

    with hub_errors(repository, revision, offline=True):
        known = scan_cache_dir(constants.HF_HUB_CACHE).repos
        repositories = [each for each in known if each.repo_type == "model" and each.repo_id == repository]
        wanted = revision or MAIN
        (snapshot,) = (
            each for one in repositories for each in one.revisions if wanted in {each.commit_hash, *each.refs}
        )
    paths = (each.file_path.relative_to(snapshot.snapshot_path) for each in snapshot.files)
    return [Listed(path.as_posix(), None) for path in sorted(paths)]
