"""One subject with one seed: its concept, its LoRAs and their controls, drawn and scored, each to files of its own."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from PIL import Image

from benchmarks.fidelity.store import Store
from benchmarks.real.dataset import Subject
from benchmarks.real.lora import lora_in, train
from benchmarks.real.plan import CLASS_SEED, Options
from conestool import find, load, render
from conestool.concept import Concept, Cone
from conestool.errors import UsageError
from conestool.evaluation.encoders import ClipMetric, DinoMetric
from conestool.evaluation.pictures import ReferenceImages
from conestool.evaluation.prompts import Prompt
from conestool.format import dumps
from conestool.images.photos import Photo, read_photos
from conestool.models.memory import peak_memory, reclaim
from conestool.models.model import Model
from conestool.models.sampling import pictures_at_once
from conestool.rendering import png_bytes
from conestool.search.context import SearchContext, Shared
from conestool.search.find import resolve_names
from conestool.search.loop import loss_curve
from conestool.search.loss_terms import SubjectPrompts
from conestool.search.parameters import trainable_kv_weights
from conestool.search.report import random_mask_like
from conestool.search.subject import class_prompts

__all__ = ["BASE", "CONCEPT", "NO_IDENTIFIER", "PHOTOS", "RANDOM", "Bench", "Cell", "lora_name"]

PHOTOS, BASE, CONCEPT, NO_IDENTIFIER, RANDOM = "photos", "base model", "concept", "no identifier", "random indices"
Images = Sequence[Image.Image]


def lora_name(rate: float) -> str:
    """What the LoRA of a rate is called."""
    return f"LoRA {rate:g}"


@dataclass
class Bench:
    """What all cells share."""

    model: Model
    store: Store
    options: Options
    clip: ClipMetric
    dino: DinoMetric
    shared: Shared = field(default_factory=Shared)

    @cached_property
    def batch(self) -> int:
        """Pictures at once."""
        side = self.model.defaults.size
        return pictures_at_once(self.model, (side, side), self.options.pictures).samples

    @contextmanager
    def encoders(self) -> Iterator[None]:
        """Within it the encoders lie on the model's device; else in the machine's memory, out of a search's way."""
        models = [self.clip.model, self.dino.model] if self.model.device.type != "cpu" else []
        try:
            for each in models:
                each.to(self.model.device)
            yield
        finally:
            for each in models:
                each.to("cpu")
            if models:
                reclaim(self.model.device)

    def path(self, folder: str, prompt: str, seed: int) -> Path:
        """Where a picture lies: under what can be read of its prompt, and what tells prompts apart that look alike."""
        words = re.sub(r"\W+", "-", prompt).strip("-")[:60]
        digest = hashlib.sha256(prompt.encode()).hexdigest()[:6]
        return self.store.path(f"{folder}/{words}-{digest}-{seed}", "png")

    def draw(self, folder: str, prompts: Sequence[str], seeds: Sequence[int], cone: Cone | None = None) -> list[Path]:
        """A file for each prompt with each seed (prompts outermost); those that are there are not drawn again."""
        for prompt in prompts:
            missing = [seed for seed in seeds if not self.path(folder, prompt, seed).exists()]
            if missing:
                batch = min(self.batch, len(missing))
                drawn = render(self.model, prompt, cone, seeds=missing, literal=True, batch=batch)
                for seed, each in zip(missing, drawn, strict=True):
                    self.store.write(self.path(folder, prompt, seed), png_bytes(each.image, each.record))
        return [self.path(folder, prompt, seed) for prompt in prompts for seed in seeds]


def opened(paths: Sequence[Path]) -> list[Image.Image]:
    """The pictures."""
    return [Image.open(path).convert("RGB") for path in paths]


@dataclass
class Cell:
    """One subject with one seed."""

    bench: Bench
    subject: Subject
    seed: int

    @cached_property
    def photos(self) -> list[Photo]:
        """All photos of the subject: what pictures are compared with, as DreamBooth does."""
        return read_photos([self.subject.folder])[0]

    @cached_property
    def prompts(self) -> SubjectPrompts:
        """Name, class noun and identifier, the same for all methods."""
        return resolve_names(self.bench.model, self.subject.noun, self.subject.name, None)

    @property
    def methods(self) -> list[str]:
        """What is drawn for every seed, in the order of work."""
        return [CONCEPT, *map(lora_name, self.bench.options.lora_rates), NO_IDENTIFIER, RANDOM]

    def key(self, method: str) -> str:
        """The key of a method's files; photos and base model know no seed."""
        return f"{self.subject.name}/{method if method in (PHOTOS, BASE) else f'{self.seed}/{method}'}"

    def folder(self, method: str) -> str:
        """Where pictures of a method lie; all subjects share those of the base model."""
        return "base" if method == BASE else self.key(method)

    @property
    def store(self) -> Store:
        """Where everything is kept."""
        return self.bench.store

    def run(self) -> Iterator[tuple[str, Callable[[], str | None]]]:
        """What there is to do, by name; each says what it did, or nothing where all was there."""
        yield "photos", self.score_photos
        yield "base model", lambda: self.score(BASE)
        yield "concept", self.find
        for rate in self.bench.options.lora_rates:
            yield lora_name(rate), lambda rate=rate: self.train(rate)  # type: ignore[misc]
        for method in self.methods:
            yield f"pictures, {method}", lambda method=method: self.score(method)  # type: ignore[misc]

    def file(self, method: str) -> Path:
        """The file with what a method found: a concept, or a LoRA."""
        return self.store.path(self.key(method), "cone" if method == CONCEPT else "safetensors")

    def forget(self, *methods: str) -> None:
        """Remove pictures and scores of what was found before: on a GPU no two searches are equal to the last bit."""
        for method in methods:
            shutil.rmtree(self.store.path(f"{self.key(method)}/found", "json").parent, ignore_errors=True)

    def find(self) -> str | None:
        """Search, and keep the concept."""
        key = f"{self.key(CONCEPT)}/found"
        if self.store.has(key) and self.file(CONCEPT).exists():
            return None
        checkpoint = self.store.path(self.key(CONCEPT), "search")
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        with measured(self.bench.model) as facts:
            cone = find(
                self.bench.model,
                self.photos,
                self.subject.noun,
                name=self.subject.name,
                config=self.bench.options.config(self.seed),
                checkpoint_path=checkpoint,
                resume_from_checkpoint=checkpoint.exists(),
                resources=self.bench.options.resources,
                shared=self.bench.shared,
            )
        [concept], data = cone.concepts, dumps(cone)
        self.forget(CONCEPT, NO_IDENTIFIER, RANDOM)
        self.store.write(self.file(CONCEPT), data)
        origin = concept.origin
        record = {
            "identifier": concept.identifier,
            "neurons": concept.neurons,
            "share": concept.density,
            "bytes": len(data),
            "losses": origin.losses.model_dump() if origin.losses else {},
            "loss_curve": origin.parameters.get("loss_curve"),
            "warnings": origin.warnings,
        }
        self.save(key, CONCEPT, "found", record | facts)
        checkpoint.unlink(missing_ok=True)
        return f"{concept.neurons:,} neurons, {facts['seconds']:.0f} s"

    def train(self, rate: float) -> str | None:
        """Train a LoRA, and keep it."""
        method, options, model = lora_name(rate), self.bench.options, self.bench.model
        key = f"{self.key(method)}/found"
        if self.store.has(key) and self.file(method).exists():
            return None
        context = SearchContext(
            model=model, config=options.config(self.seed), resources=options.resources, shared=self.bench.shared
        )
        with measured(model) as facts:
            name = self.subject.name
            data, losses = train(context, self.photos, self.subject.noun, name, options.lora_rank, rate)
        self.forget(method)
        self.store.write(self.file(method), data)
        record = {"rate": rate, "rank": options.lora_rank, "bytes": len(data), "loss_curve": loss_curve(losses)}
        self.save(key, method, "found", record | facts)
        return f"{facts['seconds']:.0f} s"

    @cached_property
    def concept(self) -> Concept:
        """The concept that was found."""
        return load(self.file(CONCEPT)).concepts[0]

    def random(self) -> Cone:
        """As many random weights of every tensor."""
        with trainable_kv_weights(self.bench.model.denoiser) as params:
            mask = random_mask_like(params, params.mask_from_indices(self.concept.indices), self.seed + 1)
            return Cone((replace(self.concept, indices=params.indices_from_mask(mask)),))

    def applied(self, method: str) -> tuple[Cone | None, AbstractContextManager[None]]:
        """What is in the model while a method draws: a concept, or a LoRA; UsageError if that was not found."""
        found = CONCEPT if method in (NO_IDENTIFIER, RANDOM) else method
        if method != BASE and not self.file(found).exists():
            raise UsageError(f"there is no {found} to draw with")
        if method in (CONCEPT, NO_IDENTIFIER):
            return Cone((self.concept,)), nullcontext()
        if method == RANDOM:
            return self.random(), nullcontext()
        return None, nullcontext() if method == BASE else lora_in(self.bench.model, self.file(method))

    def score(self, method: str) -> str | None:
        """Draw what is missing of a method, and score it."""
        key = f"{self.key(method)}/scores"
        if self.store.has(key):
            return None
        bench, options, noun = self.bench, self.bench.options, self.subject.noun
        whole = method not in (NO_IDENTIFIER, RANDOM)
        templates = options.templates(self.subject)
        seeds = range(options.pictures if whole else options.control_pictures)
        class_seeds = range(CLASS_SEED, CLASS_SEED + (options.class_pictures if whole else 0))
        phrase = noun if method in (BASE, NO_IDENTIFIER) else self.prompts.phrase
        cone, inside = self.applied(method)
        with measured(bench.model) as facts, inside:
            texts = [str(Prompt(template, phrase)) for template in templates]
            paths = bench.draw(self.folder(method), texts, seeds, cone)
            own = bench.draw(self.folder(method), class_prompts(noun)[:1], class_seeds, cone)
        base = [bench.path("base", class_prompts(noun)[0], seed) for seed in class_seeds]
        with measured(bench.model) as scoring, bench.encoders():
            prompts = [Prompt(template, noun) for template in templates for _ in seeds]
            reference = ReferenceImages([photo.image for photo in self.photos], (), (bench.clip, bench.dino))
            record = {
                "pictures": len(paths),
                "score": asdict(reference.score(opened(paths), prompts)) if paths else {},
                "class": self.drift(reference, opened(own), opened(base)) if own else {},
            }
        self.save(key, method, "scores", record | facts | {"scoring": scoring})
        return f"{len(paths) + len(own)} pictures, {facts['seconds']:.0f} s"

    def drift(self, reference: ReferenceImages, own: Images, base: Images) -> dict[str, Any]:
        """How far the bare class has moved.

        `same` is the mean cosine of each picture to the base model's with the same seed, `subject` how much pictures of
        the class show the subject (DreamBooth's PRES, with DINO).
        """
        metrics: list[ClipMetric | DinoMetric] = [self.bench.clip, self.bench.dino]
        same = {m.name: float(F.cosine_similarity(m.features(own), m.features(base)).mean()) for m in metrics}
        prompts = [Prompt("a photo of a {}", self.subject.noun)] * len(own)
        return {"same": same, "subject": reference.score(own, prompts).image}

    def score_photos(self) -> str | None:
        """The photos among themselves: what a perfect picture would reach."""
        key = f"{self.key(PHOTOS)}/scores"
        if self.store.has(key):
            return None
        with self.bench.encoders():
            metrics = (self.bench.clip, self.bench.dino)
            score = ReferenceImages([photo.image for photo in self.photos], (), metrics).score_photos()
        self.save(key, PHOTOS, "scores", {"pictures": len(self.photos), "score": asdict(score)})
        return f"{len(self.photos)} photos"

    def save(self, key: str, method: str, kind: str, record: dict[str, Any]) -> None:
        """Keep a record with whose it is."""
        who = {"kind": kind, "subject": self.subject.name, "noun": self.subject.noun, "seed": self.seed}
        self.store.save(key, who | {"method": method} | record)


@contextmanager
def measured(model: Model) -> Iterator[dict[str, Any]]:
    """A record that has, after the work inside it, its `seconds`, those of the CPU, and the most bytes held, `peak`.

    On a card a search counts anew when it has seen how many samples fit; its steps, which follow, hold the most.
    """
    peak_memory(model.device, reset=True)
    begun, cpu, facts = time.perf_counter(), time.process_time(), dict[str, Any]()
    yield facts
    facts["seconds"], facts["cpu"] = round(time.perf_counter() - begun, 1), round(time.process_time() - cpu, 1)
    facts["peak"] = peak_memory(model.device)
