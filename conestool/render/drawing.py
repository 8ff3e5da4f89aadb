"""Drawing pictures with concepts applied, each with the record that repeats it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from PIL import Image
from pydantic import ValidationError

from conestool._text import check_prompt, one_line
from conestool.apply import Strength, apply_cones, strengths
from conestool.concept import Cone
from conestool.errors import BaseModelMismatchError, UsageError
from conestool.models.model import Model
from conestool.models.prompts import cut_text
from conestool.models.sampling import Progress, sample, versions
from conestool.render.png import PictureRecord, UsedConcept, UsedModel
from conestool.render.prompts import rewrite

__all__ = ["Rendering", "render", "replay", "scheduled"]


@dataclass(frozen=True)
class Rendering:
    """A picture, the record that goes into its PNG, and the end of the prompt that the text encoder did not read."""

    image: Image.Image
    record: dict[str, Any]
    cut: str = ""


def render(
    model: Model,
    prompts: Sequence[str],
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
    batch: int = 1,
    allow_base_mismatch: bool = False,
    progress: Progress | None = None,
) -> list[Rendering]:
    """A picture of each prompt with each seed (prompts outermost), every concept of `cone` applied, or the base model.

    Names of concepts in the prompts are rewritten unless `literal`. What is None is the model's default. PromptError
    for an empty prompt, BaseModelMismatchError unless `allow_base_mismatch` if a concept was found on another model.
    """
    typed = [check_prompt(prompt) for prompt in prompts]
    sent = [rewrite(prompt, cone.concepts if cone else (), literal) for prompt in typed]
    jobs = [(index, seed) for index in range(len(typed)) for seed in seeds]
    negative = one_line("negative prompt", negative)
    common: dict[str, Any] = {"negative": negative, "steps": steps, "guidance": guidance, "size": size, "batch": batch}
    concepts = (
        apply_cones(model, cone, strength=strength, allow_base_mismatch=allow_base_mismatch) if cone else nullcontext()
    )
    with scheduled(model, scheduler), concepts:
        shared = shared_record(model, cone, strength, common)
        records = [checked(shared | {"prompt": typed[i], "sent": sent[i], "seed": seed}) for i, seed in jobs]
        images = sample(model, [sent[i] for i, _ in jobs], [seed for _, seed in jobs], progress=progress, **common)
    cuts = [cut_text(model, prompt) for prompt in sent]
    return [Rendering(image, told, cuts[i]) for image, told, (i, _) in zip(images, records, jobs, strict=True)]


def checked(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record in full; UsageError for settings outside what a picture can have."""
    try:
        return PictureRecord.model_validate(record).model_dump()
    except ValidationError as error:
        fault = error.errors()[0]
    raise UsageError(f"{'.'.join(map(str, fault['loc']))} {fault['input']}: {fault['msg']}")


def shared_record(model: Model, cone: Cone | None, strength: Strength, common: Mapping[str, Any]) -> dict[str, Any]:
    """What all pictures of one call have in common."""
    defaults, info = model.defaults, model.info
    width, height = common["size"] or (defaults.size, defaults.size)
    given = strengths(cone, strength) if cone else {}
    return {
        "negative": common["negative"],
        "steps": defaults.steps if common["steps"] is None else common["steps"],
        "guidance": defaults.guidance if common["guidance"] is None else common["guidance"],
        "width": width,
        "height": height,
        "batch": common["batch"],
        "scheduler": type(model.pipe.scheduler).__name__,
        "concepts": [
            UsedConcept(name=c.name, id=c.id, identifier=c.identifier, strength=given[c.name])
            for c in (cone.concepts if cone else ())
        ],
        "model": UsedModel(**info.model_dump(include=set(UsedModel.model_fields)) | {"dtype": str(model.dtype)[6:]}),
        "versions": versions(),
    }


def replay(
    model: Model,
    record: Mapping[str, Any],
    cone: Cone | None = None,
    *,
    allow_mismatch: bool = False,
    **changes: Any,
) -> Rendering:
    """The picture that `record` describes, from the same model and the concepts in `cone` (see `find_ids`).

    `changes` override single settings of `render`. BaseModelMismatchError if the model is not the recorded one, and
    UsageError if concepts are missing, unless `allow_mismatch`.
    """
    picture = PictureRecord.model_validate(dict(record))
    check_same(model, picture, allow_mismatch)
    check_ids(cone, picture, allow_mismatch)
    strength = {used.name: used.strength for used in picture.concepts}
    settings: dict[str, Any] = {
        "strength": {name: strength[name] for name in (cone.names if cone else ()) if name in strength},
        "seeds": [picture.seed],
        "negative": picture.negative,
        "steps": picture.steps,
        "guidance": picture.guidance,
        "size": (picture.width, picture.height),
        "scheduler": picture.scheduler,
    }
    drawn = render(
        model, [picture.sent], cone, literal=True, allow_base_mismatch=allow_mismatch, **(settings | changes)
    )[0]
    return Rendering(drawn.image, drawn.record | {"prompt": picture.prompt}, drawn.cut)


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


@contextmanager
def scheduled(model: Model, name: str | None) -> Iterator[None]:
    """Within it the pipeline samples with the diffusers scheduler called `name` (with or without "Scheduler")."""
    before = model.pipe.scheduler
    if name is not None and name.removesuffix("Scheduler") != type(before).__name__.removesuffix("Scheduler"):
        model.pipe.scheduler = other_scheduler(name.removesuffix("Scheduler") + "Scheduler", before.config)
    try:
        yield
    finally:
        model.pipe.scheduler = before


def other_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """A diffusers scheduler by class name, with the training configuration of another one."""
    import diffusers

    kind: Any = getattr(diffusers, name, None)
    flows = "beta_schedule" not in config
    try:
        if issubclass(kind, diffusers.SchedulerMixin):
            if flows is not ("FlowMatch" in name):
                suited = "FlowMatchEulerDiscrete" if flows else "DDIM or EulerDiscrete"
                raise UsageError(f"scheduler {name}: the model was trained on another kind of noise", f"use {suited}")
            return kind.from_config(config)
    except TypeError:
        pass
    except ImportError as error:
        raise UsageError(f"scheduler {name} needs a package that is not installed", "install scipy") from error
    raise UsageError(f"unknown scheduler {name!r}", "for example DDIM, EulerDiscrete or DPMSolverMultistep")
