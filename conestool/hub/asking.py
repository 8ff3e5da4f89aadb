"""Asking the Hub: through its own client, in silence, and with every failure as one line that says what to do.

The token is the one that the client finds by itself (HF_TOKEN, or what `hf auth login` stored); nothing here reads it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from logging import CRITICAL
from typing import Any

from conestool.errors import ConesError, HubError, UsageError, causes, first_line

__all__ = ["MAIN", "api", "check_repository", "explain", "hub_errors", "is_repository"]

MAIN = "main"
"""The branch that every repository has."""
LONGEST = 200
"""Characters of the Hub's own message that are shown."""
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
NO_RIGHT = {errno.EACCES, errno.EPERM}
CLOSED = {401: "the token is missing or not valid", 403: "the token may not do that"}


def api() -> Any:
    """The Hub's client, a huggingface_hub.HfApi."""
    from huggingface_hub import HfApi

    return HfApi(library_name="conestool")


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


@contextmanager
def hub_errors(
    name: str, revision: str | None = None, offline: bool = False, what: str = "repository"
) -> Iterator[None]:
    """Turn whatever the client raises in the block into a HubError; within it the client prints nothing."""
    try:
        with silence():
            yield
    except (ConesError, MemoryError):
        raise
    except Exception as error:
        raise HubError(*explain(name, revision, offline, error, what)) from error


@contextmanager
def silence() -> Iterator[None]:
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


def explain(name: str, revision: str | None, offline: bool, error: BaseException, what: str) -> tuple[str, str]:
    """Message and hint for a failure; the client and diffusers hide the Hub's answer behind errors of their own."""
    from huggingface_hub import errors

    chain = list(causes(error))

    def has(kind: type[BaseException]) -> bool:
        return any(isinstance(cause, kind) for cause in chain)

    if offline:
        return f"{name}: not on this machine", "run once without --offline"
    if has(errors.OfflineModeIsEnabled):
        return (
            f"{name}: HF_HUB_OFFLINE forbids to ask the Hub",
            "unset it, or use --offline for what was fetched before",
        )
    if has(errors.GatedRepoError):
        return f"{name}: gated on the Hub", "accept its terms there, then: hf auth login"
    if has(errors.RevisionNotFoundError):
        return f"{name}: the Hub has no revision {revision!r} of it", "see the branches and commits on its page"
    if has(errors.RepositoryNotFoundError):
        place = "here or on the Hub" if what == "model" else "on the Hub"
        return f"{name}: no such {what} {place}", "check the spelling; for a private one: hf auth login"
    if has(errors.EntryNotFoundError) and not has(errors.LocalEntryNotFoundError):
        return f"{name}: the Hub has no such file", "see the files on its page"
    if full := [cause for cause in chain if isinstance(cause, OSError) and unwritable(cause)]:
        text = f"{name}: the Hub's cache cannot be written: {full[0].strerror}"
        return text, "make room, or name another place with HF_HUB_CACHE"
    return explain_status(name, chain)


def unwritable(error: OSError) -> bool:
    """Whether a disk is full or closed; a connection that is not permitted has no file's name."""
    return error.errno in NO_ROOM or (error.errno in NO_RIGHT and error.filename is not None)


def explain_status(name: str, chain: list[BaseException]) -> tuple[str, str]:
    """Message and hint by the status of the Hub's answer, where there was one."""
    answers = [answer for cause in chain if (answer := getattr(cause, "response", None)) is not None]
    status = answers[-1].status_code if answers else None
    if status in CLOSED:
        return (
            f"{name}: refused by the Hub: {CLOSED[status]}",
            "log in with a token that may: hf auth login, or HF_TOKEN",
        )
    if status in (409, 412):
        return f"{name}: changed on the Hub meanwhile", "run it again"
    if status == 429:
        return f"{name}: the Hub was asked too often", "wait some minutes; a login is allowed more"
    said = first_line(chain[-1])[:LONGEST]
    hint = "try again later" if status else "check the connection; --offline uses the cache alone"
    return f"{name}: the Hub cannot be used: {said}", hint
