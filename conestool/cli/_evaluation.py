"""An evaluation as people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conestool.cli import _show

if TYPE_CHECKING:
    from conestool.evaluate import ConceptReport, Report, Row

__all__ = ["show_report"]

LOSSES = {"held_out": "photos", "no_identifier": "no identifier", "class": "class", "unrelated": "other nouns"}
NAMES = {
    "concept": "concept",
    "no identifier": "  without identifier",
    "all together": "  all concepts together",
    "random": "random indices",
    "largest": "largest weights",
    "bare": "bare model",
    "photos": "the photos themselves",
}


def show_report(report: Report) -> None:
    """A table per concept, the presence of all, and what was not measured."""
    for concept in report.concepts:
        show_concept(concept, report.aligners)
    found = report.presence
    if found:
        _show.say(f"{found.prompt}: the class is seen in, of {_show.amount(found.pictures, 'picture')}", "bold")
        parts = (found.concepts, found.bare, found.photos)
        rows = [["", "all concepts", "bare model", "the photos"]]
        rows += [[name, *(_show.percent(p[name]) if name in p else "" for p in parts)] for name in found.concepts]
        _show.table(rows, right=(1, 2, 3))
    for text in report.missing:
        _show.say(f"note: {text}")


def show_concept(concept: ConceptReport, aligners: tuple[str, ...]) -> None:
    """The changes of the losses and the alignment of pictures, a row for each set of weights."""
    unseen = " that the search did not see" if concept.unseen else " that the search learned from"
    told = f", losses on {_show.amount(concept.photos, 'photo')}{unseen}" if concept.photos else ""
    _show.say(f"{concept.name}: {concept.identifier} {concept.class_noun}{told}", "bold")
    losses = [key for key in LOSSES if key in concept.before]
    measures = [(kind, name) for name in aligners for kind in ("image", "text") if has(concept, kind, name)]
    head = ["loss on", *(LOSSES[key] for key in losses), *(f"{kind} ({name})" for kind, name in measures)]
    rows = [[NAMES[row.name], *cells(row, losses, measures)] for row in concept.rows if row.losses or measures]
    _show.table([head, *rows], right=range(1, len(head)))


def has(concept: ConceptReport, kind: str, name: str) -> bool:
    """Whether any row has this measure."""
    return any(name in getattr(row.score, kind) for row in concept.rows)


def cells(row: Row, losses: list[str], measures: list[tuple[str, str]]) -> list[str]:
    """One row's numbers; empty where it has none."""
    changes = [_show.percent(row.losses[key], signed=True) if key in row.losses else "" for key in losses]
    found = [getattr(row.score, kind).get(name) for kind, name in measures]
    return [*changes, *("" if value is None else f"{value:.3f}" for value in found)]
