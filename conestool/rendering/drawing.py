"""Drawing pictures with concepts applied, each with the record that repeats it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from PIL import Image
from pydantic import ValidationError

from conestool._display import bars
from conestool._names import rewrite
from conestool._text import check_prompt, one_line
from conestool.apply import Strength, applied_in_turn, apply_cones, strengths
from conestool.concept import Cone
from conestool.errors import BaseModelMismatchError, UsageError
from conestool.models.base_info import file_sha256
from conestool.models.model import Model
from conestool.models.prompts import truncated_text
from conestool.models.sampling import Progress, pictures_at_once, sample, versions
from conestool.rendering.grid import grid
from conestool.rendering.png import PictureRecord, SheetRecord, UsedConcept, UsedModel, png_bytes
from conestool.rendering.regions import sample_in_regions
from conestool.rendering.schedulers import a1111_name, sampling_with


@dataclass(frozen=True)
class Rendering:
    """A picture and the record that goes into its PNG.

    `cut` is the end of the prompt that the text encoder did not read, `unused` says which settings changed nothing.
    """

    image: Image.Image
    record: dict[str, Any]
    cut: str = ""
    unused: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """The size, the prompt and the seed."""
        size = f"{self.image.width}x{self.image.height}"
        return f"Rendering({self.record['sent']!r}, seed {self.record['seed']}, {size})"


def render(
    pipe: Any,
    prompts: str | Sequence[str],
    cone: Cone | None = None,
    *,
    strength: Strength = 1.0,
    seeds: Sequence[int] = (0,),
    negative: str = "",
    steps: int | None = None,
    guidance: float | None = None,
    size: tuple[int, int] | None = None,
    scheduler: str | None = None,
    literal: bool = False,
    regions: bool = False,
    batch: int | None = None,
    allow_base_mismatch: bool = False,
    progress: Progress | None = None,
) -> list[Rendering]:
    """A picture of each prompt with each seed (prompts outermost), every concept of `cone` applied, or the base model.

    `pipe` is a diffusers text-to-image pipeline or a Model, `prompts` one prompt or several.
    Names of concepts in the prompts are rewritten unless `literal`. What is None is the model's default; `scheduler` is
    the name of a sampler as A1111 or diffusers has it, `batch` how many are drawn at once: by default as many as fit on
    a GPU, and one on the CPU, which repeats exactly. With `regions` each concept acts in its own part of the picture
    alone (see `regions.py`): one at a time, after a picture without concepts and one of each alone. `progress` is
    told of each picture that is done, which a bar shows by default in terminals and notebooks. PromptError for an empty
    prompt, or with `regions` for one that does not name a concept; BaseModelMismatchError unless `allow_base_mismatch`
    if a concept was found on another model.
    """
    model, view = Model.from_pipeline(pipe), None if progress else bars()
    typed = [check_prompt(prompt) for prompt in ([prompts] if isinstance(prompts, str) else prompts)]
    sent = [rewrite(prompt, cone.concepts if cone else (), literal) for prompt in typed]
    if view is not None:
        progress = partial(view.update, "pictures")
    jobs = [(index, seed) for index in range(len(typed)) for seed in seeds]
    negative = one_line("negative prompt", negative)
    unused = without_effect(model, negative, guidance)
    negative = "" if NEGATIVE in unused else negative
    side = model.defaults.size
    regions, allow = regions and cone is not None, allow_base_mismatch
    if batch is None or regions:
        batch = 1 if regions else pictures_at_once(model, size or (side, side), len(jobs)).samples
    common: dict[str, Any] = {"negative": negative, "steps": steps, "guidance": guidance, "size": size, "batch": batch}
    with sampling_with(model.pipe, scheduler) as sampler, _applied(model, cone, strength, regions, allow) as draw:
        shared = shared_record(model, cone, strength, common | {"scheduler": sampler, "regions": regions})
        records = [checked(shared | {"prompt": typed[i], "sent": sent[i], "seed": seed}) for i, seed in jobs]
        images = draw([sent[i] for i, _ in jobs], [seed for _, seed in jobs], progress=progress, **common)
    cuts = [truncated_text(model, prompt) for prompt in sent]
    changed_nothing = tuple(unused.values())
    return [
        Rendering(image, told, cuts[i], changed_nothing)
        for image, told, (i, _) in zip(images, records, jobs, strict=True)
    ]


@contextmanager
def _applied(
    model: Model, cone: Cone | None, strength: Strength, regions: bool, allow_base_mismatch: bool
) -> Iterator[Callable[..., list[Image.Image]]]:
    """Yields what draws prompts with seeds, as `sample` does, with the concepts everywhere or in their regions."""
    if cone is None:
        yield partial(sample, model)
    elif regions:
        with applied_in_turn(model, cone, strength, allow_base_mismatch=allow_base_mismatch) as zeroed:
            yield partial(sample_in_regions, model, cone, zeroed)
    else:
        with apply_cones(model, cone, strength=strength, allow_base_mismatch=allow_base_mismatch):
            yield partial(sample, model)


NEGATIVE, GUIDANCE = "negative", "guidance"


def without_effect(model: Model, negative: str, guidance: float | None) -> dict[str, str]:
    """Which of the two settings change no picture of `model`, by name, and why."""
    config: Any = model.denoiser.config
    given = model.defaults.guidance if guidance is None else guidance
    out = {}
    if negative and (given <= 1 or config.get("time_cond_proj_dim") is not None):
        why = f"guidance {given:g} leaves nothing to guide away from" if given <= 1 else f"{model.id} is distilled"
        out[NEGATIVE] = f"the negative prompt has no effect: {why}"
    if guidance is not None and config.get("guidance_embeds") is False:
        out[GUIDANCE] = f"guidance has no effect: {model.id} draws without"
    return out


def checked(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record in full; UsageError for settings outside what a picture can have."""
    try:
        return PictureRecord.model_validate(record).model_dump()
    except ValidationError as error:
        fault = error.errors()[0]
    raise UsageError(f"{'.'.join(map(str, fault['loc']))} {fault['input']}: {fault['msg']}")


def shared_record(model: Model, cone: Cone | None, strength: Strength, common: Mapping[str, Any]) -> dict[str, Any]:
    """What all pictures of one call have in common."""
    defaults = model.defaults
    width, height = common["size"] or (defaults.size, defaults.size)
    given = strengths(cone, strength) if cone else {}
    return {
        "negative": common["negative"],
        "steps": defaults.steps if common["steps"] is None else common["steps"],
        "guidance": defaults.guidance if common["guidance"] is None else common["guidance"],
        "width": width,
        "height": height,
        "batch": common["batch"],
        "regions": common["regions"],
        "scheduler": common["scheduler"],
        "sampler": a1111_name(model.pipe.scheduler),
        "concepts": [
            UsedConcept(name=c.name, id=c.id, identifier=c.identifier, strength=given[c.name])
            for c in (cone.concepts if cone else ())
        ],
        "model": used_model(model),
        "versions": versions(),
    }


def sheet_bytes(
    pictures: Sequence[Sequence[Rendering]], rows: Sequence[str] = (), columns: Sequence[str] = ()
) -> bytes:
    """A contact sheet of rows of pictures as PNG, with labels (see `grid`) and the record of every picture."""
    images = grid([[each.image for each in row] for row in pictures], rows, columns)
    records = [[each.record for each in row] for row in pictures]
    sheet = SheetRecord.model_validate({"rows": list(rows), "columns": list(columns), "pictures": records})
    return png_bytes(images, sheet.model_dump())


def used_model(model: Model) -> UsedModel:
    """What a record says of the base model."""
    known = model.info.model_dump(include=set(UsedModel.model_fields))
    return UsedModel(**known | {"dtype": str(model.dtype).removeprefix("torch."), "file_sha256": file_sha256(model)})


def replay(
    pipe: Any, record: Mapping[str, Any], cone: Cone | None = None, *, allow_mismatch: bool = False, **changes: Any
) -> Rendering:
    """The picture that `record` describes, from the same model (or pipeline) and the concepts in `cone` (`find_ids`).

    Other concepts in `cone` are left out. `changes` override single settings of `render`. BaseModelMismatchError if the
    model is not the recorded one, and UsageError if concepts are missing, unless `allow_mismatch`, with which a concept
    of the same name stands for one that is missing.
    """
    model, picture = Model.from_pipeline(pipe), PictureRecord.model_validate(dict(record))
    check_same(model, picture, allow_mismatch)
    check_ids(cone, picture, allow_mismatch)
    cone, strength = recorded(cone, picture, allow_mismatch)
    settings: dict[str, Any] = {
        "strength": strength,
        "seeds": [picture.seed],
        "negative": picture.negative,
        "steps": picture.steps,
        "guidance": picture.guidance,
        "size": (picture.width, picture.height),
        "scheduler": picture.scheduler,
        "regions": picture.regions,
    }
    drawn = render(
        model, [picture.sent], cone, literal=True, allow_base_mismatch=allow_mismatch, **(settings | changes)
    )[0]
    return replace(drawn, record=drawn.record | {"prompt": picture.prompt})


def recorded(cone: Cone | None, picture: PictureRecord, by_name: bool) -> tuple[Cone | None, dict[str, float]]:
    """The concepts of `cone` that the picture has, known by their ids (or names, `by_name`), and their strengths."""
    exact = {(each.id, each.name): each.strength for each in picture.concepts}
    ids = {each.id: each.strength for each in picture.concepts}
    names = {each.name: each.strength for each in picture.concepts if by_name}
    strength = {}
    for concept in cone.concepts if cone else ():
        found = exact.get((concept.id, concept.name), ids.get(concept.id, names.get(concept.name)))
        if found is not None:
            strength[concept.name] = found
    kept = tuple(cone[name] for name in strength) if cone else ()
    return (Cone(kept) if kept else None), strength


def check_same(model: Model, picture: PictureRecord, allow: bool) -> None:
    """Refuse a model none of whose digests is the recorded one."""
    known = model.info.digests.items() & picture.model.digests.items()
    if not (known or allow):
        raise BaseModelMismatchError(
            f"the picture was drawn by {picture.model.id}, and {model.id} is another model",
            f"use --model {picture.model.id}",
        )


def check_ids(cone: Cone | None, picture: PictureRecord, allow: bool) -> None:
    """Refuse to replay without a concept that was applied."""
    there = {concept.id for concept in cone.concepts} if cone else set()
    missing = [used.name for used in picture.concepts if used.id not in there]
    if missing and not allow:
        raise UsageError(f"concepts of the picture are missing: {', '.join(missing)}", "give their files with -c")
