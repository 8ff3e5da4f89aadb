"""One subject with one seed at work: its set, its controls and ceilings, drawn in every scene and read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.fidelity.cells import Bench, among_all, rank
from benchmarks.fidelity.floats import train
from benchmarks.fidelity.plan import Options, Variant
from benchmarks.fidelity.store import Store
from benchmarks.fidelity.subjects import Subject as Photographed
from benchmarks.identity.measures import chosen_by_attributes, chosen_by_features, subject_in
from benchmarks.identity.subjects import EXAMPLES, LineUp, Subject
from conestool.concept import Concept, Cone
from conestool.evaluation.alignment import pixels
from conestool.evaluation.attribute_metric import AttributeMetric, kept
from conestool.evaluation.judge import SIDE, Reading
from conestool.evaluation.pictures import draw
from conestool.evaluation.prompts import Prompt
from conestool.models.model import Model
from conestool.rendering import render
from conestool.search.parameters import FlatParameters, trainable_kv_weights
from conestool.search.report import random_mask_like, select_density
from training.pocket.measures import decoded
from training.pocket.sprites import SpriteBank

#: What is drawn at the untouched weights and with the subject's own set, in the order of the tables.
SEARCHED = ("concept", "no identifier", "random", "other")
SETS = (*SEARCHED, "bare")
#: The subject's own set, acting where the subject stands alone.
IN_REGION = "in region"
#: Pictures drawn of the class alone to see whether it stays as various.
VARIOUS = 24


@dataclass
class Studio:
    """What all cells share."""

    model: Model
    metric: AttributeMetric
    bank: SpriteBank
    store: Store
    options: Options
    variant: Variant

    def read(self, images: Sequence[Image.Image], texts: Sequence[Prompt], line_up: LineUp) -> dict[str, Any]:
        """Return for each picture what is read of the subject, which of the line-up it is, and what was obeyed."""
        readings = self.metric.read(images)
        places = [subject_in(reading, line_up.wanted) for reading in readings]
        things = [reading.things[place] for reading, place in zip(readings, places, strict=True)]
        return {
            "kept": [kept(thing, line_up.wanted) for thing in things],
            "by_attributes": [chosen_by_attributes(thing, line_up) for thing in things],
            "by_features": chosen_by_features(self.features(images, readings, places), line_up).tolist(),
            "obeyed": [
                _or_none(self.metric.obeyed(r, t.background_text)) for r, t in zip(readings, texts, strict=True)
            ],
            "things": things,
        }

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image], readings: Sequence[Reading], places: Sequence[int]) -> Tensor:
        """Return the judge's features (N, 256) of the thing at a place of each picture."""
        counts = torch.tensor([len(reading.things) for reading in readings])
        squares, _ = self.metric.judge.crops(pixels(images, SIDE), counts)
        starts = counts.cumsum(0) - counts
        return self.metric.judge.features(squares[starts + torch.tensor(places)])


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


@dataclass
class Cell:
    """One subject with one seed."""

    studio: Studio
    subject: Subject
    seed: int

    @cached_property
    def bench(self) -> Bench:
        """The search of this subject, as the fidelity benchmark runs it."""
        folder, identifier = EXAMPLES / self.subject.key, self.subject.identifier
        photographed = Photographed(self.subject.name, self.subject.noun, folder, identifier)
        model = self.studio.model
        unseen = self.subject.unseen_photos
        options, store = self.studio.options, self.studio.store
        return Bench(model, model.info, photographed, options, store, unseen_photos=unseen)

    @cached_property
    def line_up(self) -> LineUp:
        """The subject among others of its class."""
        return LineUp(self.subject, self.studio.metric.judge, self.studio.bank)

    def key(self, kind: str) -> str:
        """The key of one kind of picture."""
        return f"{self.subject.name}/{self.seed}/{kind}"

    def has(self, *kinds: str) -> bool:
        """Tell whether all these are there."""
        return all(self.studio.store.has(self.key(kind)) for kind in kinds)

    def find(self) -> bool:
        """Search and keep the set with its losses; False if it was there."""
        if self.has("set"):
            return False
        config = self.bench.config(self.studio.variant, self.seed)
        priors, _ = self.bench.priors(config), self.bench.unrelated
        with trainable_kv_weights(self.studio.model.denoiser, layers=config.layers) as params:
            ready = self.bench.prepared(params, config, priors)
            ranking, seconds = rank(ready.objective, config)
            selection = ready.objective.selection_batch(self.studio.options.samples)
            mask = select_density(ready.objective, ranking, None, selection).mask
            weights = ready.objective.weights
            random = ready.probes.changes(weights * ~random_mask_like(params, mask, self.seed + 1), ("held_out",))
            record = {"losses": ready.probes.changes(weights * ~mask), "random": random, "seconds": seconds}
            mask = among_all(self.studio.model, params, mask)
        self.studio.store.save_mask(self.key("set"), mask)
        self.studio.store.save(self.key("set"), record | {"share": float(mask.float().mean())} | self.who("set"))
        return True

    def mask(self) -> Tensor:
        """The subject's set."""
        return self.studio.store.load_mask(self.key("set"))

    def draw_sets(self, other: Cell, kinds: Sequence[str] = SETS) -> bool:
        """Draw with the set and without, and with random and another subject's; False if all were there."""
        if self.has(*kinds):
            return False
        with trainable_kv_weights(self.studio.model.denoiser) as params:
            untouched, mask = params.get(), self.mask()
            random = random_mask_like(params, mask, self.seed + 1)
            zeroed = {"concept": mask, "no identifier": mask, "random": random, "other": other.mask()}
            for kind in kinds:
                weights = untouched * ~zeroed[kind] if kind in zeroed else untouched
                self.draw(params, weights, kind, self.subject.noun if kind in ("no identifier", "bare") else None)
        return True

    def draw_in_region(self) -> bool:
        """Draw with the set acting where the subject stands alone, `render --regions`; False if it was there."""
        if self.has(IN_REGION):
            return False
        noun, seeds = self.subject.noun, list(range(self.studio.options.renders))
        templates, phrase = list(self.subject.templates()), f"{self.bench.words.identifier} {noun}"
        prompts = [str(Prompt(template, phrase)) for template in templates]
        drawn = render(self.studio.model, prompts, Cone((self.concept(),)), seeds=seeds, literal=True, regions=True)
        self.keep(IN_REGION, [each.image for each in drawn], templates)
        return True

    def concept(self) -> Concept:
        """The subject's set as a concept."""
        with trainable_kv_weights(self.studio.model.denoiser) as params:
            indices = params.indices_from_mask(self.mask())
        words = self.bench.words
        return Concept(self.subject.name, words.class_noun, words.identifier, indices, self.bench.info)

    def draw_references(self) -> bool:
        """Read the photos as the autoencoder shows them, and draw the subject by words alone; False if it was there."""
        if self.has("photos"):
            return False
        studio, model = self.studio, self.studio.model
        if self.subject.description:
            with trainable_kv_weights(model.denoiser) as params:
                self.draw(params, params.get(), "described", phrase=self.subject.description)
        shown = decoded(model.pipe.vae, pixels([photo.image for photo in self.subject.photos], SIDE))
        arrays = (127.5 * (shown + 1)).round().byte().permute(0, 2, 3, 1).numpy()
        texts = [Prompt("a photo of a {}", self.subject.noun)] * len(arrays)
        read = studio.read([Image.fromarray(each) for each in arrays], texts, self.line_up)
        studio.store.save(self.key("photos"), read | self.who("photos"))
        return True

    def train(self, kind: str, rate: float) -> bool:
        """Train a float ceiling and draw with it; False if it was there."""
        name = f"{kind} {rate:g}"
        if self.has(name):
            return False
        config = self.bench.config(Variant("mask", "mask"), self.seed)
        priors, _ = self.bench.priors(config), self.bench.unrelated
        with trainable_kv_weights(self.studio.model.denoiser) as params:
            ready = self.bench.prepared(params, config, priors)
            weights = train(ready.objective, kind, self.studio.options.steps, rate)
            self.draw(params, weights, name, losses=ready.probes.changes(weights), rate=rate)
        return True

    def draw(self, params: FlatParameters, weights: Tensor, kind: str, phrase: str | None = None, **more: Any) -> None:
        """Draw every scene at `weights` (n,), and keep what `keep` does.

        `phrase` stands where the subject's identifier and noun do otherwise.
        """
        if self.has(kind):
            return
        noun, seeds = self.subject.noun, range(self.studio.options.renders)
        phrase = phrase or f"{self.bench.words.identifier} {noun}"
        templates = list(self.subject.templates())
        images = draw(self.studio.model, params, weights, [str(Prompt(t, phrase)) for t in templates], seeds)
        if kind in ("no identifier", "bare"):
            plain = draw(self.studio.model, params, weights, [f"a photo of a {noun}"], range(VARIOUS))
            more["various"] = [reading.things[0] for reading in self.studio.metric.read(plain)]
        self.keep(kind, images, templates, **more)

    def keep(self, kind: str, images: Sequence[Image.Image], templates: Sequence[str], **more: Any) -> None:
        """Read as many pictures of every template as there are renders, and keep readings and a sheet."""
        each = self.studio.options.renders
        texts = [Prompt(template, self.subject.noun) for template in templates for _ in range(each)]
        read = self.studio.read(images, texts, self.line_up)
        self.studio.store.save_pictures(self.key(kind), list(images[::each]))
        self.studio.store.save(self.key(kind), read | more | self.who(kind))

    def who(self, kind: str) -> dict[str, Any]:
        """What every record says of itself."""
        return {"subject": self.subject.key, "half": self.subject.half, "seed": self.seed, "kind": kind}
