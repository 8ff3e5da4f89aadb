"""`cones merge`: several concepts in one file, each keeping its own index sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool.cli import _output, _streams
from conestool.cli._options import Json, Overwrite, value
from conestool.errors import UsageError

if TYPE_CHECKING:
    from conestool.concept import Concept, Cone
    from conestool.ops import Sharing

PAIRED = 16
"""Up to so many concepts are compared pair by pair; more of them each with all others."""


def merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Two .cone files or more; - reads stdin.")],
    output: Annotated[Path | None, value("F", "Default: dog+hat.cone; - is stdout.", "-o", "--output")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Join .cone files, to draw several subjects in one picture.

    Nothing is lost: extract gives every concept back.
    """
    from conestool import ops

    if len(files) < 2:
        raise UsageError(f"{files[0]}: one file, expected two or more", "cones merge dog.cone hat.cone")
    if output is not None:
        _streams.check_outputs([output], "a .cone file", overwrite=overwrite)
    cones, names = _streams.load_cones(files), [_streams.shown_name(file) for file in files]
    merged = ops.merge(*cones, names=names)
    for text in repeated(cones, names):
        _output.say(f"note: {text}")
    path = _streams.save(merged, output or _streams.default_output(merged.names), overwrite=overwrite, json=json)
    sharing = ops.sharing(merged)
    pairs = overlap_records(merged)
    tell(merged, path, sharing, pairs)
    if json:
        record = {"output": str(path), "id": merged.id, "concepts": list(merged.names)}
        _streams.emit_json(record | {"neurons": sharing.together, "shared": dict(sharing.shares), "overlap": pairs})


def repeated(cones: Sequence[Cone], names: Sequence[str]) -> list[str]:
    """Which files were named more than once, and which concepts are in several of them: they count once."""
    out = [f"{file} is named {names.count(file)} times" for file in dict.fromkeys(names) if names.count(file) > 1]
    files: dict[str, list[str]] = {}
    for file, cone in dict(zip(names, cones, strict=True)).items():
        for name in cone.names:
            files.setdefault(name, []).append(file)
    shared = {name: those for name, those in files.items() if len(those) > 1}
    return out + [f"{name} is in {' and '.join(those)}, and is taken once" for name, those in shared.items()]


def overlap_records(cone: Cone) -> list[dict[str, Any]] | None:
    """How much each two concepts share, as counts and as the Jaccard index (shared / either); None for many concepts.

    The pairs of a hundred concepts are 5,000: nobody reads them, and they take minutes to count.
    """
    from conestool import ops

    if len(cone.concepts) > PAIRED:
        return None
    records = []
    for pair, shared in ops.overlap(cone).items():
        either = cone[pair[0]].neurons + cone[pair[1]].neurons - shared
        records.append({"concepts": list(pair), "shared": shared, "jaccard": shared / either if either else 0.0})
    return records


def tell(cone: Cone, path: Path, sharing: Sharing, pairs: list[dict[str, Any]] | None) -> None:
    """The overlap of every pair, or of each concept with all others, as a table."""
    amounts = _output.amount(len(cone.concepts), "concept"), _output.amount(sharing.together, "neuron")
    _output.say(f"{_streams.shown_output(path)}: {amounts[0]}, {amounts[1]} together")
    _output.table(each_with_all(cone, sharing) if pairs is None else each_pair(cone, pairs), head=False)


def each_pair(cone: Cone, pairs: list[dict[str, Any]]) -> list[list[str]]:
    """A row for each two concepts."""
    rows = []
    for record in pairs:
        one, two = record["concepts"]
        parts = [part_of(record["shared"], cone[name]) for name in (one, two)]
        rows.append([f"{one} and {two}", f"share {record['shared']:,}", *parts])
    return rows


def each_with_all(cone: Cone, sharing: Sharing) -> list[list[str]]:
    """A row for each concept."""
    return [
        [each.name, f"shares {sharing.shares[each.name]:,} with others", part_of(sharing.shares[each.name], each)]
        for each in cone.concepts
    ]


def part_of(count: int, concept: Concept) -> str:
    """A number of neurons as a share of the concept's own."""
    return f"{_output.percent(count / max(1, concept.neurons))} of {concept.name}"
