"""Several subjects in one picture: is each of them there, in its place, and itself?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from benchmarks.identity.cells import Cell, Studio
from benchmarks.identity.measures import chosen_by_attributes
from conestool.concept import Cone
from conestool.evaluation.attribute_metric import kept
from conestool.evaluation.judge import Reading
from conestool.evaluation.prompts import joined
from conestool.format import dumps, loads
from conestool.rendering import render
from conestool.search.config import SearchConfig
from conestool.search.tune import TuneConfig, tune

#: The first so many of these stand in one picture; the base model's world has four things at most.
GROUPS = (2, 3, 4)
ORDER = ("rex", "cat", "car", "rabbit")
#: Two of one class, whose order in the picture has to be that of the words.
TWINS = ("rex", "luna")
#: Pairs of the test half, which nothing was chosen by.
TEST_PAIRS = (("luna", "rabbit"), ("bear", "robot"))
PAIRS = (ORDER[:2], *TEST_PAIRS)
#: One subject's set alone, among the class nouns of the others: whether a concept works wherever its words stand.
ALONE = ("first alone", "second alone")
#: How they are drawn, in the order of the table; more than two descriptions are too long for pocket's text encoder.
KINDS = ("bare", "described", *ALONE, "merged", "tuned", "regions")
OF_MANY = ("bare", "merged", "tuned", "regions")
#: How pairs of the test half are drawn.
OF_TEST_PAIRS = ("bare", "described", "merged", "regions")
#: What depends on the seed of the searches.
OF_SETS = (*ALONE, "merged", "tuned", "regions")
#: So many times as many pictures of every place as of a subject's scenes, since there are few places.
REPEATS = 4
PLACES = ("", " on the beach", " in a field", " in the snow", " at night", " on the street")


@dataclass
class Together:
    """One group of subjects with one seed: `count` of `ORDER`, and the twins and test pairs beside the first group."""

    studio: Studio
    cells: Mapping[str, Cell]
    seed: int
    count: int

    def run(self, kinds: Sequence[str] = KINDS) -> Iterator[str]:
        """Draw what is missing of the kinds; yields a line for each."""
        for names in (ORDER[: self.count], *((TWINS, *TEST_PAIRS) if self.count == len(TWINS) else ())):
            drawn = OF_TEST_PAIRS if names in TEST_PAIRS else KINDS if len(names) == len(TWINS) else OF_MANY
            for kind in (kind for kind in drawn if kind in kinds and set(names) <= self.cells.keys()):
                key = f"together/{self.seed}/{'-'.join(names)}/{kind}"
                if not self.studio.store.has(key):
                    self.draw(names, kind, key)
                    yield f"{' and '.join(names)}, seed {self.seed}: {kind}"

    def draw(self, names: Sequence[str], kind: str, key: str) -> None:
        """Draw the same words in one place after the other, and read every picture."""
        cells = [self.cells[name] for name in names]
        words = [cell.bench.words for cell in cells]
        named = [f"{each.identifier} {each.class_noun}" for each in words]
        cone, phrases = None, [each.class_noun for each in words]
        if kind in ("merged", "tuned", "regions"):
            cone, phrases = self.tuned(cells, key) if kind == "tuned" else self.merged(cells), named
        elif kind in ALONE:
            which = ALONE.index(kind)
            cone = self.merged([cells[which]])
            phrases[which] = named[which]
        elif kind == "described":
            phrases = [cell.subject.description or cell.subject.noun for cell in cells]
        images: list[Image.Image] = []
        for number in range(REPEATS * self.studio.options.renders * len(PLACES)):
            place = PLACES[number % len(PLACES)]
            drawn = render(
                self.studio.model,
                joined(phrases) + place,
                cone,
                seeds=[number],
                literal=True,
                regions=kind == "regions",
            )
            images += [each.image for each in drawn]
        read = [self.right(cells, reading) for reading in self.studio.metric.read(images)]
        self.studio.store.save_pictures(key, images[: len(PLACES)])
        record = {"kind": kind, "names": list(names), "seed": self.seed, "pictures": read}
        if kind in ALONE:
            record["shown"] = [ALONE.index(kind)]
        self.studio.store.save(key, record | {"subject": "together", "half": "together"})

    def right(self, cells: Sequence[Cell], reading: Reading) -> dict[str, Any]:
        """Return whether each subject is chosen from its line-up in its place, and whether it is nearer to itself."""
        if len(reading.things) != len(cells):
            return {"chosen": [0.0] * len(cells), "own": [0.0] * len(cells)}
        pairs = list(zip(reading.things, cells, strict=True))
        chosen = [
            (thing["class"] == cell.line_up.wanted["class"]) * chosen_by_attributes(thing, cell.line_up)
            for thing, cell in pairs
        ]
        own = [
            float(all(kept(thing, cell.line_up.wanted) > kept(thing, other.line_up.wanted)
                      for other in cells if other is not cell))
            for thing, cell in pairs
        ]  # fmt: skip
        return {"chosen": chosen, "own": own}

    def merged(self, cells: Sequence[Cell]) -> Cone:
        """Return the subjects' concepts in one cone."""
        return Cone(tuple(cell.concept() for cell in cells))

    def tuned(self, cells: Sequence[Cell], key: str) -> Cone:
        """Return them after `tune`, which is kept beside the readings."""
        path = self.studio.store.path(key, "cone")
        if not path.exists():
            photos = {cell.subject.name: cell.subject.photos for cell in cells}
            config = TuneConfig(search=SearchConfig(seed=self.seed))
            self.studio.store.write(path, dumps(tune(self.studio.model, self.merged(cells), photos, config=config)))
        return loads(path.read_bytes())
