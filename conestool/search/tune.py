"""A few further steps for several concepts together: a merged cone and the photos of all subjects in, a cone out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from conestool._layers import is_cross, is_joint
from conestool.apply.edits import check_base
from conestool.concept import Concept, Cone, to_builtin
from conestool.errors import PhotoError
from conestool.images.photos import Photo, as_photo
from conestool.models.devices import check_weights
from conestool.models.model import Model
from conestool.search.composites import Subject
from conestool.search.config import DEFAULT_RESOURCES, Config, Resources, SearchConfig, at_least, setting
from conestool.search.context import SearchContext
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.events import Callback, LogEvent, shown
from conestool.search.find import add_captions, pixel_hashes
from conestool.search.loop import Checkpoint, config_hash, run_loop
from conestool.search.loss_terms import SubjectPrompts, prepare
from conestool.search.memory import search_mode, stepping
from conestool.search.methods.joint_mask import JointMask, JointMaskConfig
from conestool.search.objective import Objective
from conestool.search.parameters import FlatParameters
from conestool.search.prior_images import draw_prior_images
from conestool.search.report import EvalBatches, evaluate_losses, quality_warnings, random_mask_like
from conestool.search.subject import instance_prompts, split_photos

TUNED = "tune"
"""The key of `Provenance.parameters` under which a tuned concept says how, with whom, and what became of the losses."""
NUM_COMPARED = 64
_LOST = 0.02
"""Our choice: what is noise between two searches."""


@dataclass(frozen=True, kw_only=True)
class TunedConcept:
    """One concept with its photos, objective and evaluation batches; all objectives share their parameters."""

    concept: Concept
    photos: tuple[str, ...]
    objective: Objective
    eval_batches: EvalBatches

    def losses(self, sets: Mapping[str, Tensor]) -> dict[str, float]:
        """The loss on held-out photos, and as `class_...` on class images, under each named set, and untouched."""
        objective, out = self.objective, dict[str, float]()
        for name, mask in {"base_model": torch.zeros_like(objective.weights, dtype=torch.bool), **sets}.items():
            out[name] = objective.loss(objective.params.zeroed(mask), self.eval_batches.held_out)
            out[f"class_{name}"] = objective.loss(objective.params.zeroed(mask), self.eval_batches.class_images)
        return out


@dataclass(frozen=True, kw_only=True)
class TuneConfig(Config):
    """How `tune` works: its mask's parameters, and what `find` would do with the photos.

    `composite_weight` is that of the term that shows the subjects together (see `composites.py`), in place of the one
    of `search`, whose method and density do not count either. With the photos and the configuration of the search the
    same photos are held out again.
    """

    mask: JointMaskConfig = field(default_factory=JointMaskConfig)
    composite_weight: float = setting(2.0, "Weight of scenes with all subjects.", at_least(0))
    search: SearchConfig = field(default_factory=SearchConfig)

    @property
    def subject_config(self) -> SearchConfig:
        """`search`, with the weight of composites that it has here."""
        return replace(self.search, composite_weight=self.composite_weight)

    def record(self) -> dict[str, Any]:
        """The values in force as plain ones, for the file's header."""
        search = {key: value for key, value in self.subject_config.record().items() if key != "density"}
        return self.mask.record() | search


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
    resources: Resources = DEFAULT_RESOURCES,
    processes: DistributedState = SINGLE_PROCESS,
    sample_every: int = 0,
) -> Cone:
    """Improve the concepts of `cone` together, so that each still draws its subject while all are zeroed.

    `photos_by_name` has photos of every concept's subject. Every neuron keeps its owner; newly zeroed ones go to the
    concept whose loss asked for them, and reopened ones leave all their owners. If that does not lower the sum of L_con
    on the photos it learned from, the cone comes back as it was, with a warning. `pipe`, `callback`, `checkpoint_path`,
    `resume_from_checkpoint`, `resources`, `processes` and `sample_every` are those of `find`, and so are the
    errors, with BaseModelMismatchError for a model that the concepts were not found on; the weights of `pipe` are
    bit-identical afterwards.
    """
    config, callback, model = config or TuneConfig(), callback or shown(), Model.from_pipeline(pipe)
    given: Any = {"callback": callback, "processes": processes, "sample_every": sample_every}
    context = SearchContext(model=model, config=config.subject_config, resources=resources, **given)
    photos = match_photos(cone, photos_by_name)
    check_weights(model)
    check_base(model, cone)
    with search_mode(model, resources, _layers_of(cone, config.search.layers)) as params:
        subjects = prepare_subjects(context, params, cone, photos, class_images)
        owned = torch.stack([params.mask_from_indices(each.indices) for each in cone.concepts])
        captions = [[photo.caption for photo in photos[each.name]] for each in cone.concepts]
        facts = [config.record(), config.search.seed, [each.photos for each in subjects], captions, model.info.digests]
        facts += [[each.id, each.phrase, pixel_hashes((class_images or {}).get(each.name))] for each in cone.concepts]
        key = processes.assert_equal(config_hash(facts))
        objectives = [each.objective for each in subjects]
        prompts = [instance_prompts(each.phrase)[0] for each in cone.concepts]
        with stepping(context, objectives, lambda: JointMask(objectives, owned.to(params.device), config.mask)) as mask:
            owned, checkpoint = owned.to(params.device), Checkpoint(checkpoint_path, key)
            curve = run_loop(context, mask, objectives, checkpoint, resume_from_checkpoint, prompts)
            owners = mask.assign_owners()
            if torch.equal(owners, owned) or not loss_is_lower(objectives, owned.any(0), mask.mask):
                text = "tuning did not lower the loss: the concepts stay as they were; try more or smaller steps"
                callback(LogEvent(text, warning=True))
                return cone
            how = {**config.record(), "loss_curve": curve}
            return _build_result(cone, subjects, owned, owners, how, config.search.seed)


def match_photos(cone: Cone, given: Mapping[str, Sequence[Photo | Image.Image]]) -> dict[str, list[Photo]]:
    """Photos by the concepts' own names; UsageError for a name that the cone lacks, PhotoError for a missing one."""
    photos = {cone[name].name: [as_photo(image) for image in images] for name, images in given.items()}
    missing = [name for name in cone.names if not photos.get(name)]
    if missing:
        raise PhotoError(f"no photos of {', '.join(missing)}", "give photos of every concept's subject")
    return photos


def _layers_of(cone: Cone, layers: str) -> str:
    """`layers`, or all where a concept has neurons beyond them."""
    names = {name for concept in cone.concepts for name in concept.indices}
    joint = is_joint(name for concept in cone.concepts for name in concept.base.tensors)
    return layers if all(is_cross(name, joint) for name in names) else "all"


def prepare_subjects(
    context: SearchContext,
    params: FlatParameters,
    cone: Cone,
    photos: Mapping[str, list[Photo]],
    class_images: Mapping[str, Sequence[Image.Image]] | None = None,
) -> list[TunedConcept]:
    """All concepts with the photos of their names, each beside the others in its scenes."""
    subjects = {each.name: composite_subject(each, photos[each.name], context.config) for each in cone.concepts}
    out = []
    for concept in cone.concepts:
        beside, given = [subjects[name] for name in cone.names if name != concept.name], photos[concept.name]
        own = (class_images or {}).get(concept.name)
        out.append(prepare_subject(context, params, concept, given, class_images=own, beside=beside))
    return out


def prepare_subject(
    context: SearchContext,
    params: FlatParameters,
    concept: Concept,
    photos: Sequence[Photo],
    *,
    class_images: Sequence[Image.Image] | None = None,
    beside: Sequence[Subject] = (),
) -> TunedConcept:
    """One concept's L_con and batches of the report, as `find` makes them; the weights must be untouched."""
    noun = concept.class_noun
    subject = SubjectPrompts(name=concept.name, class_noun=noun, identifier=concept.identifier)
    split = split_photos(add_captions(context, photos, noun), context.config)
    priors = draw_prior_images(context, noun, class_images, beside=[each.noun for each in beside])
    objective, eval_batches = prepare(context, params, subject, split, priors, beside=beside)
    hashes = tuple(sorted(photo.sha256 for photo in photos))
    return TunedConcept(concept=concept, photos=hashes, objective=objective, eval_batches=eval_batches)


def composite_subject(concept: Concept, photos: Sequence[Photo], config: SearchConfig) -> Subject:
    """A subject with the photos that are learned from."""
    return Subject(concept.class_noun, concept.phrase, split_photos(photos, replace(config, num_crops=0)).uncropped)


def loss_is_lower(objectives: Sequence[Objective], before: Tensor, after: Tensor) -> bool:
    """Whether zeroing `after` has the lower sum of L_con than zeroing `before`, both boolean, (n,).

    On fixed noise and the pictures that were learned from.
    """
    sums = [0.0, 0.0]
    for objective in objectives:
        batch = objective.selection_batch(NUM_COMPARED)
        for place, mask in enumerate((before, after)):
            sums[place] += objective.loss(objective.params.zeroed(mask), batch)
    return sums[1] < sums[0]


def _build_result(
    cone: Cone, subjects: Sequence[TunedConcept], before: Tensor, after: Tensor, how: Mapping[str, Any], seed: int
) -> Cone:
    """The cone with the concepts' new sets; `before` and `after` are boolean, (concepts, n), `how` is recorded."""
    params = subjects[0].objective.params
    merged, tuned = before.any(0), after.any(0)
    concepts = []
    for subject, old, new in zip(subjects, before, after, strict=True):
        control = random_mask_like(params, tuned, seed)
        sets = {"alone": old, "merged": merged, "tuned": tuned, "random": control, "alone_tuned": new}
        facts = {
            **how,
            "seed": seed,
            "with": [name for name in cone.names if name != subject.concept.name],
            "photos": list(subject.photos),
            "kept": int((old & new).sum()),
            "zeroed": int((new & ~old).sum()),
            "reopened": int((old & ~new).sum()),
            "losses": subject.losses(sets),
        }
        concepts.append(_with_new_mask(subject, params, new, facts))
    return replace(cone, concepts=tuple(concepts))


def _with_new_mask(subject: TunedConcept, params: FlatParameters, mask: Tensor, facts: Mapping[str, Any]) -> Concept:
    """The concept with a new set, and what became of its losses; sections that spoke of the old set are dropped."""
    origin = subject.concept.origin
    losses = evaluate_losses(subject.objective, subject.eval_batches, mask, facts["seed"])
    parameters = {**origin.parameters, TUNED: to_builtin(facts)}
    update = {"parameters": parameters, "losses": losses, "warnings": _warnings_of(facts, losses)}
    new, indices = origin.model_copy(update=update), params.indices_from_mask(mask)
    return replace(subject.concept, indices=indices, sections=(), indices_unknown_fields={}, origin=new)


def _warnings_of(facts: Mapping[str, Any], losses: Any) -> list[str]:
    """What a user should be warned of: the doubts about the set alone, and a subject that lost by the tuning.

    A little is the price of the scenes: `_LOST` of the loss that the base model has.
    """
    found, now = quality_warnings(losses), facts["losses"]
    if now["tuned"] - now["merged"] > _LOST * now["base_model"]:
        found.append("on photos of this subject alone the plain merge was better: compare pictures of all together")
    return found
