"""What a batch is made of: jobs as a manifest has them, payloads as workers get them, and results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from conestool._names import pick_identifier
from conestool._text import fold
from conestool.errors import UsageError
from conestool.search.config import DEFAULT_RESOURCES, Resources, SearchConfig

File = tuple[str, bytes | None]
"""A name and its content, or a URL that the worker reads itself."""


class _Options(BaseModel):
    """What a row says besides its files; a column that is not known is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class FindOptions(_Options):
    """How a subject is found; every setting of a search is a column too."""

    class_noun: str
    identifier: str | None = None
    skip_broken: bool = False
    notes: str | None = None
    author: str | None = None
    license: str | None = None
    config: SearchConfig = Field(default_factory=SearchConfig)


class RenderOptions(_Options):
    """How a picture is drawn."""

    prompt: str
    seed: int = Field(0, ge=0, lt=1 << 63)
    strength: float = Field(1.0, ge=0, le=1)
    negative: str = ""
    steps: int | None = Field(None, ge=1)
    guidance: float | None = None
    size: int | None = Field(None, ge=1)
    scheduler: str | None = None
    literal: bool = False
    regions: bool = False


class EvalOptions(_Options):
    """How much is measured."""

    quick: bool = False
    number: int = Field(2, ge=1)
    seed: int = Field(0, ge=0)


_KINDS: dict[str, type[_Options]] = {"find": FindOptions, "render": RenderOptions, "eval": EvalOptions}
SUFFIXES = {"find": ".cone", "render": ".png", "eval": ".json"}
"""How the files of each task end."""
_SETTINGS = TypeAdapter(SearchConfig)


def parse_options(task: str, row: Mapping[str, Any], base: SearchConfig) -> Any:
    """The options of a row; for `find` what it says of the search replaces the settings in `base`.

    UsageError for a column that is not known, or a value that cannot be.
    """
    kind, rest = _KINDS[task], dict(row)
    settings = SearchConfig.__dataclass_fields__ if task == "find" else {}
    try:
        if task == "find":
            steps = rest.pop("steps", None)
            own = {key: rest.pop(key) for key in settings.keys() & rest.keys()}
            if steps:
                own["method"] = f"{own.get('method', base.method)},steps={steps}"
            rest["config"] = _SETTINGS.validate_python(vars(base) | own) if own else base
        return kind.model_validate(rest)
    except ValidationError as error:
        fault = error.errors()[0]
        known = ", ".join(sorted({*kind.model_fields, *settings, *({"steps"} if settings else ())} - {"config"}))
        raise UsageError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}", f"columns: {known}") from error


@dataclass(frozen=True, slots=True)
class Job:
    """One row: a name that no other has, its photos and .cone files (paths, folders, URLs), and its options as typed.

    `group` is what jobs have in common that are best done by one worker.
    """

    name: str
    photos: tuple[str, ...] = ()
    cones: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Payload:
    """A job with all that it takes, as it travels to a worker."""

    task: str
    name: str
    options: Any
    photos: Sequence[File] = ()
    cones: Sequence[File] = ()
    resources: Resources = DEFAULT_RESOURCES


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a job: the file's content and facts about it, or why there is none."""

    data: bytes = b""
    facts: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    hint: str | None = None
    seconds: float = 0.0


def payload_of(job: Job, task: str, options: Any, resources: Resources) -> Payload:
    """The job with its `options` and its files; those behind a URL are left to the worker. PhotoError, OSError."""
    photos: list[File] = []
    local = [path for path in job.photos if "://" not in path]
    if local:
        from conestool.images.photos import caption_path, list_photos

        for path in list_photos(local)[0]:
            photos += [(each.name, each.read_bytes()) for each in (path, caption_path(path)) if each.is_file()]
    photos += [(path, None) for path in job.photos if "://" in path]
    cones = [(path, None if "://" in path else Path(path).read_bytes()) for path in job.cones]
    return Payload(task=task, name=job.name, options=options, photos=photos, cones=cones, resources=resources)


def job_key(payload: Payload, digests: Mapping[str, str]) -> str:
    """Hex digest of all that decides a job's result: files, options and base model; not how much memory it takes."""
    files = [[_content_key(file) for file in group] for group in (payload.photos, payload.cones)]
    facts = [payload.task, payload.name, payload.options.model_dump(mode="python"), files, dict(digests)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _content_key(file: File) -> str:
    """What tells a file's content: its hash, or what the storage says of it (its ETag, or size and time)."""
    name, data = file
    if data is not None:
        return hashlib.sha256(data).hexdigest()
    import fsspec

    system, path = fsspec.url_to_fs(name)
    return f"{name} {system.ukey(path)}"


def assign_identifiers(jobs: Sequence[Job], words: Sequence[str], kept: Mapping[str, str]) -> dict[str, str]:
    """An identifier for each job of `find`, none of them twice: its own, or the one it was found with before, or a new.

    That is the one `find` chooses alone if it is free, else another of the base model's `words`, or some of them
    together when all are taken. UsageError if two jobs have one of their own in common.
    """
    out: dict[str, str] = {}
    used: dict[str, str] = {}
    for own in (True, False):
        for job in jobs:
            word = job.options.get("identifier") if own else out.get(job.name) or kept.get(job.name)
            if word and fold(word) not in used:
                out[job.name], used[fold(word)] = word, job.name
            elif word and own:
                raise UsageError(f"{job.name} and {used[fold(word)]} have the identifier {word!r}", "give them two")
    several = (" ".join(some) for size in range(2, 1 + len(words)) for some in permutations(words, size))
    for job in jobs:
        if job.name not in out:
            word = pick_identifier(words, job.name)
            if word is None or fold(word) in used:
                word = pick_identifier(words, job.name, used)
                word = word or next((some for some in several if fold(some) not in used), None)
            if word is None:
                raise UsageError("the base model has no rare words left", "give each row an identifier")
            out[job.name], used[fold(word)] = word, job.name
    return out
