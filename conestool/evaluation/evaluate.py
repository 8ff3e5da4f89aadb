"""Evaluate concepts on their base model: each alone beside its controls, and all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from conestool.apply import check_base
from conestool.concept import Concept, Cone
from conestool.evaluation.alignment import ImageMetric
from conestool.evaluation.attribute_metric import AttributeMetric
from conestool.evaluation.losses import LossProbes, make_probes
from conestool.evaluation.pictures import ReferenceImages, draw
from conestool.evaluation.prompts import TEMPLATES, Prompt, joined, unrelated_nouns
from conestool.evaluation.report import ConceptReport, Presence, Report, Row
from conestool.images.class_images import GROUP_SIZE, class_images
from conestool.images.photos import Photo, as_photo
from conestool.models.model import Model
from conestool.ops import union
from conestool.search.config import DEFAULT_RESOURCES, Resources
from conestool.search.events import Callback as Tell
from conestool.search.events import LogEvent, Progress, shown
from conestool.search.memory import memory_choice
from conestool.search.parameters import FlatParameters, trainable_kv_weights
from conestool.search.report import magnitude_mask_like, random_mask_like
from conestool.search.subject import class_prompts, instance_prompts

__all__ = ["Plan", "evaluate", "split_by_origin"]

_Images = Sequence[Image.Image]
_CONTROL_SEED = 1


@dataclass(frozen=True)
class Plan:
    """How much is measured: pictures of every template with every seed, `samples` of noise for each loss, `drawings`
    of the class and of `unrelated` other nouns by the model itself; `resources` say how much at once."""

    templates: Sequence[str] = TEMPLATES
    seeds: Sequence[int] = (0, 1)
    samples: int = 64
    drawings: int = 8
    unrelated: int = 3
    resources: Resources = DEFAULT_RESOURCES

    @classmethod
    def quick(cls, templates: Sequence[str] = TEMPLATES[:3]) -> Plan:
        """The least that shows anything."""
        return cls(templates, (0,), 32, 8, 1)


@dataclass
class _Evaluation:
    """One evaluation in progress, on a model whose K/V weights are trainable as `params`."""

    model: Model
    params: FlatParameters
    cone: Cone
    plan: Plan
    metrics: Sequence[ImageMetric]
    drawings: Mapping[str, _Images]
    tell: Tell
    sheets: dict[str, list[_Images]] = field(init=False, default_factory=dict)

    @property
    def weights(self) -> Tensor:
        """The untouched weights, (n,)."""
        return self.params.weights

    def pictures(self, what: str, mask: Tensor | None, subject: str) -> _Images:
        """The plan's pictures of `subject` with `mask` zeroed, with progress under the name of `what`."""
        texts = [str(Prompt(template, subject)) for template in self.plan.templates]
        total = len(texts) * len(self.plan.seeds)

        def tick(done: int) -> None:
            self.tell(Progress(what, done, total))

        return draw(self.model, self.params, self.zeroed(mask), texts, self.plan.seeds, tick, self.batch)

    def zeroed(self, mask: Tensor | None) -> Tensor:
        """The weights without those in `mask`, (n,)."""
        return self.weights if mask is None else self.weights * ~mask

    @property
    def batch(self) -> int:
        """Pictures at once."""
        return self.plan.resources.image_batch_size(GROUP_SIZE)

    def concept(self, concept: Concept, photos: Sequence[Photo]) -> ConceptReport:
        """Every row of one concept."""
        learned, fresh = split_by_origin(concept, photos)
        probes = self.probes(concept, [photo.image for photo in fresh or learned])
        if (found := probes.objective.forward) and not self.sheets:
            self.tell(memory_choice(self.model, found))
        mask = self.params.mask_from_indices(concept.indices)
        controls = {
            "random": random_mask_like(self.params, mask, _CONTROL_SEED),
            "largest": magnitude_mask_like(self.params, mask, self.weights),
        }
        whole = {"all together": self.together()} if len(self.cone.concepts) > 1 else {}
        sets = {"concept": mask, **whole, **controls}
        changes = {name: probes.changes(self.zeroed(mask)) for name, mask in sets.items()}
        rows = self.rows(concept, sets, changes, [photo.image for photo in photos])
        return ConceptReport(
            concept.name,
            concept.class_noun,
            concept.identifier,
            concept.neurons,
            len(fresh or learned),
            len(fresh),
            probes.losses(),
            tuple(rows),
        )

    def together(self) -> Tensor:
        """What all concepts zero, boolean (n,)."""
        return self.params.mask_from_indices(union(self.cone))

    def probes(self, concept: Concept, photos: _Images) -> LossProbes:
        """The losses of one concept."""
        prompt = class_prompts(concept.class_noun)[0]
        classes = {class_prompts(each.class_noun)[0] for each in self.cone.concepts}
        others = {text: images for text, images in self.drawings.items() if text not in classes}
        drawings = {prompt: self.drawings[prompt], **others}
        phrases = (instance_prompts(concept.phrase)[0], prompt)
        return make_probes(self.model, self.params, phrases, photos, drawings, self.plan.samples, self.plan.resources)

    def rows(
        self, concept: Concept, sets: Mapping[str, Tensor], changes: Mapping[str, dict[str, float]], photos: _Images
    ) -> list[Row]:
        """Losses of all sets, and pictures of those that say most: the concept with and without identifier, random."""
        noun, phrase, name = concept.class_noun, concept.phrase, concept.name
        drawn = {
            "concept": self.pictures(f"{name}: pictures", sets["concept"], phrase),
            "no identifier": self.pictures(f"{name}: no identifier", sets["concept"], noun),
            "random": self.pictures(f"{name}: random indices", sets["random"], phrase),
            "base model": self.pictures(f"{name}: base model", None, noun),
        }
        if "all together" in sets:
            drawn["all together"] = self.pictures(f"{name}: all together", sets["all together"], phrase)
        self.sheets[name] = [photos, *(drawn[key] for key in ("base model", "random", "no identifier", "concept"))]
        reference = ReferenceImages(photos, drawn["base model"], self.metrics)
        texts = [Prompt(template, noun) for template in self.plan.templates for _ in self.plan.seeds]
        rows = []
        for key in ("concept", "no identifier", "all together", "random", "largest", "base model"):
            if key in drawn or key in changes:
                subject = noun if key in ("no identifier", "base model") else phrase
                score = reference.score(drawn[key], texts) if key in drawn else Row("", "").score
                rows.append(Row(key, subject, changes.get(key, {}), score))
        return [*rows, Row("photos", "", {}, reference.score_photos())]

    def presence(self) -> Presence | None:
        """How often each concept's class is seen where all are asked for; None without a judge that knows them."""
        judge = next((metric for metric in self.metrics if isinstance(metric, AttributeMetric)), None)
        if judge is None or len(self.cone.concepts) < 2:
            return None
        sent = joined([concept.phrase for concept in self.cone.concepts])
        asked = joined([concept.class_noun for concept in self.cone.concepts])
        seeds = range(self.plan.seeds[0], self.plan.seeds[0] + len(self.plan.seeds) * len(self.plan.templates))
        for mask, text in ((self.together(), sent), (None, asked)):
            self.tell(LogEvent(f"drawing {text!r} {len(seeds)} times"))
            self.sheets.setdefault("together", []).append(
                draw(self.model, self.params, self.zeroed(mask), [text], seeds, batch=self.batch)
            )
        concepts, images = self.cone.concepts, self.sheets["together"]
        seen = [{c.name: judge.presence(group, c.class_noun) for c in concepts} for group in images]
        seen.append({c.name: judge.presence(self.sheets[c.name][0], c.class_noun) for c in concepts})
        known = [{name: share for name, share in shares.items() if share is not None} for shares in seen]
        return Presence(sent, len(seeds), *known)


def evaluate(
    pipe: Any,
    cone: Cone,
    photos: Mapping[str, Sequence[Photo | Image.Image]],
    *,
    metrics: Sequence[ImageMetric] = (),
    plan: Plan | None = None,
    allow_base_mismatch: bool = False,
    tell: Tell | None = None,
) -> tuple[Report, dict[str, list[_Images]]]:
    """Measure every concept of `cone` on `pipe`, a diffusers pipeline or a Model.

    `photos` by concept name, and none where there are none.
    Also returns the pictures: by concept, rows of photos, base model, random, no identifier and concept; under
    "together" those of all concepts at once and of the base model. The model's weights are bit-identical afterwards.
    BaseModelMismatchError unless `allow_base_mismatch` if a concept was found on another model.
    """
    model, plan, tell = Model.from_pipeline(pipe), plan or Plan(), tell or shown()
    check_base(model, cone, allow_base_mismatch=allow_base_mismatch)
    given = {name: [as_photo(image) for image in images] for name, images in photos.items()}
    drawings = _draw_own_images(model, cone, plan, tell)
    # what is written into the model alone lies in the machine's memory, and leaves the device to the drawing
    with trainable_kv_weights(model.denoiser, torch.device("cpu")) as params:
        study = _Evaluation(model, params, cone, plan, metrics, drawings, tell)
        found = tuple(study.concept(concept, given.get(concept.name, ())) for concept in cone.concepts)
        presence = study.presence()
    names = tuple(metric.name for metric in metrics)
    gaps = caveats(found, names, presence)
    return Report(found, tuple(plan.templates), tuple(plan.seeds), names, presence, gaps), study.sheets


def _draw_own_images(model: Model, cone: Cone, plan: Plan, tell: Tell) -> dict[str, _Images]:
    """By prompt, the model's own pictures of every class and of unrelated nouns, from the cache where they are there.

    Of the class, those that the search kept for its own report and did not learn from.
    """
    wanted: dict[str, tuple[int, int]] = {}
    for concept in cone.concepts:
        pool = int(concept.origin.parameters.get("num_class_images", 4 * plan.drawings))
        unseen = max(1, min(plan.drawings, pool // 4))
        wanted[class_prompts(concept.class_noun)[0]] = (unseen, concept.origin.seed or 0)
    nouns = [concept.class_noun for concept in cone.concepts]
    for noun in unrelated_nouns(model.settings, nouns, plan.unrelated):
        wanted[class_prompts(noun)[0]] = (plan.drawings, 0)
    out: dict[str, _Images] = {}
    for number, (prompt, (count, seed)) in enumerate(wanted.items(), 1):
        out[prompt] = class_images(model, prompt, count, seed, batch=plan.resources.image_batch_size(GROUP_SIZE))
        tell(Progress("drawings of the model's own", number, len(wanted)))
    return out


def split_by_origin(concept: Concept, photos: Sequence[Photo]) -> tuple[list[Photo], list[Photo]]:
    """The photos that the search learned from, and those that it did not, by the hashes in the concept's file.

    The search holds back the first `held_out` in the order of their hashes (see search.subject.split_photos).
    """
    learned = set(sorted(concept.origin.photos)[concept.origin.held_out or 0 :])
    return [p for p in photos if p.sha256 in learned], [p for p in photos if p.sha256 not in learned]


def caveats(found: Sequence[ConceptReport], metrics: Sequence[str], presence: Presence | None) -> tuple[str, ...]:
    """What was not measured or has to be read with care, in words."""
    out = []
    for concept in found:
        if not concept.photos:
            out.append(f"{concept.name}: no photos, so no loss on them and no image alignment; give them with --photos")
        elif not concept.unseen:
            out.append(f"{concept.name}: the search learned from all these photos, so their loss flatters it")
    if not metrics:
        out.append("no alignment of pictures: the judge knows pocket's alone; name encoders with --clip and --dino")
    if len(found) > 1 and presence is None:
        out.append("no presence of each subject: only pocket's judge tells it")
    return tuple(out)
