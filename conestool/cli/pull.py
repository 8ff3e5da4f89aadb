"""`cones pull`: a .cone file from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from conestool.cli import _output, _streams
from conestool.cli._options import Json, Overwrite, flag, value
from conestool.errors import UsageError

if TYPE_CHECKING:
    from conestool.hub import Pulled


def pull(
    repository: Annotated[str, typer.Argument(metavar="REPO", help="owner/name, or hf:owner/name/dog.cone@branch.")],
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="Its .cone file. Default: the only one.")] = None,
    output: Annotated[Path | None, value("F", "Default: the file's name; - is stdout.", "-o", "--output")] = None,
    revision: Annotated[str | None, value("R", "Branch, tag or commit.")] = None,
    offline: Annotated[bool, flag("Never ask the Hub: use what was fetched before.")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Fetch a .cone file from the Hugging Face Hub.

    It is read as a whole before it is put anywhere. A private or gated repository needs a login: hf auth login, or
    HF_TOKEN.
    """
    from conestool import hub

    _streams.refuse_shared_stdout(output, json)
    repository, inside, at = hub.split_address(repository)
    file, revision = file or inside, revision or at
    if output is not None:
        _streams.check_outputs([output], "a .cone file", overwrite=overwrite)
    with _output.waiting(f"fetching from {repository}"):
        found = hub.pull(repository, file, revision=revision, offline=offline)
    path = _streams.write_bytes(output or default_output(found), found.data, "a .cone file", overwrite=overwrite)
    tell(found, path)
    _streams.emit_result(record(found, path), [path], json)


def default_output(found: Pulled) -> Path:
    """The file's own name, in the current folder; UsageError where a stranger chose it too cleverly."""
    from conestool.hub import plain_name

    name = PurePosixPath(found.path).name
    if not plain_name(name):
        raise UsageError(f"{found.path}: not a plain name for a file", "choose one with -o")
    return Path(name)


def tell(found: Pulled, path: Path) -> None:
    """What it is, where it came from, and the words that draw it."""
    commit = f" at {found.revision[:12]}" if found.revision else ""
    phrases = ", ".join(f"{each.phrase!r}" for each in found.cone.concepts)
    name = _streams.shown_output(path)
    _output.say(f"{name}: {phrases}, found on {found.cone.base.id}; from {found.repository}{commit}")


def record(found: Pulled, path: Path) -> dict[str, object]:
    """What JSON tells."""
    return {
        "output": str(path),
        "repository": found.repository,
        "file": found.path,
        "revision": found.revision,
        "bytes": len(found.data),
        "id": found.cone.id,
        "concepts": list(found.cone.names),
        "base": found.cone.base.id,
    }
