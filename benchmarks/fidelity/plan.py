"""What is run: search jobs (one search, several densities) and ceilings, each with a key of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from conestool.evaluation.prompts import TEMPLATES
from conestool.search.config import SearchConfig

AUTO = "auto"
"""The density that a method or the loss chooses."""
DENSITIES = (AUTO, "0.0005", "0.001", "0.002", "0.005", "0.01", "0.02", "0.05")
CEILINGS: dict[str, tuple[float, ...]] = {"fine-tune": (1e-3, 3e-4, 3e-3), "lora": (1e-2, 3e-2, 3e-3, 1e-3)}
"""Learning rates to choose from on the development half, the likeliest first."""


@dataclass(frozen=True)
class Variant:
    """A search: what differs from the defaults, under the name by which it was typed (mask,unbound_weight=1)."""

    name: str
    method: str
    config: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, seed: int, steps: int, **more: Any) -> SearchConfig:
        """The SearchConfig of one run; `steps` unless the variant names its own."""
        values = {"steps": steps, **self.options}
        method = ",".join([self.method, *(f"{key}={value}" for key, value in values.items())])
        return SearchConfig(method=method, seed=seed, **{**more, **self.config})


def parse_variant(text: str) -> Variant:
    """`method,key=value,...`: keys are fields of SearchConfig, all others parameters of the method; values are JSON."""
    method, *rest = re.split(r",(?![^[]*\])", text)
    known = {each.name for each in fields(SearchConfig)} - {"method", "seed"}
    config: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for part in rest:
        key, _, value = part.partition("=")
        (config if key in known else options)[key] = json.loads(value)
    return Variant(text, method, config, options)


def parse_density(text: str) -> float | None:
    """None for `auto`."""
    return None if text == AUTO else float(text)


@dataclass(frozen=True)
class Options:
    """What all runs share: steps, samples per loss, class images, pictures per template, templates, batch.

    Pictures are drawn for `drawn` densities of the first seed.
    """

    steps: int = 60
    samples: int = 64
    class_images: int = 32
    renders: int = 2
    templates: tuple[str, ...] = TEMPLATES
    drawn: tuple[str, ...] = (AUTO, "0.01")
    batch: int = 8
    unrelated: int = 3


@dataclass(frozen=True)
class Search:
    """One search of one subject; every density of it is a cell."""

    subject: str
    seed: int
    variant: Variant
    densities: tuple[str, ...]

    def key(self, density: str) -> str:
        """The key of one cell."""
        return f"{self.subject}/{self.seed}/{self.variant.name}/{density}"


@dataclass(frozen=True)
class Ceiling:
    """One float training of one subject."""

    subject: str
    seed: int
    kind: str
    rate: float

    @property
    def key(self) -> str:
        """The key of its cell."""
        return f"{self.subject}/{self.seed}/{self.kind}/{self.rate:g}"


def searches(
    subjects: Iterable[str], seeds: Sequence[int], variants: Sequence[Variant], densities: Sequence[str]
) -> Iterator[Search]:
    """All searches: seeds outermost, so that a run that is stopped early has all subjects once."""
    subjects = list(subjects)
    for seed in seeds:
        for variant in variants:
            for subject in subjects:
                yield Search(subject, seed, variant, tuple(densities))
