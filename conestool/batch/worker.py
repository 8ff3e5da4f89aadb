"""The base model in a worker, and the three kinds of work it does. Light to import: torch comes with the model."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import conestool
from conestool.batch.jobs import EvalOptions, File, FindOptions, Payload, RenderOptions, Result
from conestool.errors import ConesError, UsageError, first_line

if TYPE_CHECKING:
    from conestool.concept import Cone
    from conestool.images.photos import Photo
    from conestool.models.model import Model

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Where:
    """Which base model a worker loads and how; `threads` of the CPU for each worker, None for as many as torch takes.

    The `number`-th worker takes the device of that number where there are several.
    """

    model: str
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    config: str | None = None
    offline: bool = False
    threads: int | None = None
    number: int | None = None


@dataclass(frozen=True)
class Hello:
    """What a worker says of itself: versions, the digests of its base model, and words that can be identifiers."""

    versions: Mapping[str, str]
    digests: Mapping[str, str] = field(default_factory=dict)
    words: Sequence[str] = ()
    device: str = ""


def versions() -> dict[str, str]:
    """The versions that driver and workers must have in common."""
    return {"conestool": conestool.__version__, "python": ".".join(map(str, sys.version_info[:2]))}


class Worker:
    """Holds one base model, and what jobs on it have in common."""

    def __init__(self, where: Where, tell: Tell = lambda text: None) -> None:
        self.where, self.tell = where, tell
        self.model: Any = None
        self.shared: Any = None

    def hello(self) -> Hello | Result:
        """Load the model; a Result with the reason if that fails."""
        where = self.where
        try:
            if where.threads:
                os.environ["OMP_NUM_THREADS"] = str(where.threads)  # for libraries that torch loads
            import torch

            from conestool.models.model import Model
            from conestool.models.prompts import identifiers
            from conestool.search.context import Shared

            if where.threads:
                torch.set_num_threads(where.threads)
            device, cards = where.device, torch.cuda.device_count()
            if where.number is not None and cards and device in ("auto", "cuda"):
                device = f"cuda:{where.number % cards}"
            options: Any = {"revision": where.revision, "config": where.config, "offline": where.offline}
            self.model = Model.from_pretrained(where.model, device=device, dtype=where.dtype, **options)
            self.shared = Shared()
            info = self.model.info
        except Exception as error:
            return _failure(error)
        return Hello(versions(), {**info.digests, "structure": info.structure}, identifiers(self.model), device)

    def do(self, payload: Payload) -> Result:
        """Do one job; whatever goes wrong with it is its Result."""
        began = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="cones-") as folder:
                result: Result = _TASKS[payload.task](self, payload, Path(folder))
        except Exception as error:
            result = _failure(error)
        return replace(result, seconds=round(time.monotonic() - began, 2))


def _failure(error: Exception) -> Result:
    """The Result of a job, or a worker, that `error` ended."""
    bug = not isinstance(error, ConesError | OSError | MemoryError)
    reason = f"{type(error).__name__}: {first_line(error)}" if bug else str(error)
    return Result(reason=reason, hint=getattr(error, "hint", None))


def _find(worker: Worker, payload: Payload, folder: Path) -> Result:
    """Photos become a .cone file, the one that `cones find` writes."""
    from conestool import format as cones
    from conestool.search.events import Event, LogEvent, Progress
    from conestool.search.find import find

    own: FindOptions = payload.options
    warned: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Progress):
            worker.tell(f"{payload.name}: {event.stage} {event.done}/{event.total}")
        elif isinstance(event, LogEvent) and event.warning:
            warned.append(event.text)

    photos, notes = _photos(payload, folder, own.skip_broken, captions=own.config.captions != "none")
    given: Any = {"name": payload.name, "identifier": own.identifier, "config": own.config}
    cone = find(
        worker.model, photos, own.class_noun, callback=hear, resources=payload.resources, shared=worker.shared, **given
    )
    (concept,) = cone.concepts
    texts = own.model_dump(include={"notes", "author", "license"}, exclude_none=True)
    concept = replace(concept, origin=concept.origin.model_copy(update=texts))
    facts: dict[str, Any] = {"class_noun": concept.class_noun, "identifier": concept.identifier}
    facts |= {"photos": len(photos), "neurons": concept.neurons, "density": round(concept.density, 6)}
    facts["losses"] = concept.origin.losses.model_dump(exclude_none=True) if concept.origin.losses else {}
    facts["warnings"] = [*notes, *warned, *concept.origin.warnings]
    return Result(data=cones.dumps(replace(cone, concepts=(concept,))), facts=facts)


def _photos(payload: Payload, folder: Path, skip_broken: bool, captions: bool) -> tuple[list[Photo], list[str]]:
    """The photos that came along, or from their storage, read as `cones find` reads them."""
    from conestool.images.photos import SUFFIXES, read_photos

    paths: list[Path] = []
    for number, file in enumerate(payload.photos):
        name, data = _fetched(file)
        path = folder / str(number) / Path(name).name
        if path.suffix == ".txt" and paths:  # a caption stands behind its photo
            path = paths[-1].with_name(path.name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        if path.suffix != ".txt" or path.suffix in SUFFIXES:
            paths.append(path)
    return read_photos(paths, skip_broken=skip_broken, captions=captions)


def _fetched(file: File) -> tuple[str, bytes]:
    """A file with its content, from the storage that its URL names unless it came along."""
    name, data = file
    if data is None:
        import fsspec

        with fsspec.open(name, "rb") as stream:
            data = stream.read()
    return name, data


def _cone(payload: Payload) -> Cone | None:
    """All the concepts of a job, None if it has no file."""
    from conestool import format as cones
    from conestool.ops import merge

    found = [(name, cones.loads(data, name)) for name, data in map(_fetched, payload.cones)]
    return merge(*(cone for _, cone in found), names=[name for name, _ in found]) if found else None


def _render(worker: Worker, payload: Payload, folder: Path) -> Result:
    """A prompt becomes the PNG that `cones render` draws."""
    from conestool.rendering import png_bytes, render

    own: RenderOptions = payload.options
    given = own.model_dump(exclude={"prompt", "seed", "size"}, exclude_none=True)
    size = (own.size, own.size) if own.size else None
    cone = _cone(payload)
    (drawn,) = render(
        worker.model, own.prompt, cone, seeds=[own.seed], size=size, progress=lambda done, total: None, **given
    )
    facts = {key: drawn.record[key] for key in ("prompt", "sent", "seed")} | {"warnings": list(drawn.unused)}
    return Result(data=png_bytes(drawn.image, drawn.record), facts=facts)


def _evaluate(worker: Worker, payload: Payload, folder: Path) -> Result:
    """Concepts and photos become the report that `cones eval --json` prints; photos are those of the only concept."""
    import json

    from conestool._text import escape_json
    from conestool.evaluation import TEMPLATES, Plan, evaluate, load_metrics

    own: EvalOptions = payload.options
    cone = _cone(payload)
    if cone is None or (payload.photos and len(cone.names) > 1):
        raise UsageError(f"{payload.name}: photos belong to one concept", "extract it first, or leave them out")
    photos = {cone.names[0]: _photos(payload, folder, False, captions=False)[0]} if payload.photos else {}
    plan = Plan.quick() if own.quick else Plan(TEMPLATES, tuple(range(own.seed, own.seed + own.number)))
    plan = replace(plan, resources=payload.resources)
    model: Model = worker.model
    metrics = worker.shared.once("metrics", lambda: load_metrics(model.settings, None, None, offline=True))
    report, _ = evaluate(model, cone, photos, metrics=metrics, plan=plan, tell=lambda event: None)
    text = json.dumps(report.record(), indent=2, ensure_ascii=False, allow_nan=False)
    rows = {each.name: asdict(each.row("concept"))["losses"] for each in report.concepts}
    return Result(data=escape_json(text).encode() + b"\n", facts={"losses": rows})


_TASKS: dict[str, Callable[[Worker, Payload, Path], Result]] = {"find": _find, "render": _render, "eval": _evaluate}
