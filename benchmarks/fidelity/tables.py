"""From records to Markdown tables: means over subjects and seeds, with the standard deviation between subjects."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Records = list[dict[str, Any]]
Get = Callable[[dict[str, Any]], float | None]
Measure = tuple[str, str]


def mean_of(records: Iterable[dict[str, Any]], get: Get) -> tuple[float, float] | None:
    """Mean over subjects of each subject's mean over seeds, and its standard deviation; None without any value."""
    by_subject: dict[str, list[float]] = {}
    for record in records:
        value = get(record)
        if value is not None:
            by_subject.setdefault(record["subject"], []).append(value)
    means = [statistics.mean(values) for values in by_subject.values()]
    return (statistics.mean(means), statistics.pstdev(means)) if means else None


def average(records: Iterable[dict[str, Any]], get: Get) -> float | None:
    """The mean alone."""
    found = mean_of(records, get)
    return None if found is None else found[0]


def loss(name: str) -> Get:
    """The change of one loss in a record."""
    return lambda record: record["losses"].get(name)


def control(name: str) -> Get:
    """The held-out change under one control, where there is one."""
    return lambda record: record.get("controls", {}).get(name, {}).get("held_out")


def score(measure: Measure, part: str = "score") -> Get:
    """The alignment in a record, where pictures were drawn; `measure` is image or text, and by whom."""
    kind, name = measure
    return lambda record: record.get(part, {}).get(kind, {}).get(name)


def percent(found: tuple[float, float] | None, spread: bool = False) -> str:
    """A signed percentage, with the standard deviation where wanted; empty for None."""
    if found is None:
        return ""
    return f"{100 * found[0]:+.1f}" + (f" ± {100 * found[1]:.1f}" if spread else "")


def plain(found: tuple[float, float] | None, form: str = ".2f") -> str:
    """A number; empty for None."""
    return "" if found is None else format(found[0], form)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty if it has no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines]) + "\n"
