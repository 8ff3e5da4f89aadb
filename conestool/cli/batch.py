"""`cones batch`: many subjects, pictures or files, with the base model loaded once a worker."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool.cli import _options, _output, _streams
from conestool.cli._options import MAX_COUNT, DrawingWhere, Json, Options, Overwrite, Where, flag, value
from conestool.cli._search import StepsOption
from conestool.errors import UsageError
from conestool.search.config import Resources, SearchConfig

if TYPE_CHECKING:
    from conestool.batch.jobs import Job, Payload


class Task(StrEnum):
    """What `--task` takes."""

    FIND = "find"
    RENDER = "render"
    EVAL = "eval"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done."""

    output: Annotated[str, value("DIR", "Folder or URL for files and ledger.", "-o", "--output")]
    task: Annotated[Task, value("T", "find, render or eval.")] = Task.FIND
    class_noun: Annotated[str | None, value("NOUN", "What kind of thing all are. Default: by their names.")] = None
    prompts: Annotated[str | None, value("FILE", "For render: prompts for every file; {} is its name.")] = None
    photos: Annotated[Path | None, value("DIR", "For eval: a folder of photos for every file, by name.")] = None
    report: Annotated[bool, flag("Write DIR/report.html, all subjects with pictures.")] = False
    retry: Annotated[bool, flag("Try again what failed in an earlier run.")] = False
    part: Annotated[str, value("K/N", "Do every N-th only, from the K-th.")] = "1/1"


_SUBJECTS = "Folders of folders, .csv or .jsonl; - reads rows or folders."
_JOBS = "Processes, or Ray's workers. Default: 1, or one a GPU."


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who does it."""

    jobs: Annotated[int | None, value("N", _JOBS, min=1, max=MAX_COUNT)] = None
    ray: Annotated[str | None, value("ADDRESS", "Work on this Ray cluster: auto, HOST:PORT.")] = None
    attempts: Annotated[int, value("N", "Give up after N lost workers.", min=1, max=MAX_COUNT)] = 3


def batch(
    subjects: Annotated[list[str], typer.Argument(metavar="SUBJECTS...", help=_SUBJECTS)],
    *,
    work: Work,
    workers: Annotated[Workers, Options("Workers")],
    steps: StepsOption = None,
    search_config: Annotated[SearchConfig, Options("Search")],
    where: DrawingWhere,
    resources: Annotated[Resources, Options("Memory")],
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Find many subjects, or render or eval many files, with the base model loaded once.

    A subject is a folder of photos, or a row of a manifest with the columns photos, name, class_noun, identifier and
    any setting of a search. What is done already is skipped; DIR/ledger.jsonl says how each went.
    """
    from conestool.batch.driver import Batch
    from conestool.batch.jobs import parse_options, payload_of
    from conestool.batch.pools import open_pool
    from conestool.batch.store import open_store
    from conestool.batch.worker import Where as BaseModel

    task, share = work.task.value, _parse_part(work.part)
    base = parse_options("find", {"class_noun": "-", **({"steps": steps} if steps else {})}, search_config).config
    rows = _read_jobs(work, subjects, base)
    store = open_store(work.output, "" if share == (1, 1) else f"-{share[0]}-of-{share[1]}")
    name = where.model or os.environ.get("CONES_MODEL") or _recorded(rows) or _options.POCKET
    loading: Any = {"revision": where.revision, "config": where.config, "offline": where.offline}
    base_model = BaseModel(model=name, device=where.device, dtype=where.dtype.value, **loading)
    view = _View(task)

    def record(line: Mapping[str, Any]) -> None:
        _tell(line)
        if json:
            _streams.write_out(dumps(line).encode() + b"\n")

    def prepare(job: Job, identifier: str | None) -> Payload:
        options = parse_options(task, job.options, base)
        if identifier:
            options = options.model_copy(update={"identifier": identifier})
        return payload_of(job, task, options, resources)

    given: Any = {"attempts": workers.attempts, "retry": work.retry, "overwrite": overwrite, "part": share}
    driver = Batch(task, rows, prepare, store, view.progress, record, **given)
    try:
        with view.shown, open_pool(base_model, workers.jobs, workers.ray, view.note) as opened:
            view.shown.enter_context(_output.waiting("loading the base model"))
            outcome = driver.run(*opened)
    except KeyboardInterrupt:
        _output.tell("what is done is safe; the same command continues")
        raise
    if work.report:
        _write_report(Path(work.output), [job.name for job in rows], replace(where, model=name))
    _output.say(f"{outcome.done} done, {outcome.skipped} done before, {len(outcome.failed)} failed")
    for name, reason in outcome.failed.items():
        _output.tell(f"failed: {name}: {reason}")
    if outcome.failed:
        raise typer.Exit(1)


class _View:
    """What people see of a batch: that a model is loaded, then a bar of the jobs that were left."""

    def __init__(self, title: str) -> None:
        self.shown, self.title = ExitStack(), title
        self.tick: _output.Ticker | None = None
        self.done = 0

    def progress(self, done: int, total: int, names: str) -> None:
        """Jobs are done, and others in work."""
        self.done = done
        if self.tick is None:  # the first time, once a model is loaded and it is known what is left
            self.shown.close()
            self.tick = self.shown.enter_context(_output.progress(self.title, total))
        self.tick(done, names)

    def note(self, text: str) -> None:
        """What a worker says of its job."""
        if self.tick:
            self.tick(self.done, text)


def _read_jobs(work: Work, subjects: Sequence[str], base: SearchConfig) -> list[Job]:
    """The jobs, with their options checked; UsageError for options that do not go together."""
    from conestool.batch.jobs import parse_options
    from conestool.cli._manifest import read_jobs
    from conestool.cli._prompts import read_lines

    if work.task is not Task.FIND and base != SearchConfig():
        raise UsageError(f"--task {work.task.value} makes no search", "put its options into columns of the manifest")
    if work.report and (work.task is not Task.FIND or "://" in work.output):
        raise UsageError("--report: shows the subjects of a folder here", "leave it out")
    texts = [line for _, line in read_lines(work.prompts)] if work.prompts else []
    rows = read_jobs(work.task.value, subjects, work.class_noun, texts, work.photos)
    for job in rows:
        try:
            parse_options(work.task.value, job.options, base)
        except UsageError as error:
            raise UsageError(f"{job.name}: {error}", error.hint) from error
    return rows


def _write_report(folder: Path, names: Sequence[str], where: Where) -> None:
    """One page of all that was found, now or before."""
    from conestool import format as cones
    from conestool._atomic import write_atomic
    from conestool.cli import _report
    from conestool.cli.report import draw_shown

    files = [path for name in names if (path := folder / f"{name}.cone").is_file()]
    found = [(path.name, path.stat().st_size, cones.load(path)) for path in files]
    base = _options.open_model(where)
    shown = draw_shown(base, [concept for _, _, cone in found for concept in cone.concepts])
    if found:
        write_atomic(folder / "report.html", _report.report_html(found, shown, []).encode(), overwrite=True)


def _recorded(rows: Sequence[Job]) -> str | None:
    """The base model of the first .cone file, if there is one here."""
    from conestool.format import read_header

    path = next((path for job in rows for path in job.cones if "://" not in path), None)
    return read_header(path).concepts[0].base.id if path else None


def _parse_part(text: str) -> tuple[int, int]:
    """(K, N) of K/N."""
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise UsageError(f"--part {text}: not a part", "for example --part 1/16 to --part 16/16")
    return int(number), int(parts)


def _tell(line: Mapping[str, Any]) -> None:
    """A job that ended, in a line."""
    if line["state"] == "failed":
        return
    losses = line.get("losses") or {}
    before, after, control = (losses.get(key) for key in ("held_out_before", "held_out_after", "random_after"))
    told = f"{line['file']}: {_output.duration(line['seconds'])}"
    if before and after and control:
        fall, random = (_output.percent(x / before - 1, signed=True) for x in (after, control))
        told += f", photos {fall}, random {random}"
    _output.say(told)
    for warning in line.get("warnings", ()):
        _output.say(f"  warning: {warning}")
