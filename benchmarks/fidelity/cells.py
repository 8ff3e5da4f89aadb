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
from conestool.evaluation.alignment import ImageMetric
from conestool.evaluation.losses import LossProbes, make_probes
from conestool.evaluation.pictures import ReferenceImages, draw
from conestool.evaluation.prompts import Prompt, unrelated_nouns
from conestool.format import dumps
from conestool.images.class_images import class_images
from conestool.images.photos import Photo, read_photos
from conestool.models.kv_weights import kv_weights
from conestool.models.model import Model
from conestool.search.config import SearchConfig
from conestool.search.context import SearchContext
from conestool.search.find import add_captions, resolve_names
from conestool.search.loss_terms import SubjectPrompts, prepare
from conestool.search.methods import Ranking, make_method, resolve_method
from conestool.search.objective import Objective
from conestool.search.parameters import FlatParameters, trainable_kv_weights
from conestool.search.prior_images import PriorImages, draw_prior_images
from conestool.search.report import magnitude_mask_like, random_mask_like, select_density
from conestool.search.subject import PhotoSplit, class_prompts, split_photos

UNRELATED_SEED = 0
CONTROLLED = ("held_out",)
"""What is measured of the controls; a loss takes as long as half a step of the search."""


def among_all(model: Model, params: FlatParameters, mask: Tensor) -> Tensor:
    """The same weights as `mask`, boolean (n,), of `params` among all K/V weights of the model."""
    return FlatParameters(kv_weights(model.denoiser)).mask_from_indices(params.indices_from_mask(mask))


@dataclass(frozen=True)
class Prepared:
    """A subject ready for one search: L_con of the search, and the losses of the report."""

    params: FlatParameters
    objective: Objective
    probes: LossProbes


@dataclass
class Bench:
    """Runs the cells of one subject; `unseen_photos` join those that a search holds out."""

    model: Model
    info: BaseModelInfo
    subject: Subject
    options: Options
    store: Store
    metrics: Sequence[ImageMetric] = ()
    unseen_photos: Sequence[Image.Image] = ()
    captioned: dict[tuple[str, int], list[Photo]] = field(default_factory=dict)

    @cached_property
    def words(self) -> SubjectPrompts:
        """Name, class noun and identifier."""
        return resolve_names(self.model, self.subject.noun, None, self.subject.identifier)

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

    def config(self, variant: Variant, seed: int) -> SearchConfig:
        """The settings of one search."""
        shared = {"num_class_images": self.options.class_images, "batch_size": self.options.batch}
        return variant.make(seed, self.options.steps, **shared)

    def context(self, config: SearchConfig) -> SearchContext:
        """What the parts of one search share."""
        return SearchContext(model=self.model, config=config)

    def priors(self, config: SearchConfig) -> PriorImages:
        """The model's own pictures; a quarter of those of the class is kept from the search."""
        return draw_prior_images(self.context(config), self.words.class_noun)

    def split(self, config: SearchConfig) -> PhotoSplit:
        """Pictures to learn from, and held-out photos."""
        key = (config.captions, config.seed)
        if key not in self.captioned:
            self.captioned[key] = add_captions(self.context(config), self.photos, self.words.class_noun)
        return split_photos(self.captioned[key], config)

    def prepared(self, params: FlatParameters, config: SearchConfig, priors: PriorImages) -> Prepared:
        """Objective and probes of one search; the model's weights are untouched and trainable as `params`."""
        pictures = self.split(config)
        objective, _ = prepare(self.context(config), params, self.words, pictures, priors)
        unseen = priors.class_images[: max(1, len(priors.class_images) // 4)]
        return Prepared(params, objective, self.probes(params, [*pictures.validation, *self.unseen_photos], unseen))

    def probes(
        self,
        params: FlatParameters,
        photos: Sequence[Image.Image],
        drawings: Sequence[Image.Image] = (),
        others: bool = True,
    ) -> LossProbes:
        """The losses of the report: held-out photos, unseen class pictures, and other nouns."""
        instance, of_class = self.words.instance_prompts[0], self.words.class_prompts[0]
        shown = ({of_class: drawings} if drawings else {}) | (dict(self.unrelated) if others else {})
        return make_probes(self.model, params, (instance, of_class), photos, shown, self.options.samples)

    def search(self, job: Search) -> int:
        """Run a search and save the cells that are missing; returns their number."""
        wanted = [density for density in job.densities if not self.store.has(job.key(density))]
        if not wanted:
            return 0
        config = self.config(job.variant, job.seed)
        priors, _ = self.priors(config), self.unrelated
        with trainable_kv_weights(self.model.denoiser, layers=config.layers) as params:
            ready = self.prepared(params, config, priors)
            ranking, seconds = rank(ready.objective, config)
            selection = ready.objective.selection_batch(self.options.samples)
            for density in wanted:
                mask = select_density(ready.objective, ranking, parse_density(density), selection).mask
                record = self.cell(ready, mask, job, density)
                facts = {
                    "seconds": round(seconds, 1),
                    "config": config.record(),
                    "method": resolve_method(config.method).name,
                }
                self.store.save_mask(job.key(density), among_all(self.model, params, mask))
                self.store.save(job.key(density), record | facts | self.who(job.seed, job.variant.name, density))
        return len(wanted)

    def cell(self, ready: Prepared, mask: Tensor, job: Search, density: str) -> dict[str, Any]:
        """What one set does, and what its controls do."""
        weights, params = ready.objective.weights, ready.params
        drawn = job.seed == 0 and density in self.options.drawn and self.options.renders > 0
        controls = {
            "random": random_mask_like(params, mask, job.seed + 1),
            "largest": magnitude_mask_like(params, mask, weights),
        }
        pictures: dict[str, Any] = {}
        if drawn:
            pictures = {
                "score": self.pictures(params, weights * ~mask, True, job.key(density)),
                "score_no_identifier": self.pictures(params, weights * ~mask, False),
                "score_random": self.pictures(params, weights * ~controls["random"], True),
            }
        return {
            "kind": "search",
            "losses": ready.probes.changes(weights * ~mask),
            "controls": {name: ready.probes.changes(weights * ~c, CONTROLLED) for name, c in controls.items()},
            "neurons": int(mask.sum()),
            "share": float(among_all(self.model, params, mask).float().mean()),
            "bytes": self.size(params, mask),
            **pictures,
        }

    def ceiling(self, job: Ceiling) -> int:
        """Train floats and save the cell unless it is there; returns 1 if it was not."""
        if self.store.has(job.key):
            return 0
        config = self.config(Variant("mask", "mask"), job.seed)
        priors, _ = self.priors(config), self.unrelated
        with trainable_kv_weights(self.model.denoiser) as params:
            ready = self.prepared(params, config, priors)
            begun = time.perf_counter()
            weights = train(ready.objective, job.kind, self.options.steps, job.rate)
            seconds = round(time.perf_counter() - begun, 1)
            record = {"kind": job.kind, "rate": job.rate, "seconds": seconds, "losses": ready.probes.changes(weights)}
            if job.seed == 0 and self.options.renders:
                record["score"] = self.pictures(params, weights, True, job.key)
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
        with trainable_kv_weights(self.model.denoiser) as params:
            images = self.drawn(params, params.get(), False)
        self.store.save_pictures(self.bare_key, images)
        gallery = self.gallery
        record = {"kind": "bare", "score": asdict(gallery.score(gallery.base_images, self.texts))}
        self.store.save(
            self.bare_key, record | {"photos": asdict(gallery.score_photos())} | self.who(0, "bare", "bare")
        )
        return 1

    @cached_property
    def gallery(self) -> ReferenceImages:
        """What pictures are scored against; `bare` has run before."""
        return ReferenceImages(
            [photo.image for photo in self.photos], self.store.load_pictures(self.bare_key), self.metrics
        )

    @cached_property
    def texts(self) -> list[Prompt]:
        """What every picture was asked for, the class noun in the subject's place."""
        return [
            Prompt(template, self.subject.noun)
            for template in self.options.templates
            for _ in range(self.options.renders)
        ]

    def drawn(self, params: FlatParameters, weights: Tensor, identifier: bool) -> list[Image.Image]:
        """Pictures of every template at `weights`; the untouched weights are back afterwards."""
        noun = self.subject.noun
        subject = f"{self.words.identifier} {noun}" if identifier else noun
        texts = [str(Prompt(template, subject)) for template in self.options.templates]
        return draw(self.model, params, weights, texts, range(self.options.renders))

    def pictures(
        self, params: FlatParameters, weights: Tensor, identifier: bool, key: str | None = None
    ) -> dict[str, Any]:
        """The alignment of pictures at `weights`, which are kept under `key`."""
        images = self.drawn(params, weights, identifier)
        if key:
            self.store.save_pictures(key, images)
        return asdict(self.gallery.score(images, self.texts))

    def size(self, params: FlatParameters, mask: Tensor) -> int:
        """Bytes of the .cone file with this set, without its provenance."""
        words = self.words
        concept = Concept(words.name, words.class_noun, words.identifier, params.indices_from_mask(mask), self.info)
        return len(dumps(Cone((concept,))))

    def who(self, seed: int, variant: str, density: str) -> dict[str, Any]:
        """What every record says of itself."""
        named = {"subject": self.subject.name, "half": self.subject.half, "seed": seed}
        return {**named, "variant": variant, "density": density, "steps": self.options.steps}


def rank(objective: Objective, config: SearchConfig) -> tuple[Ranking, float]:
    """The ranking that a method ends with, and the seconds it took."""
    begun = time.perf_counter()
    method = make_method(config.method, objective)
    for index in range(method.config.steps):
        method.step(index)
    return method.ranking(), time.perf_counter() - begun
