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
from conestool.search.composites import Player
from conestool.search.config import PLENTY, Resources, Settings, Tuning
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.events import Note, Report, ignore
from conestool.search.find import captioned
from conestool.search.loop import SavedRun, run, run_key
from conestool.search.loss_terms import Words, prepare
from conestool.search.memory import aside, at_work
from conestool.search.methods.joint_mask import JointMask
from conestool.search.objective import Objective
from conestool.search.parameters import Layout
from conestool.search.prior_images import draw_priors
from conestool.search.report import Probes, doubts, measure, random
from conestool.search.subject import split

__all__ = ["TUNED", "tune"]

TUNED = "tune"
"""The key of `Origin.parameters` under which a tuned concept says how, with whom, and what became of the losses."""
COMPARED = 64
LOST = 0.02
"""Our choice: what is noise between two searches."""


@dataclass(frozen=True)
class Subject:
    """One concept of the cone with its photos, objective and probes; all objectives share one layout."""

    concept: Concept
    photos: tuple[str, ...]
    objective: Objective
    probes: Probes

    def losses(self, sets: Mapping[str, Tensor]) -> dict[str, float]:
        """The loss on held-out photos, and as `class_...` on class images, under each named set, and untouched."""
        theta, out = self.objective.theta, dict[str, float]()
        for name, shut in {"bare": torch.zeros_like(theta, dtype=torch.bool), **sets}.items():
            weights = theta * ~shut
            out[name] = self.objective.loss(weights, self.probes.held_out)
            out[f"class_{name}"] = self.objective.loss(weights, self.probes.class_images)
        return out


def tune(
    pipe: Any,
    cone: Cone,
    photos_by_name: Mapping[str, Sequence[Photo | Image.Image]],
    *,
    tuning: Tuning | None = None,
    class_pictures: Mapping[str, Sequence[Image.Image]] | None = None,
    progress: Report = ignore,
    state: Path | None = None,
    resume: bool = False,
    resources: Resources | None = None,
    processes: DistributedState = SINGLE_PROCESS,
) -> Cone:
    """Improve the concepts of `cone` together, so that each still draws its subject while all are shut.

    `photos_by_name` has photos of every concept's subject. Every neuron keeps its owner; newly shut ones go to the
    concept whose loss asked for them, and reopened ones leave all their owners. If that does not lower the sum of L_con
    on the photos it learned from, the cone comes back as it was, with a warning. `pipe`, `progress`, `state`, `resume`,
    `resources` and `processes` are those of `find`, and so are the errors, with BaseModelMismatchError for a model that
    the concepts were not found on; the weights of `pipe` are bit-identical afterwards.
    """
    tuning = tuning or Tuning()
    model = Model.from_pipeline(pipe)
    photos = photos_of(cone, photos_by_name)
    check_weights(model)
    check_base(model, cone)
    resources = resources or PLENTY
    shared = (class_pictures, progress, resources, processes)
    with at_work(model, resources) as layout:
        subjects = subjects_of(model, layout, cone, photos, tuning, *shared)
        owned = torch.stack([layout.shut(each.indices) for each in cone.concepts])
        told = [[photo.caption for photo in photos[each.name]] for each in cone.concepts]
        facts = [tuning.record(), tuning.settings.seed, [each.photos for each in subjects], told, model.info.digests]
        key = processes.assert_equal(run_key([*facts, [each.id for each in cone.concepts]]))
        with aside(model):
            saved = SavedRun(state, key) if state else None
            owners = settled(subjects, owned, tuning, saved, resume, progress, processes)
            if torch.equal(owners, owned):
                text = "tuning did not lower the loss: the concepts stay as they were; try more or smaller steps"
                progress(Note(text, True))
                return cone
            return described(cone, subjects, owned, owners, tuning)


def settled(
    subjects: Sequence[Subject],
    owned: Tensor,
    tuning: Tuning,
    saved: SavedRun | None,
    resume: bool,
    progress: Report,
    processes: DistributedState,
) -> Tensor:
    """Who shuts what after the mask's steps, boolean, (concepts, n): as before if they did not lower the losses."""
    objectives = [each.objective for each in subjects]
    mask = JointMask(objectives, owned, **tuning.own())
    run(mask, objectives, saved, resume, progress, processes)
    return mask.divided() if better(subjects, owned.any(0), mask.shut) else owned


def photos_of(cone: Cone, given: Mapping[str, Sequence[Photo | Image.Image]]) -> dict[str, list[Photo]]:
    """Photos by the concepts' own names; UsageError for a name that the cone lacks, PhotoError for a missing one."""
    photos = {
        cone[name].name: [image if isinstance(image, Photo) else as_photo(image) for image in images]
        for name, images in given.items()
    }
    missing = [name for name in cone.names if not photos.get(name)]
    if missing:
        raise PhotoError(f"no photos of {', '.join(missing)}", "give photos of every concept's subject")
    return photos


def subjects_of(
    model: Model,
    layout: Layout,
    cone: Cone,
    photos: Mapping[str, list[Photo]],
    tuning: Tuning,
    class_pictures: Mapping[str, Sequence[Image.Image]] | None = None,
    progress: Report = ignore,
    resources: Resources = PLENTY,
    processes: DistributedState = SINGLE_PROCESS,
) -> list[Subject]:
    """All concepts with the photos of their names, each beside the others in its scenes."""
    settings, shared = tuning.shown, (class_pictures, progress, resources, processes)
    players = {each.name: player_of(each, photos[each.name], settings) for each in cone.concepts}
    found = []
    for concept in cone.concepts:
        beside = [players[name] for name in cone.names if name != concept.name]
        found.append(subject_of(model, layout, concept, photos[concept.name], settings, beside, *shared))
    return found


def subject_of(
    model: Model,
    layout: Layout,
    concept: Concept,
    photos: list[Photo],
    settings: Settings,
    beside: Sequence[Player] = (),
    class_pictures: Mapping[str, Sequence[Image.Image]] | None = None,
    progress: Report = ignore,
    resources: Resources = PLENTY,
    processes: DistributedState = SINGLE_PROCESS,
) -> Subject:
    """One concept's L_con and probes, made as `find` makes them; the layout's weights must be untouched."""
    words = Words(concept.name, concept.class_noun, concept.identifier)
    photos = captioned(model, photos, words.class_noun, settings, progress, resources, processes)
    pictures = split(photos, settings.crops, settings.held_out, settings.seed)
    given = (class_pictures or {}).get(concept.name)
    priors = draw_priors(
        model, words.class_noun, settings, given, progress, resources, processes, [p.noun for p in beside]
    )
    objective, probes = prepare(model, layout, words, pictures, priors, settings, resources, processes, beside)
    return Subject(concept, tuple(sorted(photo.sha256 for photo in photos)), objective, probes)


def player_of(concept: Concept, photos: Sequence[Photo], settings: Settings) -> Player:
    """A subject with the photos that are learned from."""
    return Player(concept.class_noun, concept.phrase, split(photos, 0, settings.held_out, settings.seed).whole)


def better(subjects: Sequence[Subject], before: Tensor, after: Tensor) -> bool:
    """Whether `after` shut has the lower sum of L_con than `before`, both boolean, (n,).

    On fixed noise and the pictures that were learned from.
    """
    sums = [0.0, 0.0]
    for objective in (each.objective for each in subjects):
        batch = objective.batch_of(COMPARED)
        for place, shut in enumerate((before, after)):
            sums[place] += objective.loss(objective.theta * ~shut, batch)
    return sums[1] < sums[0]


def described(cone: Cone, subjects: Sequence[Subject], before: Tensor, after: Tensor, tuning: Tuning) -> Cone:
    """The cone with the concepts' new sets; `before` and `after` are boolean, (concepts, n)."""
    layout, seed = subjects[0].objective.layout, tuning.settings.seed
    merged, tuned = before.any(0), after.any(0)
    concepts = []
    for subject, old, new in zip(subjects, before, after, strict=True):
        sets = {
            "alone": old,
            "merged": merged,
            "tuned": tuned,
            "random": random(layout, tuned, seed),
            "alone_tuned": new,
        }
        facts = {
            **tuning.record(),
            "seed": seed,
            "with": [name for name in cone.names if name != subject.concept.name],
            "photos": list(subject.photos),
            "kept": int((old & new).sum()),
            "shut": int((new & ~old).sum()),
            "reopened": int((old & ~new).sum()),
            "losses": subject.losses(sets),
        }
        concepts.append(changed(subject, layout, new, facts))
    return replace(cone, concepts=tuple(concepts))


def changed(subject: Subject, layout: Layout, shut: Tensor, facts: Mapping[str, Any]) -> Concept:
    """The concept with a new set, and what became of its losses; sections that spoke of the old set are dropped."""
    origin = subject.concept.origin
    losses = measure(subject.objective, subject.probes, shut, facts["seed"])
    parameters = {**origin.parameters, TUNED: to_builtin(facts)}
    told = {"parameters": parameters, "losses": losses, "warnings": warnings_of(facts, losses)}
    new, indices = origin.model_copy(update=told), layout.indices(shut)
    return replace(subject.concept, indices=indices, sections=(), indices_unknown_fields={}, origin=new)


def warnings_of(facts: Mapping[str, Any], losses: Any) -> list[str]:
    """What a user should be warned of: the doubts about the set alone, and a subject that lost by the tuning.

    A little is the price of the scenes: `LOST` of the loss that the bare model has.
    """
    found, now = doubts(losses), facts["losses"]
    if now["tuned"] - now["merged"] > LOST * now["bare"]:
        found.append("on photos of this subject alone the plain merge was better: compare pictures of all together")
    return found
