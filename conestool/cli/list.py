"""`cones list`: the concepts in folders, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from conestool.cli import _output, _streams
from conestool.cli._options import Json
from conestool.errors import UsageError


def list_cones(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="FOLDER...", help="Default: here, and those in $CONES_PATH.")
    ] = None,
    json: Json = False,
) -> None:
    """List the concepts in folders.

    Each with its words, neurons, base model, and its file's size. Damaged files are named, and left out.
    """
    from conestool.rendering.library import headers, search_folders

    for folder in folders or ():
        if not folder.is_dir():
            raise UsageError(f"{folder}: not a folder", "cones inspect shows a single file")
    found, notes = headers(folders or search_folders())
    for note in notes:
        _output.warn(note)
    records: list[dict[str, Any]] = [
        {
            "file": str(file),
            "bytes": header.size,
            "base": header.bases[0].id,
            "name": each.name,
            "phrase": each.phrase,
            "neurons": each.neurons,
            "density": each.density,
            "method": each.origin.method,
            "id": each.id,
        }
        for file, header in found
        for each in header.concepts
    ]
    rows = [["concept", "in a prompt", "neurons", "density", "base model", "size", "file"]]
    last = None
    for each in records:
        again, last = each["file"] == last, each["file"]
        size = "" if again else _output.size(each["bytes"])
        share = _output.percent(each["density"])
        rows.append([each["name"], each["phrase"], f"{each['neurons']:,}", share, each["base"], size, each["file"]])
    if records:
        _output.table(rows, right=(2, 3, 5), stack=True)
    else:
        _output.say("no .cone file here or in $CONES_PATH" if not folders else "no .cone file there")
    if json:
        _streams.emit_json(records)
