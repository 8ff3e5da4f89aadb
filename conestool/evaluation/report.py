"""What an evaluation found, as plain records, and the gates that it has to pass."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from conestool.errors import UsageError
from conestool.evaluation.pictures import Score


@dataclass(frozen=True)
class Row:
    """One set of weights: the change of each loss as a fraction (-0.2: a fifth less), and what its pictures show.

    `subject` is what its prompts said: the identifier and the class noun, or the class noun alone.
    """

    name: str
    subject: str
    losses: dict[str, float] = field(default_factory=dict)
    score: Score = field(default_factory=Score)


@dataclass(frozen=True)
class ConceptReport:
    """One concept: `photos` are those it was measured on, `unseen` how many of them the search did not learn from.

    `before` are the untouched model's losses; rows are named concept, no identifier, random, largest, all together,
    base model and photos.
    """

    name: str
    class_noun: str
    identifier: str
    neurons: int
    photos: int
    unseen: int
    before: dict[str, float]
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """The row of that name; KeyError if there is none."""
        return {row.name: row for row in self.rows}[name]


@dataclass(frozen=True)
class Presence:
    """Shares of pictures in which the judge sees each concept's class.

    In those of `prompt` with all `concepts` applied, in the `base_model`'s, and in the concept's own `photos`: where it
    does not see the class even there, its share with the concepts applied says nothing.
    """

    prompt: str
    pictures: int
    concepts: dict[str, float]
    base_model: dict[str, float]
    photos: dict[str, float]


@dataclass(frozen=True)
class Report:
    """Everything that was measured, and in `missing` what was not, and why."""

    concepts: tuple[ConceptReport, ...]
    templates: tuple[str, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    presence: Presence | None = None
    missing: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Gates:
    """The least that every concept must reach: a fall of the photos' loss, and every image and text alignment."""

    gain: float | None = None
    image: float | None = None
    text: float | None = None

    def check(self, names: Iterable[str], photos: Container[str], metrics: bool) -> None:
        """Raise UsageError, before any work, for a gate on what cannot be measured with these photos and metrics."""
        bare = next((name for name in names if name not in photos), None)
        for kind, wanted in (("gain", self.gain), ("image", self.image)):
            if wanted is not None and bare is not None:
                raise UsageError(f"--min-{kind}: there are no photos of {bare}", "give them with --photos")
        for kind, wanted in (("image", self.image), ("text", self.text)):
            if wanted is not None and not metrics:
                raise UsageError(f"--min-{kind}: nothing here measures it", "name an encoder with --clip or --dino")

    def failures(self, report: Report) -> list[str]:
        """What falls short, in words; UsageError for a gate on something that was not measured."""
        return [text for concept in report.concepts for text in self.failures_of(concept)]

    def failures_of(self, concept: ConceptReport) -> list[str]:
        """The same for one concept."""
        row = concept.row("concept")
        gain = {"gain": -row.losses["held_out"]} if "held_out" in row.losses else {}
        kinds = (("gain", self.gain, gain), ("image", self.image, row.score.image), ("text", self.text, row.score.text))
        found: list[str] = []
        for kind, least, values in kinds:
            if least is not None:
                found += _shortfalls(concept.name, kind, least, values)
        return found


def _shortfalls(name: str, kind: str, least: float, values: dict[str, float]) -> Sequence[str]:
    """Which of `values` are below `least`; UsageError if there are none."""
    if not values:
        raise UsageError(f"--min-{kind}: it was not measured for {name}", "see what the report says is missing")
    return [
        f"{name}: {kind}{'' if label == kind else f' ({label})'} {value:.3f} is below {least:g}"
        for label, value in values.items()
        if value < least
    ]
