"""Find the concept neurons of a subject: photos in, a concept out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from conestool.concept import BaseModelInfo, Concept, Cone, Origin, check_name, check_words
from conestool.errors import PhotoError
from conestool.images.photos import Photo, as_photo
from conestool.models.devices import check_weights
from conestool.models.model import Model
from conestool.models.prompts import choose_identifier, is_one_token
from conestool.models.sampling import versions
from conestool.search.config import DEFAULT_RESOURCES, Resources, SearchConfig
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.events import Callback, LogEvent, shown
from conestool.search.loop import Checkpoint, config_hash, run_loop
from conestool.search.loss_terms import CAPTION_SAMPLES, NUM_EVAL_SAMPLES, SubjectPrompts, caption_photos, prepare
from conestool.search.memory import offload_frozen_modules, search_mode
from conestool.search.methods import make_method, parameters
from conestool.search.objective import Objective
from conestool.search.prior_images import draw_prior_images
from conestool.search.report import EvalBatches, Selection, evaluate_losses, quality_warnings, select_density
from conestool.search.subject import noun_warnings, split_photos

__all__ = ["find"]

FEW_PHOTOS = 3
"""Fewer photos than this share too much besides the subject."""


def find(
    pipe: Any,
    images: Sequence[Photo | Image.Image],
    class_noun: str,
    *,
    name: str | None = None,
    identifier: str | None = None,
    config: SearchConfig | None = None,
    class_images: Sequence[Image.Image] | None = None,
    callback: Callback | None = None,
    checkpoint_path: Path | None = None,
    resume_from_checkpoint: bool = False,
    resources: Resources | None = None,
    processes: DistributedState = SINGLE_PROCESS,
) -> Cone:
    """Search the K/V weights of `pipe` for those that make it draw the subject of `images` when zeroed.

    `pipe` is a diffusers text-to-image pipeline or a Model; its weights are bit-identical afterwards, whatever happens.
    `class_images` replaces the class images that the base model would draw. `callback` is told of progress, which bars
    show by default in terminals and notebooks. With `checkpoint_path` the search saves
    itself there every half minute and when interrupted; `resume_from_checkpoint` continues from it, with the same
    result; the file is the caller's to delete once the concept is safe. `resources` say with how much memory to make
    do; of several `processes`, each with its own copy of the model and the same arguments, each returns the same
    concept. Raises PhotoError without images, UsageError for settings that make no sense, NonFiniteError if weights,
    latents, losses or gradients are not finite.
    """
    config, resources = config or SearchConfig(), resources or DEFAULT_RESOURCES
    callback = callback or shown()
    model = Model.from_pipeline(pipe)
    photos = [image if isinstance(image, Photo) else as_photo(image) for image in images]
    if not photos:
        raise PhotoError("no photos", "give 3 to 5 photos of the subject")
    for text in photo_warnings(photos) + noun_warnings(model.settings, class_noun):
        callback(LogEvent(text, True))
    check_weights(model)
    subject = resolve_names(model, class_noun, name, identifier, callback)
    photos = add_captions(model, photos, class_noun, config, callback, resources, processes)
    split = split_photos(photos, config.num_crops, config.num_validation_images, config.seed)
    priors = draw_prior_images(model, class_noun, config, class_images, callback, resources, processes)
    info = model.info
    with search_mode(model, resources) as params:
        objective, eval_batches = prepare(model, params, subject, split, priors, config, resources, processes)
        method = make_method(config.method, objective, **config.options)
        origin = Origin(
            instance_prompt=subject.instance_prompts[0],
            class_prompt=subject.class_prompts[0],
            method=config.method,
            parameters={**config.record(), **parameters(method), "num_class_images": len(priors.class_images)},
            seed=config.seed,
            photos=sorted(photo.sha256 for photo in photos),
            held_out=split.held_out,
            versions=versions(),
        )
        key = processes.assert_equal(
            config_hash([origin.model_dump(), subject.identifier, split.captions, info.digests])
        )
        with offload_frozen_modules(model):
            run_loop(
                method,
                [objective],
                Checkpoint(checkpoint_path, key) if checkpoint_path else None,
                resume_from_checkpoint,
                callback,
                processes,
            )
            selection = select_density(
                objective, method.ranking(), config.density, objective.selection_batch(NUM_EVAL_SAMPLES)
            )
            concept = build_concept(info, subject, origin, selection, objective, eval_batches)
    return Cone((concept,))


def photo_warnings(photos: Sequence[Photo]) -> list[str]:
    """What to warn of before a search of so few photos."""
    if len(photos) >= FEW_PHOTOS:
        return []
    count = "one photo only" if len(photos) == 1 else f"{len(photos)} photos only"
    return [f"{count}: the concept may hold the background too; 3 to 5 photos are better"]


def resolve_names(
    model: Model, class_noun: str, name: str | None, identifier: str | None, callback: Callback
) -> SubjectPrompts:
    """Name, class noun and identifier, checked before the search; a note if the identifier is more than one token."""
    name = name or class_noun
    identifier = identifier or choose_identifier(model, name)
    check_name(name)
    check_words("class noun", class_noun)
    check_words("identifier", identifier)
    if not is_one_token(model, identifier):
        callback(
            LogEvent(f"the text encoder splits {identifier!r}; a rare word that is a single token works better", True)
        )
    return SubjectPrompts(name, class_noun, identifier)


def add_captions(
    model: Model,
    photos: Sequence[Photo],
    noun: str,
    config: SearchConfig,
    callback: Callback,
    resources: Resources = DEFAULT_RESOURCES,
    processes: DistributedState = SINGLE_PROCESS,
) -> list[Photo]:
    """The photos with the captions that `settings` asks for; a note says what the model saw in them."""
    if config.captions == "none":
        return [replace(photo, caption="") for photo in photos]
    if config.captions == "given":
        return list(photos)
    processes.assert_equal(config_hash([[photo.sha256, photo.caption] for photo in photos]))
    told = caption_photos(model, photos, noun, config.seed, resources.image_batch_size(CAPTION_SAMPLES), processes)
    seen = [new.caption or "nothing it has words for" for old, new in zip(photos, told, strict=True) if not old.caption]
    if seen:
        callback(LogEvent(f"around the subject the model sees: {', '.join(dict.fromkeys(seen))}"))
    return told


def build_concept(
    base: BaseModelInfo,
    subject: SubjectPrompts,
    origin: Origin,
    selection: Selection,
    objective: Objective,
    eval_batches: EvalBatches,
) -> Concept:
    """The concept of the chosen weights, with what it does to held-out losses.

    `base` was taken before the search: by now the model's weights are not its own.
    """
    losses = evaluate_losses(objective, eval_batches, selection.mask, objective.seed)
    chosen = {**origin.parameters, "density_rule": selection.rule}
    return Concept(
        name=subject.name,
        class_noun=subject.class_noun,
        identifier=subject.identifier,
        indices=objective.params.indices_from_mask(selection.mask),
        base=base,
        origin=origin.model_copy(update={"losses": losses, "warnings": quality_warnings(losses), "parameters": chosen}),
    )
