"""`cones extract`: one concept back out of a merged file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conestool.cli import _output, _streams
from conestool.cli._options import Json, Overwrite, value


def extract(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .cone file; - reads stdin.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The concept to take out.")],
    output: Annotated[Path | None, value("F", "Default: NAME.cone; - is stdout.", "-o", "--output")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Take one concept out of a merged file.

    It comes back exactly as it was before the merge.
    """
    from conestool import ops

    if output is not None:
        _streams.check_outputs([output], "a .cone file", overwrite=overwrite)
    single = ops.extract(_streams.load_cone(file), name)
    path = _streams.save(single, output or _streams.default_output(single.names), overwrite=overwrite, json=json)
    concept = single.concepts[0]
    _output.say(f"{concept.name}: {_output.amount(concept.neurons, 'neuron')}, id {concept.id[:12]}")
    if json:
        _streams.emit_json({"output": str(path), "id": single.id, "name": concept.name, "neurons": concept.neurons})
