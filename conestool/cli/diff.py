"""`cones diff`: what two .cone files have in common, and what not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool.cli import _output, _streams
from conestool.cli._options import Json, LayersOption

if TYPE_CHECKING:
    from conestool.ops import Change, Counts, Diff

LONGEST_VALUE = 60
MAX_FIELDS = 50
"""Fields of metadata that are shown."""
DIGEST = re.compile(r"[0-9a-f]{64}")


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A .cone file; - reads stdin.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    layers: LayersOption = False,
    json: Json = False,
) -> None:
    """Compare two .cone files: indices and metadata.

    Exits with 1 if they differ.
    """
    from conestool import ops

    found = ops.diff(*_streams.load_cones([a, b]))
    show(found, (_streams.shown_name(a), _streams.shown_name(b)), layers)
    if json:
        _streams.emit_json(record(found))
    if not found.same:
        raise typer.Exit(1)


def show(found: Diff, names: tuple[str, str], layers: bool) -> None:
    """The comparison in a few lines, the layers as a table."""
    if found.same:
        _output.say(f"no difference: {_output.amount(found.total.both, 'neuron')}, same metadata")
        return
    _output.say(f"A is {names[0]}, B is {names[1]}", "bold")
    total = found.total
    counts = f"{total.only_a:,} only in A, {total.only_b:,} only in B, {total.both:,} in both"
    _output.facts([["neurons", f"{counts} (Jaccard {total.jaccard:.3f})"], *metadata_rows(found.metadata)])
    if not found.metadata:
        _output.facts([["metadata", "the same"]])
    if layers:
        _output.say("")
        rows = [["layer", "only A", "only B", "both", "Jaccard"]]
        rows += [cells(name, counts) for name, counts in ordered(found.layers).items()]
        _output.table(rows, right=(1, 2, 3, 4), stack=True)


def metadata_rows(changes: Sequence[Change]) -> list[list[str]]:
    """What differs in the metadata, a row a field; a map such as the losses is one field."""
    changes = one_line_of_losses(changes)
    several = len({change.key.split(".")[0] for change in changes}) > 1
    rows: dict[str, list[str]] = {}
    for change in changes:
        concept, *path = change.key.split(".")
        path = path[1:] if len(path) > 1 and path[0] in ("base", "origin") else path
        field, *inner = [*([concept] if several or not path else []), *path]
        if several and inner:
            field, *inner = f"{field} {inner[0]}", *inner[1:]
        words = " ".join(inner).replace("_", " ")
        what = f"{short(change.a)} -> {short(change.b)}" if path else f"only in {'B' if change.a is None else 'A'}"
        rows.setdefault(field, []).append(f"{words} {what}".strip())
    shown = [[field[:LONGEST_VALUE], ", ".join(texts)] for field, texts in list(rows.items())[:MAX_FIELDS]]
    left = len(rows) - len(shown)
    return [*shown, ["", f"{left:,} fields more; --json has them"]] if left else shown


def one_line_of_losses(changes: Sequence[Change]) -> list[Change]:
    """The changes with two of the losses at most: after zeroing the concept, and random weights. --json has all."""
    told = [change for change in changes if change.key.endswith((".losses.held_out_after", ".losses.random_after"))]
    with_told = {change.key.rsplit(".", 1)[0] for change in told}
    return [change for change in changes if change in told or change.key.rsplit(".", 1)[0] not in with_told]


def cells(name: str, counts: Counts) -> list[str]:
    """One row of the table of layers."""
    numbers = [f"{count:,}" for count in (counts.only_a, counts.only_b, counts.both)]
    return [name, *numbers, f"{counts.jaccard:.3f}"]


def ordered(layers: Mapping[str, Counts]) -> dict[str, Counts]:
    """The layers under their short names, in the order of the network."""
    from conestool import _layers

    joint = _layers.is_joint(layers)
    return {_layers.label(layer, joint): layers[layer] for layer in sorted(layers, key=_layers.natural)}


def short(value: Any) -> str:
    """A metadata value in a few words: four digits of a number, ten of a digest; a dash for what is not there."""
    if value is None or value in ([], (), "", {}):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return f"({len(value)} fields)"
    if isinstance(value, list | tuple):
        if any(isinstance(each, str) and DIGEST.fullmatch(each) for each in value):
            return _output.amount(len(value), "digest")
        return shortened(", ".join(map(short, value)))
    return shortened(str(value)[:10] if DIGEST.fullmatch(str(value)) else str(value))


def shortened(text: str) -> str:
    """`text`, cut where it is long."""
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
