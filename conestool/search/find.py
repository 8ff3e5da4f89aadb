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
from conestool.search.config import PLENTY, Resources, Settings
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.events import Note, Report, ignore
from conestool.search.loop import SavedRun, run, run_key
from conestool.search.loss_terms import PROBES, SAMPLES, Words, describe_photos, prepare
from conestool.search.memory import aside, at_work
from conestool.search.methods import make_method, parameters
from conestool.search.objective import Objective
from conestool.search.prior_images import draw_priors
from conestool.search.report import Choice, Probes, choose, doubts, measure
from conestool.search.subject import split

__all__ = ["find"]


def find(
    pipe: Any,
    images: Sequence[Photo | Image.Image],
    class_noun: str,
    *,
    name: str | None = None,
    identifier: str | None = None,
    settings: Settings | None = None,
    class_pictures: Sequence[Image.Image] | None = None,
    progress: Report = ignore,
    state: Path | None = None,
    resume: bool = False,
    resources: Resources | None = None,
    processes: DistributedState = SINGLE_PROCESS,
) -> Cone:
    """Search the K/V weights of `pipe` for those that make it draw the subject of `images` when shut.

    `pipe` is a diffusers text-to-image pipeline or a Model; its weights are bit-identical afterwards, whatever
    happens. `class_pictures` replaces the class images that the base model would draw. With `state` the search saves
    itself there every half minute and when interrupted; `resume` goes on from it, with the same result; the file is
    the caller's to delete once the concept is safe. `resources` say with how much memory to make do; of several
    `processes`, each with its own copy of the model and the same arguments, each returns the same concept.
    Raises PhotoError without images, UsageError for settings that make no sense, NonFiniteError if weights, latents,
    losses or gradients are not finite.
    """
    settings, resources = settings or Settings(), resources or PLENTY
    model = Model.from_pipeline(pipe)
    photos = [image if isinstance(image, Photo) else as_photo(image) for image in images]
    if not photos:
        raise PhotoError("no photos", "give 3 to 5 photos of the subject")
    if len(photos) == 1:
        progress(Note("one photo only: the concept may hold its background too; 3 to 5 photos are better", True))
    check_weights(model)
    words = name_subject(model, class_noun, name, identifier, progress)
    photos = captioned(model, photos, class_noun, settings, progress, resources, processes)
    pictures = split(photos, settings.crops, settings.held_out, settings.seed)
    priors = draw_priors(model, class_noun, settings, class_pictures, progress, resources, processes)
    info = model.info
    with at_work(model, resources) as layout:
        objective, probes = prepare(model, layout, words, pictures, priors, settings, resources, processes)
        method = make_method(settings.method, objective, **settings.options)
        origin = Origin(
            instance_prompt=words.instance[0],
            class_prompt=words.of_class[0],
            method=settings.method,
            parameters={**settings.record(), **parameters(method), "class_pictures": len(priors.of_class)},
            seed=settings.seed,
            photos=sorted(photo.sha256 for photo in photos),
            held_out=pictures.held_out,
            versions=versions(),
        )
        key = processes.assert_equal(run_key([origin.model_dump(), words.identifier, pictures.captions, info.digests]))
        with aside(model):
            run(method, [objective], SavedRun(state, key) if state else None, resume, progress, processes)
            choice = choose(objective, method.ranking(), settings.density, objective.batch_of(PROBES))
            concept = describe(info, words, origin, choice, objective, probes)
    return Cone((concept,))


def name_subject(model: Model, class_noun: str, name: str | None, identifier: str | None, progress: Report) -> Words:
    """Name, class noun and identifier, checked before the search; a note if the identifier is more than one token."""
    name = name or class_noun
    identifier = identifier or choose_identifier(model, name)
    check_name(name)
    check_words("class noun", class_noun)
    check_words("identifier", identifier)
    if not is_one_token(model, identifier):
        progress(Note(f"the text encoder splits {identifier!r}; a rare word that is a single token works better", True))
    return Words(name, class_noun, identifier)


def captioned(
    model: Model,
    photos: Sequence[Photo],
    noun: str,
    settings: Settings,
    progress: Report,
    resources: Resources = PLENTY,
    processes: DistributedState = SINGLE_PROCESS,
) -> list[Photo]:
    """The photos with the captions that `settings` asks for; a note says what the model saw in them."""
    if settings.captions == "none":
        return [replace(photo, caption="") for photo in photos]
    if settings.captions == "given":
        return list(photos)
    processes.assert_equal(run_key([[photo.sha256, photo.caption] for photo in photos]))
    told = describe_photos(model, photos, noun, settings.seed, resources.pictures(SAMPLES), processes)
    seen = [new.caption or "nothing it has words for" for old, new in zip(photos, told, strict=True) if not old.caption]
    if seen:
        progress(Note(f"around the subject the model sees: {', '.join(dict.fromkeys(seen))}"))
    return told


def describe(
    base: BaseModelInfo, words: Words, origin: Origin, choice: Choice, objective: Objective, probes: Probes
) -> Concept:
    """The concept of the chosen weights, with what it does to held-out losses.

    `base` was taken before the search: by now the model's weights are not its own.
    """
    losses = measure(objective, probes, choice.shut, objective.seed)
    chosen = {**origin.parameters, "density_rule": choice.rule}
    return Concept(
        name=words.name,
        class_noun=words.class_noun,
        identifier=words.identifier,
        indices=objective.layout.indices(choice.shut),
        base=base,
        origin=origin.model_copy(update={"losses": losses, "warnings": doubts(losses), "parameters": chosen}),
    )
