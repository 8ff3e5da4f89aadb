"""Find the concept neurons of a subject: photos in, a concept out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from conestool._text import check_name, check_words
from conestool.concept import Concept, Cone, Provenance
from conestool.errors import PhotoError
from conestool.images.photos import Photo, as_photo
from conestool.models.devices import check_weights, dtype_name
from conestool.models.model import Model
from conestool.models.prompts import choose_identifier, is_one_token
from conestool.models.sampling import versions
from conestool.search.config import DEFAULT_RESOURCES, Resources, SearchConfig
from conestool.search.context import SearchContext, Shared
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.events import Callback, LogEvent, no_callback, shown
from conestool.search.loop import Checkpoint, config_hash, run_loop
from conestool.search.loss_terms import NUM_EVAL_SAMPLES, SubjectPrompts, caption_photos, prepare
from conestool.search.memory import search_mode, stepping
from conestool.search.methods import make_method, resolve_method
from conestool.search.prior_images import draw_prior_images
from conestool.search.report import evaluate_losses, quality_warnings, select_density
from conestool.search.subject import noun_warnings, split_photos

_FEW_PHOTOS = 3
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
    resources: Resources = DEFAULT_RESOURCES,
    processes: DistributedState = SINGLE_PROCESS,
    sample_every: int = 0,
    shared: Shared | None = None,
) -> Cone:
    """Search the K/V weights of `pipe` for those that make it draw the subject of `images` when zeroed.

    `pipe` is a diffusers text-to-image pipeline or a Model; its weights are bit-identical afterwards, whatever
    happens. `class_images` replaces the class images that the base model would draw. `callback` is told of progress,
    which bars show by default in terminals and notebooks. With `checkpoint_path` the search saves itself there every
    half minute and when interrupted; `resume_from_checkpoint` continues from it, with the same result; the file is the
    caller's to delete once the concept is safe. `resources` say with how much memory to make do; of several
    `processes`, each with its own copy of the model and the same arguments, each returns the same concept. Every
    `sample_every` steps the subject is drawn, and `callback` gets the pictures (`Samples`); `shared` keeps what the
    next search on the same model can use. Neither changes the result. Raises PhotoError without images, UsageError for
    a configuration that makes no sense, NonFiniteError if weights, latents, losses or gradients are not finite.
    """
    config, callback = config or SearchConfig(), callback or shown()
    method_config, model = resolve_method(config.method), Model.from_pipeline(pipe)
    given: Any = {"processes": processes, "sample_every": sample_every, "shared": None if class_images else shared}
    context = SearchContext(model=model, config=config, resources=resources, callback=callback, **given)
    photos = as_photos(images)
    doubts = method_config.doubts(torch.finfo(model.dtype).eps)
    for text in photo_warnings(photos) + noun_warnings(model.settings, class_noun) + doubts:
        callback(LogEvent(text, warning=True))
    context.once("weights", lambda: check_weights(model))
    subject = resolve_names(model, class_noun, name, identifier, callback)
    photos = add_captions(context, photos, class_noun)
    split = split_photos(photos, config)
    priors = draw_prior_images(context, class_noun, class_images)
    info = model.info  # before the search changes weights in memory
    with search_mode(model, resources, config.layers) as params:
        objective, eval_batches = prepare(context, params, subject, split, priors)
        used = {**method_config.record(), "num_class_images": len(priors.class_images)}
        facts = _facts(context, subject, photos, used) | {"method": method_config.name, "held_out": split.held_out}
        key = config_hash([facts, subject.identifier, split.captions, pixel_hashes(class_images), info.digests])
        checkpoint = Checkpoint(checkpoint_path, processes.assert_equal(key))
        prompts = subject.instance_prompts[:1]
        with stepping(context, [objective], lambda: make_method(method_config, objective)) as method:
            curve = run_loop(context, method, [objective], checkpoint, resume_from_checkpoint, prompts)
            sampled = objective.selection_batch(NUM_EVAL_SAMPLES)
            selection = select_density(objective, method.ranking(), config.density, sampled)
            losses = evaluate_losses(objective, eval_batches, selection.mask, config.seed)
        facts["parameters"] |= {"density_rule": selection.rule, "loss_curve": curve}
        origin = Provenance(**facts, losses=losses, warnings=quality_warnings(losses))
        indices = params.indices_from_mask(selection.mask)
    concept = Concept(subject.name, subject.class_noun, subject.identifier, indices, info, origin)
    return Cone((concept,))


def _facts(
    context: SearchContext, subject: SubjectPrompts, photos: Sequence[Photo], used: Mapping[str, Any]
) -> dict[str, Any]:
    """What the file says of how the concept was found; `used` are parameters beside those of the configuration."""
    model, config = context.model, context.config
    place = {"dtype": dtype_name(model.dtype), "device": model.device.type}
    return {
        "instance_prompt": subject.instance_prompts[0],
        "class_prompt": subject.class_prompts[0],
        "parameters": {**config.record(), **used, **place},
        "seed": config.seed,
        "photos": sorted(photo.sha256 for photo in photos),
        "versions": versions(),
    }


def as_photos(images: Sequence[Photo | Image.Image]) -> list[Photo]:
    """Photos and images in memory as photos; PhotoError if there is none."""
    if not images:
        raise PhotoError("no photos", "give 3 to 5 photos of the subject")
    return [as_photo(image, f"image {number}") for number, image in enumerate(images, 1)]


def pixel_hashes(images: Sequence[Image.Image] | None) -> list[str]:
    """The sha256 of the upright RGB pixels of each image."""
    return [as_photo(each).sha256 for each in images or ()]


def photo_warnings(photos: Sequence[Photo]) -> list[str]:
    """What to warn of before a search of so few photos."""
    if len(photos) >= _FEW_PHOTOS:
        return []
    count = "one photo only" if len(photos) == 1 else f"{len(photos)} photos only"
    return [f"{count}: the concept may hold the background too; 3 to 5 photos are better"]


def resolve_names(
    model: Model, class_noun: str, name: str | None, identifier: str | None, callback: Callback = no_callback
) -> SubjectPrompts:
    """Name, class noun and identifier, checked before the search; a note if the identifier is more than one token."""
    name = name or class_noun
    identifier = identifier or choose_identifier(model, name)
    check_name(name)
    check_words("class noun", class_noun)
    check_words("identifier", identifier)
    if not is_one_token(model, identifier):
        text = f"the text encoder splits {identifier!r}; a rare word that is a single token works better"
        callback(LogEvent(text, warning=True))
    return SubjectPrompts(name=name, class_noun=class_noun, identifier=identifier)


def add_captions(context: SearchContext, photos: Sequence[Photo], noun: str) -> list[Photo]:
    """The photos with the captions that the configuration asks for; a note says what the model saw in them."""
    if context.config.captions == "none":
        return [replace(photo, caption="") for photo in photos]
    if context.config.captions == "given":
        return list(photos)
    context.processes.assert_equal(config_hash([[photo.sha256, photo.caption] for photo in photos]))
    captioned = caption_photos(context, photos, noun)
    pairs = zip(photos, captioned, strict=True)
    seen = [new.caption or "nothing it has words for" for old, new in pairs if not old.caption]
    if seen:
        context.callback(LogEvent(f"around the subject the model sees: {', '.join(dict.fromkeys(seen))}"))
    return captioned
