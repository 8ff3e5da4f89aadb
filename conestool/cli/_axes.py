"""The axes of a sheet: `--x strength=0:1:5 --y seed=0:4`, and the picture in each of its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from conestool.cli import _streams
from conestool.cli._options import MAX_COUNT, parse_wanted
from conestool.cli._prompts import parse_seed, parse_strength
from conestool.errors import ConesError, UsageError

if TYPE_CHECKING:
    from conestool.cli._prompts import Asked

__all__ = ["Axes", "Cell", "cells", "parse_axes"]

MOST_CELLS = 1000
NAMES = ("strength", "seed", "guidance", "steps", "file", "method")
EXAMPLE = "for example strength=0:1:5 (five values from 0 to 1), seed=0:3, guidance=3,7, file=a.cone,b.cone"


@dataclass(frozen=True)
class Axis:
    """What differs along a side of the sheet, and its values."""

    name: str = ""
    values: tuple[Any, ...] = (None,)

    def label(self, value: Any) -> str:
        """What stands beside a row or above a column; numbers without needless digits."""
        return f"{self.name} {value:g}" if isinstance(value, float) else f"{self.name} {value}"


@dataclass(frozen=True)
class Axes:
    """Columns and rows; a side without an axis has one value, which is None."""

    x: Axis = field(default_factory=Axis)
    y: Axis = field(default_factory=Axis)

    @property
    def columns(self) -> list[str]:
        """The labels of the columns; none above a single one without an axis."""
        return [self.x.label(value) for value in self.x.values] if self.x.name else [""]


@dataclass(frozen=True)
class Cell:
    """One picture: its prompt with seed, strength and files, its other options, and the label of its row."""

    asked: Asked
    options: dict[str, Any]
    row: str


def parse_axes(x: str | None, y: str | None) -> Axes | None:
    """The axes as typed; UsageError for what cannot be one, for the same one twice, and for more than 1,000 cells."""
    if x is None and y is None:
        return None
    axes = Axes(*(Axis() if text is None else parse_axis(option, text) for option, text in (("--x", x), ("--y", y))))
    if axes.x.name == axes.y.name:
        raise UsageError(f"--x and --y: both {axes.x.name}", "let them differ in something else")
    if (count := len(axes.x.values) * len(axes.y.values)) > MOST_CELLS:
        raise UsageError(f"--x and --y: {count:,} pictures, the most is {MOST_CELLS:,}", "take fewer values")
    return axes


def parse_axis(option: str, text: str) -> Axis:
    """One axis: `name=a,b,c`, or `name=FIRST:LAST[:COUNT]` for numbers, where a seed and steps count one by one."""
    name, equals, rest = text.partition("=")
    if not equals or name not in NAMES or not rest:
        raise UsageError(f"{option} {text}: expected one of {', '.join(NAMES)}, with values", EXAMPLE)
    try:
        values = tuple(rest.split(",")) if name in ("file", "method") else tuple(numbers(name, rest))
    except (ValueError, ConesError) as error:
        raise UsageError(f"{option} {text}: {error}", EXAMPLE) from error
    if len(set(values)) < len(values) or "" in values:
        raise UsageError(f"{option} {text}: a value is empty, or there twice", EXAMPLE)
    return Axis(name, values)


def numbers(name: str, text: str) -> list[float | int]:
    """The numbers of an axis, each in its range; ValueError or PromptError for others."""

    def checked(part: str) -> float | int:
        if name == "seed":
            return parse_seed(part)
        if name == "strength":
            return parse_strength(part)
        found = int(part) if name == "steps" else float(part)
        if not (1 if name == "steps" else 0) <= found <= MAX_COUNT:
            raise ValueError(f"{name} {part} is out of range")
        return found

    if ":" not in text:
        return [checked(part) for part in text.split(",")]
    first, last, *more = text.split(":")
    low, high = checked(first), checked(last)
    whole = name in ("seed", "steps")
    count = int(more[0]) if more else int(high - low) + 1 if whole else 5
    if len(more) > 1 or not 2 <= count <= MOST_CELLS or high <= low:
        raise ValueError("expected FIRST:LAST or FIRST:LAST:COUNT, rising, of 2 to 1,000 values")
    steps = [low + (high - low) * place / (count - 1) for place in range(count)]
    return [round(each) for each in steps] if whole else [round(each, 6) for each in steps]


def cells(asked: Sequence[Asked], named: Sequence[str], axes: Axes, options: Mapping[str, Any]) -> list[Cell]:
    """All cells, row by row: for each prompt the rows of --y, in each the columns of --x.

    `named` are the files of all; with an axis `method`, of them those that were found by it. A guidance or number of
    steps in `options` gives way to an axis of it.
    """
    methods = methods_of(named) if "method" in (axes.x.name, axes.y.name) else {}
    out = []
    for each in asked:
        for down in axes.y.values:
            for across in axes.x.values:
                given = {axis.name: value for axis, value in ((axes.x, across), (axes.y, down)) if axis.name}
                files = [*named, *([given["file"]] if "file" in given else [])]
                if "method" in given:
                    files = [text for text in named if methods[text] == given["method"]]
                    if not files:
                        known = ", ".join(sorted(set(methods.values()))) or "none: give files with -c"
                        raise UsageError(
                            f"method {given['method']}: no file of -c was found by it", f"they were: {known}"
                        )
                own = {key: given[key] for key in ("seed", "strength") if key in given}
                row = axes.y.label(down) if axes.y.name else ""
                label = f"{each.prompt}, {row}" if row and len(asked) > 1 else row or each.prompt
                out.append(
                    Cell(
                        replace(each, cones=(*files, *each.cones), **own),
                        {key: given[key] for key in ("guidance", "steps") if key in given},
                        label,
                    )
                )
    return out


def methods_of(named: Sequence[str]) -> dict[str, str]:
    """By which method the concepts of each file were found."""
    cones = _streams.load_cones([parse_wanted(text).path for text in named])
    return {
        text: "+".join(sorted({each.origin.method or "unknown" for each in cone.concepts}))
        for text, cone in zip(named, cones, strict=True)
    }
