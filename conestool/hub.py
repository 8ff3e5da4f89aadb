"""Concept files on the Hugging Face Hub: listing, fetching and uploading them. Starts without torch.

All of it goes through huggingface_hub, in silence, and every failure becomes one line that says what to do. The token
is the one that the client finds by itself (HF_TOKEN, or what `hf auth login` stored); nothing here reads it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import CRITICAL
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from conestool import format as cones
from conestool.concept import Cone
from conestool.errors import ConesError, FormatError, HubError, OutputExistsError, UsageError, causes, first_line
from conestool.format import limits

MAIN = "main"
"""The branch that every repository has."""
CARD = "README.md"
ENDING = ".cone"
PLAIN_NAME = re.compile(r"\w[\w .+'()-]*\.cone")
MAX_LISTED = 20
"""File names that an error lists."""
MAX_MESSAGE = 200
"""Characters of the Hub's own message that are shown."""
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
NO_RIGHT = {errno.EACCES, errno.EPERM}
REASONS = {
    "OfflineModeIsEnabled": ("HF_HUB_OFFLINE forbids to ask the Hub", "unset it, or use --offline"),
    "GatedRepoError": ("gated on the Hub", "accept its terms there, then: hf auth login"),
    "RevisionNotFoundError": ("the Hub has no revision {revision!r} of it", "see the branches and commits on its page"),
    "RepositoryNotFoundError": ("no such {what}", "check the spelling; for a private one: hf auth login"),
    "RemoteEntryNotFoundError": ("the Hub has no such file", "see the files on its page"),
}
"""What the errors of huggingface_hub mean, and what to do; a more special one stands before a more general one."""
LOG_IN = "log in with a token that may: hf auth login, or HF_TOKEN"
STATUS = {
    401: ("refused by the Hub: the token is missing or not valid", LOG_IN),
    403: ("refused by the Hub: the token may not do that", LOG_IN),
    409: ("changed on the Hub meanwhile", "run it again"),
    412: ("changed on the Hub meanwhile", "run it again"),
    429: ("the Hub was asked too often", "wait some minutes; a login is allowed more"),
}


class Listed(NamedTuple):
    """A file of a repository; `size` in bytes, None if only the cache was asked."""

    path: str
    size: int | None


@dataclass(frozen=True)
class Pulled:
    """A .cone file of a repository, read and found good; `revision` is the commit it came from."""

    repository: str
    path: str
    revision: str | None
    data: bytes
    cone: Cone


@dataclass(frozen=True)
class Target:
    """A branch of a repository as it was found: the commit at its head (None if it has none), its files' names."""

    repository: str
    branch: str
    head: str | None
    files: frozenset[str] = field(repr=False)

    def refuse_existing(self, names: Iterable[str]) -> None:
        """OutputExistsError if a file of one of these names is there."""
        if there := sorted(set(names) & self.files):
            raise OutputExistsError(
                f"{self.repository}: {', '.join(there)}: in the repository already",
                "choose another name, or overwrite it with --overwrite",
            )


@dataclass(frozen=True)
class Pushed:
    """What an upload left: the commit, and the address of the repository."""

    commit: str
    url: str


def is_repository(name: str) -> bool:
    """Whether it has the form owner/name and the letters that the Hub allows."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def check_repository(repository: str) -> None:
    """UsageError unless it is the name of a repository."""
    if not is_repository(repository):
        raise UsageError(f"{repository}: not a repository of the Hub", "write owner/name, as in its address")


def split_address(text: str) -> tuple[str, str | None, str | None]:
    """Repository, file and revision of `hf:owner/name/dog.cone@branch`, with `hf:` or without.

    None for what is left out. UsageError if it does not begin with owner/name.
    """
    name, _, revision = text.replace("\\", "/").removeprefix("hf:").partition("@")
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    check_repository(f"{owner}/{repository}")
    return f"{owner}/{repository}", file or None, revision or None


def plain_name(name: str) -> bool:
    """Whether a file name is one that no shell, terminal or file system minds."""
    return bool(PLAIN_NAME.fullmatch(name)) and len(name.encode()) <= 200


def pull(repository: str, path: str | None = None, *, revision: str | None = None, offline: bool = False) -> Pulled:
    """Fetch one .cone file, the only one where `path` is not given, and read it; no file is written but the cache's.

    UsageError if that does not name one file, HubError for what goes wrong on the way, FormatError for a bad file.
    """
    if path is None or not offline:
        known = (cached_files if offline else listed_files)(repository, revision)
        path = path or _only_file(repository, [each.path for each in known if each.path.endswith(ENDING)])
        for each in known:
            if each.path == path and (each.size or 0) > limits.MAX_FILE_BYTES:
                raise FormatError(
                    f"{repository}/{path}: {each.size} bytes, more than the {limits.MAX_FILE_BYTES} of a .cone file"
                )
    return read_cone(repository, path, revision=revision, offline=offline)


def _only_file(repository: str, names: Sequence[str]) -> str:
    """The only name; UsageError that lists them where there are several, or none."""
    if len(names) == 1:
        return names[0]
    if not names:
        raise UsageError(f"{repository}: no {ENDING} file in it", "see the files on its page")
    listed = ", ".join(names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "")
    raise UsageError(f"{repository}: {len(names)} {ENDING} files: {listed}", "name one of them after the repository")


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
            data = stream.read(limits.MAX_FILE_BYTES + 1)
    snapshot = local.parents[len(PurePosixPath(path).parts) - 1]  # snapshots/COMMIT/path
    return data, snapshot.name if snapshot.parent.name == "snapshots" else None


def listed_files(repository: str, revision: str | None = None) -> list[Listed]:
    """The files of a repository at a branch, tag or commit."""
    with hub_errors(repository, revision):
        info = _api().model_info(repository, revision=revision, files_metadata=True)
    return [Listed(each.rfilename, each.size) for each in info.siblings or ()]


def cached_files(repository: str, revision: str | None = None) -> list[Listed]:
    """The files of a repository that the Hub's cache has at that branch, tag or commit; nothing is asked of the Hub."""
    from huggingface_hub import snapshot_download

    with hub_errors(repository, revision, offline=True):
        snapshot = Path(str(snapshot_download(repository, revision=revision, local_files_only=True)))
    paths = (path.relative_to(snapshot) for path in snapshot.rglob("*") if path.is_file())
    return [Listed(path.as_posix(), None) for path in sorted(paths)]


def open_target(repository: str, *, branch: str | None = None, private: bool = False) -> Target:
    """The branch to upload to; repository and branch are made if they are not there, and so change the Hub.

    A new branch begins at main. UsageError if a public repository is there and `private` is asked for; HubError
    without a login, and for what goes wrong on the way.
    """
    from huggingface_hub import get_token

    check_repository(repository)
    with hub_errors(repository, branch):
        if not get_token():
            raise HubError(f"{repository}: not logged in to the Hub", "run: hf auth login, or set HF_TOKEN")
        api = _api()
        api.create_repo(repository, private=private, exist_ok=True)
        info = api.model_info(repository)
        if private and not info.private:
            raise UsageError(
                f"{repository}: there already, and public", "make it private in its settings, or leave out --private"
            )
        if branch not in (None, MAIN):
            api.create_branch(repository, branch=branch, exist_ok=True)
            info = api.model_info(repository, revision=branch)
    return Target(repository, branch or MAIN, info.sha, frozenset(each.rfilename for each in info.siblings or ()))


def push(target: Target, files: Mapping[str, bytes], message: str, *, overwrite: bool = False) -> Pushed:
    """Upload files (name in the repository -> bytes) in one commit on top of the target's head.

    OutputExistsError if one is there already, except README.md and unless `overwrite`. HubError, among others if the
    branch has moved on since it was opened.
    """
    from huggingface_hub import CommitOperationAdd

    if not overwrite:
        target.refuse_existing([name for name in files if name != CARD])
    additions = [CommitOperationAdd(name, data) for name, data in files.items()]
    options: dict[str, Any] = {"commit_message": message, "revision": target.branch, "parent_commit": target.head}
    with hub_errors(target.repository, target.branch):
        done = _api().create_commit(target.repository, additions, **options)
    return Pushed(str(done.oid), f"{_api().endpoint}/{target.repository}")


def _api() -> Any:
    """The Hub's client, a huggingface_hub.HfApi."""
    from huggingface_hub import HfApi

    return HfApi(library_name="conestool")


@contextmanager
def hub_errors(
    name: str, revision: str | None = None, offline: bool = False, what: str = "repository"
) -> Iterator[None]:
    """Turn whatever the client raises in the block into a HubError; within it the client prints nothing."""
    try:
        with _silence():
            yield
    except (ConesError, MemoryError):
        raise
    except Exception as error:
        message, hint = ("not on this machine", "run once without --offline") if offline else _explain(error)
        what = "model here or on the Hub" if what == "model" else f"{what} on the Hub"
        raise HubError(f"{name}: {message.format(revision=revision, what=what)}", hint) from error


@contextmanager
def _silence() -> Iterator[None]:
    """No bars and no log lines of the client, whose text is partly the server's; its settings return afterwards."""
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before, hidden = logging.get_verbosity(), are_progress_bars_disabled()
    logging.set_verbosity(CRITICAL)
    if not hidden:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if not hidden:
            enable_progress_bars()


def _explain(error: BaseException) -> tuple[str, str]:
    """Message and hint for a failure; the client and diffusers hide the Hub's answer behind errors of their own."""
    chain = list(causes(error))
    kinds = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    for name, reason in REASONS.items():
        if name in kinds:
            return reason
    for cause in chain:  # a connection that is not permitted has no file's name
        if isinstance(cause, OSError) and (cause.errno in NO_ROOM or (cause.errno in NO_RIGHT and cause.filename)):
            hint = "make room, or name another place with HF_HUB_CACHE"
            return f"the Hub's cache cannot be written: {cause.strerror}", hint
    answers = [answer for cause in chain if (answer := getattr(cause, "response", None)) is not None]
    status = answers[-1].status_code if answers else None
    if status in STATUS:
        return STATUS[status]
    said = first_line(chain[-1])[:MAX_MESSAGE].replace("{", "{{").replace("}", "}}")
    hint = "try again later" if status else "check the connection; --offline uses the cache alone"
    return f"the Hub cannot be used: {said}", hint
