"""The axes of a sheet: `--x strength=0:1:5 --y seed=0:4`, and the picture in each of its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from conestool.cli import _streams
from conestool.cli._options import MAX_COUNT, parse_wanted
from conestool.cli._prompts import parse_seed, parse_strength
from conestool.errors import ConesError, UsageError

if TYPE_CHECKING:
    from conestool.cli._prompts import Asked

_MOST = 1000
"""Pictures of a sheet."""
_NAMES = ("strength", "seed", "guidance", "steps", "file", "method")
_EXAMPLE = "for example strength=0:1:5 (five values from 0 to 1), seed=0:3, guidance=3,7, file=a.cone,b.cone"


class Axis(NamedTuple):
    """What differs along a side of the sheet, and its values; one value without a name where nothing does."""

    name: str = ""
    values: tuple[Any, ...] = (None,)

    @property
    def labels(self) -> list[str]:
        """What stands above the columns or beside the rows."""
        shown = (f"{value:g}" if isinstance(value, float) else value for value in self.values)
        return [f"{self.name} {value}" if self.name else "" for value in shown]


class Cell(NamedTuple):
    """One picture: its prompt with seed, strength and files, its other options, and the label of its row."""

    asked: Asked
    options: dict[str, Any]
    row: str


class Axes(NamedTuple):
    """Columns and rows."""

    x: Axis
    y: Axis

    def cells(self, asked: Sequence[Asked], named: Sequence[str]) -> list[Cell]:
        """All cells, row by row: for each prompt the rows of --y, in each the columns of --x.

        `named` are the files of all; with an axis `method` each cell takes of them those that were found by it.
        """
        methods = _methods(named) if "method" in (self.x.name, self.y.name) else {}
        out = []
        for each in asked:
            for down, row in zip(self.y.values, self.y.labels, strict=True):
                label = f"{each.prompt}, {row}" if row and len(asked) > 1 else row or each.prompt
                for across in self.x.values:
                    given = {self.x.name: across, self.y.name: down}
                    files = [*named, given["file"]] if "file" in given else list(named)
                    if method := given.get("method"):
                        files = [text for text in named if methods[text] == method]
                        if not files:
                            known = ", ".join(sorted(set(methods.values()))) or "none: give files with -c"
                            raise UsageError(f"method {method}: no file of -c was found by it", f"they were: {known}")
                    own = {key: given[key] for key in ("seed", "strength") if key in given}
                    options: dict[str, Any] = {key: given[key] for key in ("guidance", "steps") if key in given}
                    out.append(Cell(replace(each, cones=(*files, *each.cones), **own), options, label))
        return out


def parse_axes(x: str | None, y: str | None) -> Axes | None:
    """The axes as typed; UsageError for what cannot be one, for the same one twice, and for more than 1,000 cells."""
    if x is None and y is None:
        return None
    axes = Axes(*(Axis() if text is None else _parse_axis(name, text) for name, text in (("--x", x), ("--y", y))))
    if axes.x.name == axes.y.name:
        raise UsageError(f"--x and --y: both {axes.x.name}", "let them differ in something else")
    if (count := len(axes.x.values) * len(axes.y.values)) > _MOST:
        raise UsageError(f"--x and --y: {count:,} pictures, the most is {_MOST:,}", "take fewer values")
    return axes


def _parse_axis(option: str, text: str) -> Axis:
    """One axis: `name=a,b,c`, or `name=FIRST:LAST[:COUNT]` for numbers, where a seed and steps count one by one."""
    name, _, rest = text.partition("=")
    if name not in _NAMES or not rest:
        raise UsageError(f"{option} {text}: expected one of {', '.join(_NAMES)}, with values", _EXAMPLE)
    try:
        values = tuple(rest.split(",") if name in ("file", "method") else _numbers(name, rest))
        if len(set(values)) < len(values) or "" in values:
            raise ValueError("a value is empty, or there twice")
    except (ValueError, ConesError) as error:
        raise UsageError(f"{option} {text}: {error}", _EXAMPLE) from error
    return Axis(name, values)


def _numbers(name: str, text: str) -> list[float]:
    """The numbers of an axis, each in its range; ValueError or PromptError for others."""

    def checked(part: str) -> float:
        if name in ("seed", "strength"):
            return parse_seed(part) if name == "seed" else parse_strength(part)
        found = int(part) if name == "steps" else float(part)
        if not (name == "steps") <= found <= MAX_COUNT:
            raise ValueError(f"{part} is out of range")
        return found

    if ":" not in text:
        return [checked(part) for part in text.split(",")]
    (first, last, *more), whole = text.split(":"), name in ("seed", "steps")
    low, high = checked(first), checked(last)
    count = int(more[0]) if more else int(high - low) + 1 if whole else 5
    if len(more) > 1 or not 2 <= count <= _MOST or high <= low:
        raise ValueError("expected FIRST:LAST or FIRST:LAST:COUNT, rising, of 2 to 1,000 values")
    steps = (low + (high - low) * place / (count - 1) for place in range(count))
    return [round(each) if whole else round(each, 6) for each in steps]


def _methods(named: Sequence[str]) -> dict[str, str]:
    """By which method the concepts of each file were found."""
    cones = _streams.load_cones([parse_wanted(text).path for text in named])
    found = ("+".join(sorted({each.origin.method or "unknown" for each in cone.concepts})) for cone in cones)
    return dict(zip(named, found, strict=True))
