"""`cones batch`: many subjects, pictures or files, with the base model loaded once a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool.cli import _output, _streams
from conestool.cli._options import (
    MAX_COUNT,
    MAX_STEPS,
    MEMORY,
    POCKET,
    DrawingWhere,
    Json,
    Overwrite,
    Where,
    flag,
    value,
)
from conestool.cli._search import with_config
from conestool.errors import UsageError
from conestool.search.config import Resources, SearchConfig

if TYPE_CHECKING:
    from conestool.batch.jobs import Job

__all__ = ["batch"]

_SEARCH, _WORKERS = "Search", "Workers"


class Task(StrEnum):
    """What `--task` takes."""

    FIND = "find"
    RENDER = "render"
    EVAL = "eval"


@with_config(Resources, "resources", MEMORY)
@with_config(SearchConfig, "search_config", _SEARCH)
def batch(
    subjects: Annotated[
        list[str],
        typer.Argument(metavar="SUBJECTS...", help="Folders of folders, .csv or .jsonl; - reads rows or folders."),
    ],
    *,
    output: Annotated[str, value("-o", "--output", metavar="DIR", text="Folder or URL for files and ledger.")],
    task: Annotated[Task, value("--task", metavar="T", text="find, render or eval.")] = Task.FIND,
    class_noun: Annotated[
        str | None, value("--class-noun", metavar="NOUN", text="What kind of thing all are. Default: by their names.")
    ] = None,
    prompts: Annotated[
        str | None, value("--prompts", metavar="FILE", text="For render: prompts for every file; {} is its name.")
    ] = None,
    photos: Annotated[
        Path | None, value("--photos", metavar="DIR", text="For eval: a folder of photos for every file, by name.")
    ] = None,
    report: Annotated[bool, flag("--report", text="Write DIR/report.html, all subjects with pictures.")] = False,
    retry: Annotated[bool, flag("--retry", text="Try again what failed in an earlier run.")] = False,
    part: Annotated[str, value("--part", metavar="K/N", text="Do every N-th only, from the K-th.")] = "1/1",
    jobs: Annotated[
        int | None,
        value(
            "--jobs",
            metavar="N",
            text="Processes, or Ray's workers. Default: 1, or one a GPU.",
            panel=_WORKERS,
            min=1,
            max=MAX_COUNT,
        ),
    ] = None,
    ray: Annotated[
        str | None, value("--ray", metavar="ADDRESS", text="Work on this Ray cluster: auto, HOST:PORT.", panel=_WORKERS)
    ] = None,
    attempts: Annotated[
        int,
        value("--attempts", metavar="N", text="Give up after N lost workers.", panel=_WORKERS, min=1, max=MAX_COUNT),
    ] = 3,
    steps: Annotated[
        int | None,
        value("--steps", metavar="N", text="Steps of a search. Default: 60.", panel=_SEARCH, min=1, max=MAX_STEPS),
    ] = None,
    search_config: SearchConfig,
    where: DrawingWhere,
    resources: Resources,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Find many subjects, or render or eval many files, with the base model loaded once.

    A subject is a folder of photos, or a row of a manifest with the columns photos, name, class_noun, identifier and
    any setting of a search. What is done already is skipped; DIR/ledger.jsonl says how each went.
    """
    import os
    from json import dumps

    from conestool.batch.driver import Batch
    from conestool.batch.jobs import Payload, parse_options, payload_of
    from conestool.batch.pools import open_pool
    from conestool.batch.store import open_store
    from conestool.batch.worker import Where as BaseModel
    from conestool.cli._manifest import read_jobs
    from conestool.cli._prompts import read_lines

    share = _parse_part(part)
    base = parse_options("find", {"class_noun": "-", **({"steps": steps} if steps else {})}, search_config).config
    if task is not Task.FIND and base != SearchConfig():
        raise UsageError(f"--task {task.value} makes no search", "put its options into columns of the manifest")
    if report and (task is not Task.FIND or "://" in output):
        raise UsageError("--report: shows the subjects of a folder here", "leave it out")
    texts = [line for _, line in read_lines(prompts)] if prompts else []
    rows = read_jobs(task.value, subjects, class_noun, texts, photos)
    for job in rows:
        try:
            parse_options(task.value, job.options, base)
        except UsageError as error:
            raise UsageError(f"{job.name}: {error}", error.hint) from error
    store = open_store(output, "" if share == (1, 1) else f"-{share[0]}-of-{share[1]}")
    name = where.model or os.environ.get("CONES_MODEL") or _recorded(rows) or POCKET
    base_model = BaseModel(
        model=name,
        device=where.device,
        dtype=where.dtype.value,
        revision=where.revision,
        config=where.config,
        offline=where.offline,
    )
    shown, at = ExitStack(), [0]
    ticks: list[_output.Ticker] = []

    def progress(done: int, total: int, names: str) -> None:
        at[0] = done
        if not ticks:  # the first time, once a model is loaded and it is known what is left
            shown.close()
            ticks.append(shown.enter_context(_output.progress(f"{task.value}", total)))
        ticks[0](done, names)

    def record(line: Mapping[str, Any]) -> None:
        _tell(line)
        if json:
            _streams.write_out(dumps(line).encode() + b"\n")

    def prepare(job: Job, identifier: str | None) -> Payload:
        options = parse_options(task.value, job.options, base)
        if identifier:
            options = options.model_copy(update={"identifier": identifier})
        return payload_of(job, task.value, options, resources)

    work = Batch(
        task=task.value,
        jobs=rows,
        prepare=prepare,
        store=store,
        progress=progress,
        record=record,
        attempts=attempts,
        retry=retry,
        overwrite=overwrite,
        part=share,
    )
    try:
        with (
            shown,
            open_pool(base_model, jobs, ray, lambda text: ticks[0](at[0], text)) as opened,
        ):
            shown.enter_context(_output.waiting("loading the base model"))
            outcome = work.run(*opened)
    except KeyboardInterrupt:
        _output.tell("what is done is safe; the same command continues")
        raise
    if report:
        _write_report(Path(output), [job.name for job in rows], replace(where, model=name))
    _output.say(f"{outcome.done} done, {outcome.skipped} done before, {len(outcome.failed)} failed")
    for name, reason in outcome.failed.items():
        _output.tell(f"failed: {name}: {reason}")
    if outcome.failed:
        raise typer.Exit(1)


def _write_report(folder: Path, names: Sequence[str], where: Where) -> None:
    """One page of all that was found, now or before."""
    from conestool import format as cones
    from conestool._atomic import write_atomic
    from conestool.cli import _options, _report
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
