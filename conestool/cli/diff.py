"""`cones diff`: what two .cone files have in common, and what not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool.cli import _output, _streams
from conestool.cli._options import Json

if TYPE_CHECKING:
    from conestool.ops import Counts, Diff

__all__ = ["diff"]

LONGEST_VALUE = 60


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A .cone file; - reads stdin.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    json: Json = False,
) -> None:
    """Compare two .cone files: indices per layer, and metadata.

    Exits with 1 if they differ.
    """
    from conestool import ops

    found = ops.diff(*_streams.load_cones([a, b]))
    show(found)
    if json:
        _streams.emit_json(record(found))
    if not found.same:
        raise typer.Exit(1)


def show(found: Diff) -> None:
    """The comparison as tables."""
    if found.same:
        _output.say(f"no difference: {_output.amount(found.total.both, 'neuron')}, same metadata")
        return
    rows = [["layer", "only A", "only B", "both", "Jaccard"], cells("all", found.total)]
    rows += [cells(name, counts) for name, counts in ordered(found.layers).items()]
    _output.table(rows, right=(1, 2, 3, 4), indent=0, stack=True)
    if found.metadata:
        _output.say("")
        changes = [[each.key, short(each.a), short(each.b)] for each in found.metadata]
        _output.table([["metadata", "A", "B"], *changes], indent=0, stack=True)
    else:
        _output.say("same metadata")


def cells(name: str, counts: Counts) -> list[str]:
    """One row of the table of layers."""
    numbers = [f"{count:,}" for count in (counts.only_a, counts.only_b, counts.both)]
    return [name, *numbers, f"{counts.jaccard:.3f}"]


def ordered(layers: Mapping[str, Counts]) -> dict[str, Counts]:
    """The layers under their short names, in the order of the network."""
    from conestool.cli import _layers

    joint = _layers.is_joint(layers)
    return {_layers.label(layer, joint): layers[layer] for layer in sorted(layers, key=_layers.natural)}


def short(value: Any) -> str:
    """A metadata value on one line, cut where it is long; a dash for what is not there."""
    if value is None:
        return "-"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def record(found: Diff) -> dict[str, Any]:
    """The comparison as JSON holds it."""
    return {
        "same": found.same,
        "total": numbers(found.total),
        "layers": {name: numbers(counts) for name, counts in ordered(found.layers).items()},
        "params": {param: numbers(counts) for param, counts in found.params.items()},
        "metadata": [{"key": each.key, "a": each.a, "b": each.b} for each in found.metadata],
    }


def numbers(counts: Counts) -> dict[str, Any]:
    """Counts as JSON holds them."""
    return {"only_a": counts.only_a, "only_b": counts.only_b, "both": counts.both, "jaccard": counts.jaccard}
