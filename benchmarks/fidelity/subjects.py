"""The subjects, and the one place that says which may be looked at while methods are developed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEVELOPMENT = ("dog", "hat", "car", "rabbit")
"""Rates of the ceilings, and defaults of methods, are chosen on these alone."""
TEST = ("cat", "pig", "bear", "house")
"""Looked at for the report only."""

EXAMPLES = Path(__file__).parents[2] / "examples" / "openmoji"


@dataclass(frozen=True)
class Subject:
    """A subject: its name, its class noun and the folder of its photos; its identifier, None for that of the noun."""

    name: str
    noun: str
    folder: Path
    identifier: str | None = None

    @property
    def half(self) -> str:
        """development or test; subjects of other folders are all test."""
        return "development" if self.name in DEVELOPMENT and self.folder.parent == EXAMPLES else "test"


def subject_of(name: str, root: Path = EXAMPLES) -> Subject:
    """The subject whose photos lie in `root`/`name`.

    Its class noun is the name without leading "pet_" and the like and without a number at its end, as CustomConcept101
    names its folders (pet_dog1: a dog, furniture_sofa2: a sofa).
    """
    noun = name.rstrip("0123456789").rpartition("_")[2] or name
    return Subject(name, noun, root / name)
