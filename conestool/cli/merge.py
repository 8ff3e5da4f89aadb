"""`cones merge`: several concepts in one file, each keeping its own index sets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool.cli import _io, _show
from conestool.cli._options import Force, Json, value
from conestool.text import cut_bytes

if TYPE_CHECKING:
    from conestool.concept import Cone

__all__ = ["default_output", "merge"]

LONGEST_NAME = 120
"""Bytes of a name put together from those of concepts."""


def merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Two .cone files or more; - reads stdin.")],
    output: Annotated[
        Path | None, value("-o", "--output", metavar="F", text="Default: dog+hat.cone; - is stdout.")
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Join .cone files, to draw several subjects in one picture.

    Nothing is lost: extract gives every concept back.
    """
    from conestool import algebra
    from conestool.errors import UsageError

    if len(files) < 2:
        raise UsageError(f"{files[0]}: one file, expected two or more", "cones merge dog.cone hat.cone")
    if output is not None:
        _io.check_outputs([output], "a .cone file", force=force)
    merged = algebra.merge(*_io.load_cones(files))
    path = save(merged, output or default_output(merged.names), force=force, json=json)
    shared = [overlap_record(merged, pair, count) for pair, count in algebra.overlap(merged).items()]
    tell(merged, path, shared)
    if json:
        _io.emit_json({"output": str(path), "id": merged.id, "concepts": list(merged.names), "overlap": shared})


def default_output(names: Iterable[str]) -> Path:
    """dog+hat.cone for the concepts dog and hat, whatever order they came in."""
    stem = "+".join(name.replace(" ", "-") for name in names)
    return Path(f"{cut_bytes(stem, LONGEST_NAME)}.cone")


def save(cone: Cone, path: Path, *, force: bool, json: bool) -> Path:
    """Write `cone` to `path` or stdout; with `json` the path itself is left to the JSON."""
    from conestool import format as cones
    from conestool.errors import UsageError

    if str(path) == _io.STDIO:
        if json:
            raise UsageError("-o -: stdout cannot carry the .cone file and JSON", "give one of them a file")
        _io.emit_bytes(cones.dumps(cone), "a .cone file")
        return path
    cones.save(cone, path, force=force)
    if not json:
        _io.emit_paths([path])
    if path.suffix != ".cone":
        _show.say(f"note: render looks for names that end in .cone; {path} needs -c")
    return path


def overlap_record(cone: Cone, pair: tuple[str, str], shared: int) -> dict[str, Any]:
    """How much two concepts share, as counts and as the Jaccard index (shared / either)."""
    either = cone[pair[0]].neurons + cone[pair[1]].neurons - shared
    return {"concepts": list(pair), "shared": shared, "jaccard": shared / either if either else 0.0}


def tell(cone: Cone, path: Path, shared: list[dict[str, Any]]) -> None:
    """The overlap of every pair, as a table."""
    from conestool import algebra

    together = sum(len(values) for values in algebra.union(cone).values())
    name = "stdout" if str(path) == _io.STDIO else str(path)
    _show.say(f"{name}: {_show.amount(len(cone.concepts), 'concept')}, {_show.amount(together, 'neuron')} together")
    rows = []
    for record in shared:
        one, two = record["concepts"]
        parts = [f"{_show.percent(record['shared'] / max(1, cone[name].neurons))} of {name}" for name in (one, two)]
        rows.append([f"{one} and {two}", f"share {record['shared']:,}", *parts])
    _show.table(rows, head=False)
