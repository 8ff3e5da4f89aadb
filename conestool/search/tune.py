"""A few further steps for several concepts together: a merged cone and the photos of all subjects in, a cone out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from conestool.apply.edits import check_base
from conestool.concept import Concept, Cone, to_builtin
from conestool.errors import PhotoError
from conestool.images.photos import Photo, as_photo
from conestool.models.devices import check_weights
from conestool.models.model import Model
from conestool.search.composites import Subject
from conestool.search.config import DEFAULT_RESOURCES, Resources, SearchConfig, TuneConfig
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.events import Callback, LogEvent, no_callback, shown
from conestool.search.find import add_captions
from conestool.search.loop import Checkpoint, config_hash, run_loop
from conestool.search.loss_terms import SubjectPrompts, prepare
from conestool.search.memory import offload_frozen_modules, search_mode
from conestool.search.methods.joint_mask import JointMask
from conestool.search.objective import Objective
from conestool.search.parameters import FlatParameters
from conestool.search.prior_images import draw_prior_images
from conestool.search.report import EvalBatches, evaluate_losses, quality_warnings, random_mask_like
from conestool.search.subject import split_photos

__all__ = ["TUNED", "tune"]

TUNED = "tune"
"""The key of `Origin.parameters` under which a tuned concept says how, with whom, and what became of the losses."""
NUM_COMPARED = 64
LOST = 0.02
"""Our choice: what is noise between two searches."""


@dataclass(frozen=True)
class TunedConcept:
    """One concept of the cone with its photos, objective and probes; all objectives share one layout."""

    concept: Concept
    photos: tuple[str, ...]
    objective: Objective
    eval_batches: EvalBatches

    def losses(self, sets: Mapping[str, Tensor]) -> dict[str, float]:
        """The loss on held-out photos, and as `class_...` on class images, under each named set, and untouched."""
        untouched, out = self.objective.weights, dict[str, float]()
        for name, mask in {"base_model": torch.zeros_like(untouched, dtype=torch.bool), **sets}.items():
            weights = untouched * ~mask
            out[name] = self.objective.loss(weights, self.eval_batches.held_out)
            out[f"class_{name}"] = self.objective.loss(weights, self.eval_batches.class_images)
        return out


def tune(
    pipe: Any,
    cone: Cone,
    photos_by_name: Mapping[str, Sequence[Photo | Image.Image]],
    *,
    config: TuneConfig | None = None,
    class_images: Mapping[str, Sequence[Image.Image]] | None = None,
    callback: Callback | None = None,
    checkpoint_path: Path | None = None,
    resume_from_checkpoint: bool = False,
    resources: Resources | None = None,
    processes: DistributedState = SINGLE_PROCESS,
) -> Cone:
    """Improve the concepts of `cone` together, so that each still draws its subject while all are zeroed.

    `photos_by_name` has photos of every concept's subject. Every neuron keeps its owner; newly zeroed ones go to the
    concept whose loss asked for them, and reopened ones leave all their owners. If that does not lower the sum of L_con
    on the photos it learned from, the cone comes back as it was, with a warning. `pipe`, `callback`, `checkpoint_path`,
    `resume_from_checkpoint`, `resources` and `processes` are those of `find`, and so are the errors, with
    BaseModelMismatchError for a model that the concepts were not found on; the weights of `pipe` are bit-identical
    afterwards.
    """
    config, callback = config or TuneConfig(), callback or shown()
    model = Model.from_pipeline(pipe)
    photos = match_photos(cone, photos_by_name)
    check_weights(model)
    check_base(model, cone)
    resources = resources or DEFAULT_RESOURCES
    shared = (class_images, callback, resources, processes)
    with search_mode(model, resources) as params:
        subjects = prepare_subjects(model, params, cone, photos, config, *shared)
        owned = torch.stack([params.mask_from_indices(each.indices) for each in cone.concepts])
        told = [[photo.caption for photo in photos[each.name]] for each in cone.concepts]
        facts = [config.record(), config.search.seed, [each.photos for each in subjects], told, model.info.digests]
        key = processes.assert_equal(config_hash([*facts, [each.id for each in cone.concepts]]))
        with offload_frozen_modules(model):
            checkpoint = Checkpoint(checkpoint_path, key) if checkpoint_path else None
            owners = train_mask(subjects, owned, config, checkpoint, resume_from_checkpoint, callback, processes)
            if torch.equal(owners, owned):
                text = "tuning did not lower the loss: the concepts stay as they were; try more or smaller steps"
                callback(LogEvent(text, True))
                return cone
            return build_result(cone, subjects, owned, owners, config)


def train_mask(
    subjects: Sequence[TunedConcept],
    owned: Tensor,
    config: TuneConfig,
    checkpoint: Checkpoint | None,
    resume_from_checkpoint: bool,
    callback: Callback,
    processes: DistributedState,
) -> Tensor:
    """Who zeroes what after the mask's steps, boolean, (concepts, n): as before if they did not lower the losses."""
    objectives = [each.objective for each in subjects]
    mask = JointMask(objectives, owned, **config.mask_options())
    run_loop(mask, objectives, checkpoint, resume_from_checkpoint, callback, processes)
    return mask.assign_owners() if loss_is_lower(subjects, owned.any(0), mask.mask) else owned


def match_photos(cone: Cone, given: Mapping[str, Sequence[Photo | Image.Image]]) -> dict[str, list[Photo]]:
    """Photos by the concepts' own names; UsageError for a name that the cone lacks, PhotoError for a missing one."""
    photos = {
        cone[name].name: [image if isinstance(image, Photo) else as_photo(image) for image in images]
        for name, images in given.items()
    }
    missing = [name for name in cone.names if not photos.get(name)]
    if missing:
        raise PhotoError(f"no photos of {', '.join(missing)}", "give photos of every concept's subject")
    return photos


def prepare_subjects(
    model: Model,
    params: FlatParameters,
    cone: Cone,
    photos: Mapping[str, list[Photo]],
    config: TuneConfig,
    class_images: Mapping[str, Sequence[Image.Image]] | None = None,
    callback: Callback = no_callback,
    resources: Resources = DEFAULT_RESOURCES,
    processes: DistributedState = SINGLE_PROCESS,
) -> list[TunedConcept]:
    """All concepts with the photos of their names, each beside the others in its scenes."""
    search_config, shared = config.subject_config, (class_images, callback, resources, processes)
    subjects = {each.name: composite_subject(each, photos[each.name], search_config) for each in cone.concepts}
    found = []
    for concept in cone.concepts:
        beside = [subjects[name] for name in cone.names if name != concept.name]
        found.append(prepare_subject(model, params, concept, photos[concept.name], search_config, beside, *shared))
    return found


def prepare_subject(
    model: Model,
    params: FlatParameters,
    concept: Concept,
    photos: list[Photo],
    search_config: SearchConfig,
    beside: Sequence[Subject] = (),
    class_images: Mapping[str, Sequence[Image.Image]] | None = None,
    callback: Callback = no_callback,
    resources: Resources = DEFAULT_RESOURCES,
    processes: DistributedState = SINGLE_PROCESS,
) -> TunedConcept:
    """One concept's L_con and probes, made as `find` makes them; the layout's weights must be untouched."""
    subject = SubjectPrompts(concept.name, concept.class_noun, concept.identifier)
    photos = add_captions(model, photos, subject.class_noun, search_config, callback, resources, processes)
    split = split_photos(photos, search_config.num_crops, search_config.num_validation_images, search_config.seed)
    given = (class_images or {}).get(concept.name)
    priors = draw_prior_images(
        model, subject.class_noun, search_config, given, callback, resources, processes, [p.noun for p in beside]
    )
    objective, eval_batches = prepare(
        model, params, subject, split, priors, search_config, resources, processes, beside
    )
    return TunedConcept(concept, tuple(sorted(photo.sha256 for photo in photos)), objective, eval_batches)


def composite_subject(concept: Concept, photos: Sequence[Photo], search_config: SearchConfig) -> Subject:
    """A subject with the photos that are learned from."""
    return Subject(
        concept.class_noun,
        concept.phrase,
        split_photos(photos, 0, search_config.num_validation_images, search_config.seed).uncropped,
    )


def loss_is_lower(subjects: Sequence[TunedConcept], before: Tensor, after: Tensor) -> bool:
    """Whether zeroing `after` has the lower sum of L_con than zeroing `before`, both boolean, (n,).

    On fixed noise and the pictures that were learned from.
    """
    sums = [0.0, 0.0]
    for objective in (each.objective for each in subjects):
        batch = objective.selection_batch(NUM_COMPARED)
        for place, mask in enumerate((before, after)):
            sums[place] += objective.loss(objective.weights * ~mask, batch)
    return sums[1] < sums[0]


def build_result(
    cone: Cone, subjects: Sequence[TunedConcept], before: Tensor, after: Tensor, config: TuneConfig
) -> Cone:
    """The cone with the concepts' new sets; `before` and `after` are boolean, (concepts, n)."""
    params, seed = subjects[0].objective.params, config.search.seed
    merged, tuned = before.any(0), after.any(0)
    concepts = []
    for subject, old, new in zip(subjects, before, after, strict=True):
        sets = {
            "alone": old,
            "merged": merged,
            "tuned": tuned,
            "random": random_mask_like(params, tuned, seed),
            "alone_tuned": new,
        }
        facts = {
            **config.record(),
            "seed": seed,
            "with": [name for name in cone.names if name != subject.concept.name],
            "photos": list(subject.photos),
            "kept": int((old & new).sum()),
            "zeroed": int((new & ~old).sum()),
            "reopened": int((old & ~new).sum()),
            "losses": subject.losses(sets),
        }
        concepts.append(with_new_mask(subject, params, new, facts))
    return replace(cone, concepts=tuple(concepts))


def with_new_mask(subject: TunedConcept, params: FlatParameters, mask: Tensor, facts: Mapping[str, Any]) -> Concept:
    """The concept with a new set, and what became of its losses; sections that spoke of the old set are dropped."""
    origin = subject.concept.origin
    losses = evaluate_losses(subject.objective, subject.eval_batches, mask, facts["seed"])
    parameters = {**origin.parameters, TUNED: to_builtin(facts)}
    told = {"parameters": parameters, "losses": losses, "warnings": warnings_of(facts, losses)}
    new, indices = origin.model_copy(update=told), params.indices_from_mask(mask)
    return replace(subject.concept, indices=indices, sections=(), indices_unknown_fields={}, origin=new)


def warnings_of(facts: Mapping[str, Any], losses: Any) -> list[str]:
    """What a user should be warned of: the doubts about the set alone, and a subject that lost by the tuning.

    A little is the price of the scenes: `LOST` of the loss that the base model has.
    """
    found, now = quality_warnings(losses), facts["losses"]
    if now["tuned"] - now["merged"] > LOST * now["base_model"]:
        found.append("on photos of this subject alone the plain merge was better: compare pictures of all together")
    return found
