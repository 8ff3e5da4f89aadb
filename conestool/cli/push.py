"""`cones push`: .cone files to the Hugging Face Hub, with a model card."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from conestool.cli import _options, _output, _streams
from conestool.cli._options import DeviceOption, Json, ModelOption, Overwrite, flag, value
from conestool.errors import FormatError, UsageError

if TYPE_CHECKING:
    from conestool.cli._format import FileFacts
    from conestool.concept import Cone
    from conestool.hub import Target

MOST_READ = 100
"""Files in the repository beside the new ones that the card describes."""


class Upload(NamedTuple):
    """A file as it goes out: its name in the repository, its bytes, and what they hold."""

    name: str
    data: bytes
    cone: Cone


def push(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".cone files; - reads stdin.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="Repository on the Hub, owner/name.")],
    private: Annotated[bool, flag("Make a new repository private.")] = False,
    license: Annotated[str | None, value("ID", "For the card, as the Hub names it.")] = None,
    pictures: Annotated[bool, flag("Draw each concept beside the base model, for the card.")] = False,
    message: Annotated[str | None, value("TEXT", "Of the commit. Default: made up.")] = None,
    revision: Annotated[str | None, value("R", "Branch, made if it is not there. Default: main.")] = None,
    model: ModelOption = None,
    device: DeviceOption = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Upload .cone files to the Hugging Face Hub.

    The repository is made if it is not there. README.md becomes a model card of all its .cone files, unless somebody
    else wrote one. Needs a login that may write: hf auth login, or HF_TOKEN.
    """
    from conestool import hub

    hub.check_repository(repository)
    uploads = read(files)
    warn_of_folders(uploads)
    drawn = draw(uploads, model, device) if pictures else {}
    _options.warn_unused("without --pictures", {"--model": model and not pictures})
    with _output.waiting(f"uploading to {repository}"):
        target = hub.open_target(repository, branch=revision, private=private)
        if not overwrite:
            target.refuse_existing(upload.name for upload in uploads)
        card = make_card(target, uploads, license, target.files | drawn.keys())
        data = {upload.name: upload.data for upload in uploads} | ({} if card is None else {hub.CARD: card.encode()})
        data |= {name: picture for name, picture in drawn.items() if overwrite or name not in target.files}
        done = hub.push(
            target, data, message or f"Add {', '.join(upload.name for upload in uploads)}", overwrite=overwrite
        )
    names = [upload.name for upload in uploads]
    _output.say(f"{repository}: {', '.join(names)} on {target.branch}, commit {done.commit[:12]}")
    told = {"repository": repository, "url": done.url, "branch": target.branch, "commit": done.commit}
    _streams.emit_result(told | {"files": list(data)}, [done.url], json)


def read(files: Sequence[Path]) -> list[Upload]:
    """The files with their names in the repository; UsageError where these are odd, or the same."""
    from conestool import format as cones
    from conestool.hub import plain_name

    _streams.refuse_twice_stdin(files)
    uploads = []
    for path in files:
        data, shown = bytes_of(path)
        cone = cones.loads(data, shown)
        name = _streams.default_output(cone.names).name if str(path) == _streams.STDIO else path.name
        if not plain_name(name):
            raise UsageError(
                f"{path}: not a name for others to use", "name it with letters and digits, and end it in .cone"
            )
        uploads.append(Upload(name, data, cone))
    names = [upload.name for upload in uploads]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{', '.join(twice)}: named twice", "files have the same place in the repository")
    return uploads


def bytes_of(path: Path) -> tuple[bytes, str]:
    """What to upload, and what errors call it; as `conestool.load` for what is not there or cannot be a .cone file."""
    from conestool import format as cones

    if str(path) == _streams.STDIO:
        return _streams.read_bytes("a .cone file"), "stdin"
    cones.read_header(path)
    return path.read_bytes(), str(path)


def warn_of_folders(uploads: Sequence[Upload]) -> None:
    """Say so where a file is about to publish what may be a folder's name."""
    for upload in uploads:
        base = upload.cone.base
        if not base.revision and set(base.id) & set("/\\"):
            _output.warn(
                f"{upload.name}: the file, not the card, names its base model {base.id!r}: is that a folder of yours?"
            )


def draw(uploads: Sequence[Upload], model: str | None, device: str) -> dict[str, bytes]:
    """A sheet of pictures of every concept, by its name in the repository."""
    from conestool.cli import _card
    from conestool.cli.report import draw_shown
    from conestool.rendering.png import plain_png
    from conestool.rendering.samples import showcase_sheet

    known = uploads[0].cone.base
    base = _options.open_model(_options.Where(model=model, device=device), (known.id, known.revision))
    shown = draw_shown(base, [concept for upload in uploads for concept in upload.cone.concepts])
    cases = {key: each.showcase for key, each in shown.items()}
    return {_card.picture_name(key): plain_png(showcase_sheet(case)) for key, case in cases.items() if case}


def make_card(
    target: Target, uploads: Sequence[Upload], license: str | None, there: Collection[str] = ()
) -> str | None:
    """The model card of all .cone files that the branch will hold, with the pictures that are `there`.

    None if its README.md was written by others.
    """
    from conestool import hub
    from conestool.cli import _card, _format

    if hub.CARD in target.files:
        text = hub.fetch(target.repository, hub.CARD, target.head)[0].decode("utf-8", "replace")
        if _card.MARK not in text:
            if license is not None:
                why = f"{target.repository}: its README.md was not written by cones push"
                raise UsageError(why, "name the license there")
            _output.say(f"{target.repository}: {hub.CARD} was not written by cones push and stays as it is")
            return None
        license = license or _card.license_of(text)
    facts = [_format.facts_of(upload.name, len(upload.data), upload.cone) for upload in uploads]
    facts += others(target, {upload.name for upload in uploads})
    return _card.card(target.repository, sorted(facts, key=lambda one: one.path), license, there)


def others(target: Target, names: set[str]) -> list[FileFacts]:
    """The facts of the .cone files that are there already and stay."""
    from conestool import hub
    from conestool.cli import _format

    found = []
    staying = sorted(path for path in target.files - names if path.endswith(hub.ENDING))
    for path in staying[:MOST_READ]:
        try:
            there = hub.read_cone(target.repository, path, revision=target.head)
        except FormatError as error:
            _output.warn(f"left out of the card: {error}")
        else:
            found.append(_format.facts_of(path, len(there.data), there.cone))
    if len(staying) > MOST_READ:
        _output.warn(f"left out of the card: {len(staying) - MOST_READ} files more")
    return found
