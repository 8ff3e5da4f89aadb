"""One subject at work: a search with all its densities, a float ceiling, or the base model, each to a record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor

from benchmarks.fidelity.floats import train
from benchmarks.fidelity.plan import Ceiling, Options, Search, Variant, parse_density
from benchmarks.fidelity.store import Store
from benchmarks.fidelity.subjects import Subject
from conestool.concept import BaseModelInfo, Concept, Cone
from conestool.evaluate.alignment import Aligner
from conestool.evaluate.losses import LossProbes, make_probes
from conestool.evaluate.pictures import Gallery, draw
from conestool.evaluate.prompts import Text, unrelated_nouns
from conestool.format import dumps
from conestool.images.class_images import class_images
from conestool.images.photos import Photo, read_photos
from conestool.models.model import Model
from conestool.search.config import Settings
from conestool.search.events import ignore
from conestool.search.find import captioned, name_subject
from conestool.search.loss_terms import Words, prepare
from conestool.search.methods.base import Ranking, make_method
from conestool.search.objective import Objective
from conestool.search.parameters import Layout, borrowed
from conestool.search.prior_images import Priors, draw_priors
from conestool.search.report import choose, largest, random
from conestool.search.subject import Split, class_prompts, split

__all__ = ["Bench"]

UNRELATED_SEED = 0
CONTROLLED = ("held_out",)
"""What is measured of the controls; a loss takes as long as half a step of the search."""


@dataclass(frozen=True)
class Prepared:
    """A subject ready for one search: L_con of the search, and the losses of the report."""

    layout: Layout
    objective: Objective
    probes: LossProbes


@dataclass
class Bench:
    """Runs the cells of one subject."""

    model: Model
    info: BaseModelInfo
    subject: Subject
    options: Options
    store: Store
    aligners: Sequence[Aligner] = ()
    captioned: dict[tuple[str, int], list[Photo]] = field(default_factory=dict)

    @cached_property
    def words(self) -> Words:
        """Name, class noun and identifier."""
        return name_subject(self.model, self.subject.noun, None, None, ignore)

    @cached_property
    def photos(self) -> list[Any]:
        """All photos of the subject."""
        return read_photos([self.subject.folder])[0]

    @cached_property
    def unrelated(self) -> Mapping[str, Sequence[Image.Image]]:
        """By prompt, the model's own pictures of other nouns."""
        nouns = unrelated_nouns(self.model.settings, [self.subject.noun], self.options.unrelated)
        prompts = [class_prompts(noun)[0] for noun in nouns]
        return {prompt: class_images(self.model, prompt, 8, UNRELATED_SEED) for prompt in prompts}

    def settings(self, variant: Variant, seed: int) -> Settings:
        """The settings of one search."""
        shared = {"class_images": self.options.class_images, "batch": self.options.batch}
        return variant.make(seed, self.options.steps, **shared)

    def priors(self, settings: Settings) -> Priors:
        """The model's own pictures; a quarter of those of the class is kept from the search."""
        return draw_priors(self.model, self.words.class_noun, settings)

    def split(self, settings: Settings) -> Split:
        """Pictures to learn from, and held-out photos."""
        key = (settings.captions, settings.seed)
        if key not in self.captioned:
            self.captioned[key] = captioned(self.model, self.photos, self.words.class_noun, settings, ignore)
        return split(self.captioned[key], settings.crops, settings.held_out, settings.seed)

    def prepared(self, layout: Layout, settings: Settings, priors: Priors) -> Prepared:
        """Objective and probes of one search; the model's weights are untouched and borrowed as `layout`."""
        pictures = self.split(settings)
        objective, _ = prepare(self.model, layout, self.words, pictures, priors, settings)
        unseen = priors.of_class[: max(1, len(priors.of_class) // 4)]
        return Prepared(layout, objective, self.probes(layout, pictures.report, unseen))

    def probes(
        self, layout: Layout, photos: Sequence[Image.Image], drawings: Sequence[Image.Image] = (), others: bool = True
    ) -> LossProbes:
        """The losses of the report: held-out photos, unseen class pictures, and other nouns."""
        instance, of_class = self.words.instance[0], self.words.of_class[0]
        shown = ({of_class: drawings} if drawings else {}) | (dict(self.unrelated) if others else {})
        return make_probes(self.model, layout, (instance, of_class), photos, shown, self.options.samples)

    def search(self, job: Search) -> int:
        """Run a search and save the cells that are missing; returns their number."""
        wanted = [density for density in job.densities if not self.store.has(job.key(density))]
        if not wanted:
            return 0
        settings = self.settings(job.variant, job.seed)
        priors, _ = self.priors(settings), self.unrelated
        with borrowed(self.model.denoiser) as layout:
            ready = self.prepared(layout, settings, priors)
            ranking, seconds = rank(ready.objective, settings)
            probe = ready.objective.batch_of(self.options.samples)
            for density in wanted:
                shut = choose(ready.objective, ranking, parse_density(density), probe).shut
                record = self.cell(ready, shut, job, density)
                facts = {"seconds": round(seconds, 1), "settings": settings.record(), "method": settings.method}
                self.store.save_mask(job.key(density), shut)
                self.store.save(job.key(density), record | facts | self.who(job.seed, job.variant.name, density))
        return len(wanted)

    def cell(self, ready: Prepared, shut: Tensor, job: Search, density: str) -> dict[str, Any]:
        """What one set does, and what its controls do."""
        theta, layout = ready.objective.theta, ready.layout
        drawn = job.seed == 0 and density in self.options.drawn and self.options.renders > 0
        controls = {"random": random(layout, shut, job.seed + 1), "largest": largest(layout, shut, theta)}
        pictures: dict[str, Any] = {}
        if drawn:
            pictures = {
                "score": self.pictures(layout, theta * ~shut, True, job.key(density)),
                "score_no_identifier": self.pictures(layout, theta * ~shut, False),
                "score_random": self.pictures(layout, theta * ~controls["random"], True),
            }
        return {
            "kind": "search",
            "losses": ready.probes.changes(theta * ~shut),
            "controls": {name: ready.probes.changes(theta * ~c, CONTROLLED) for name, c in controls.items()},
            "neurons": int(shut.sum()),
            "share": float(shut.float().mean()),
            "bytes": self.size(layout, shut),
            **pictures,
        }

    def ceiling(self, job: Ceiling) -> int:
        """Train floats and save the cell unless it is there; returns 1 if it was not."""
        if self.store.has(job.key):
            return 0
        settings = self.settings(Variant("mask", {"method": "mask"}), job.seed)
        priors, _ = self.priors(settings), self.unrelated
        with borrowed(self.model.denoiser) as layout:
            ready = self.prepared(layout, settings, priors)
            begun = time.perf_counter()
            weights = train(ready.objective, job.kind, self.options.steps, job.rate)
            seconds = round(time.perf_counter() - begun, 1)
            record = {"kind": job.kind, "rate": job.rate, "seconds": seconds, "losses": ready.probes.changes(weights)}
            if job.seed == 0 and self.options.renders:
                record["score"] = self.pictures(layout, weights, True, job.key)
        self.store.save(job.key, record | self.who(job.seed, job.kind, f"{job.rate:g}"))
        return 1

    @property
    def bare_key(self) -> str:
        """The key of the untouched model's cell."""
        return f"{self.subject.name}/bare/bare"

    def bare(self) -> int:
        """The untouched model's pictures and the photos themselves; returns 1 unless they were there."""
        if self.store.has(self.bare_key):
            return 0
        with borrowed(self.model.denoiser) as layout:
            images = self.drawn(layout, layout.read(), False)
        self.store.save_pictures(self.bare_key, images)
        gallery = self.gallery
        record = {"kind": "bare", "score": asdict(gallery.score(gallery.bare, self.texts))}
        self.store.save(
            self.bare_key, record | {"photos": asdict(gallery.score_photos())} | self.who(0, "bare", "bare")
        )
        return 1

    @cached_property
    def gallery(self) -> Gallery:
        """What pictures are scored against; `bare` has run before."""
        return Gallery([photo.image for photo in self.photos], self.store.load_pictures(self.bare_key), self.aligners)

    @cached_property
    def texts(self) -> list[Text]:
        """What every picture was asked for, the class noun in the subject's place."""
        return [
            Text(template, self.subject.noun)
            for template in self.options.templates
            for _ in range(self.options.renders)
        ]

    def drawn(self, layout: Layout, weights: Tensor, identifier: bool) -> list[Image.Image]:
        """Pictures of every template at `weights`; the untouched weights are back afterwards."""
        noun = self.subject.noun
        subject = f"{self.words.identifier} {noun}" if identifier else noun
        texts = [str(Text(template, subject)) for template in self.options.templates]
        return draw(self.model, layout, weights, texts, range(self.options.renders))

    def pictures(self, layout: Layout, weights: Tensor, identifier: bool, key: str | None = None) -> dict[str, Any]:
        """The alignment of pictures at `weights`, which are kept under `key`."""
        images = self.drawn(layout, weights, identifier)
        if key:
            self.store.save_pictures(key, images)
        return asdict(self.gallery.score(images, self.texts))

    def size(self, layout: Layout, shut: Tensor) -> int:
        """Bytes of the .cone file with this set, without its provenance."""
        words = self.words
        concept = Concept(words.name, words.class_noun, words.identifier, layout.indices(shut), self.info)
        return len(dumps(Cone((concept,))))

    def who(self, seed: int, variant: str, density: str) -> dict[str, Any]:
        """What every record says of itself."""
        named = {"subject": self.subject.name, "half": self.subject.half, "seed": seed}
        return {**named, "variant": variant, "density": density, "steps": self.options.steps}


def rank(objective: Objective, settings: Settings) -> tuple[Ranking, float]:
    """The ranking that a method ends with, and the seconds it took."""
    begun = time.perf_counter()
    method = make_method(settings.method, objective, **settings.options)
    for index in range(method.steps):
        method.step(index)
    return method.ranking(), time.perf_counter() - begun
