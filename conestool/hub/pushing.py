"""Uploading .cone files with a model card to a repository of the Hub, in one commit that overwrites nothing unasked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from conestool.errors import HubError, OutputExistsError, UsageError
from conestool.hub.asking import MAIN, api, check_repository, hub_errors

__all__ = ["CARD", "Pushed", "Target", "open_target", "push"]

CARD = "README.md"


@dataclass(frozen=True)
class Target:
    """A branch of a repository as it was found: the commit at its head (None if it has none), its files' names."""

    repository: str
    branch: str
    head: str | None
    files: frozenset[str] = field(repr=False)

    def refuse_existing(self, names: Iterable[str]) -> None:
        """OutputExistsError if a file of one of these names is there."""
        there = sorted(set(names) & self.files)
        if there:
            raise OutputExistsError(
                f"{self.repository}: {', '.join(there)}: in the repository already",
                "choose another name, or overwrite it with --force",
            )


@dataclass(frozen=True)
class Pushed:
    """What an upload left: the commit, and the address of the repository."""

    commit: str
    url: str


def open_target(repository: str, *, branch: str | None = None, private: bool = False) -> Target:
    """The branch to upload to; repository and branch are made if they are not there, and so change the Hub.

    A new branch begins at main. UsageError if a public repository is there and `private` is asked for; HubError
    without a login, and for what goes wrong on the way.
    """
    check_repository(repository)
    refuse_anonymous(repository)
    with hub_errors(repository, branch):
        info = found(repository) or made(repository, private)
    if private and not info.private:
        raise UsageError(
            f"{repository}: there already, and public", "make it private in its settings, or leave out --private"
        )
    if branch not in (None, MAIN):
        with hub_errors(repository, branch):
            info = branch_head(repository, str(branch))
    return Target(repository, branch or MAIN, info.sha, frozenset(each.rfilename for each in info.siblings or ()))


def refuse_anonymous(repository: str) -> None:
    """HubError if the client knows no token: nothing can be uploaded without one."""
    from huggingface_hub import get_token

    with hub_errors(repository):
        missing = not get_token()
    if missing:
        raise HubError(f"{repository}: not logged in to the Hub", "run: hf auth login, or set HF_TOKEN")


def found(repository: str) -> Any:
    """What the Hub knows of a repository; None if it is not there."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return api().model_info(repository)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None


def made(repository: str, private: bool) -> Any:
    """A new repository."""
    api().create_repo(repository, private=private)
    return api().model_info(repository)


def branch_head(repository: str, branch: str) -> Any:
    """What the Hub knows of a branch, which is made if it is not there."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return api().model_info(repository, revision=branch)
    except RevisionNotFoundError:
        api().create_branch(repository, branch=branch)
        return api().model_info(repository, revision=branch)


def push(target: Target, files: Mapping[str, bytes], message: str, *, force: bool = False) -> Pushed:
    """Upload files (name in the repository -> bytes) in one commit on top of the target's head.

    OutputExistsError if one is there already, except README.md and unless `force`. HubError, among others if the branch
    has moved on since it was opened.
    """
    from huggingface_hub import CommitOperationAdd

    if not force:
        target.refuse_existing([name for name in files if name != CARD])
    additions = [CommitOperationAdd(name, data) for name, data in files.items()]
    options: dict[str, Any] = {"commit_message": message, "revision": target.branch, "parent_commit": target.head}
    with hub_errors(target.repository, target.branch):
        done = api().create_commit(target.repository, additions, **options)
    return Pushed(str(done.oid), f"{api().endpoint}/{target.repository}")
