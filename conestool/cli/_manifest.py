"""The rows of a batch: folders, .cone files, CSV, lines of JSON, or a list on stdin."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conestool._names import guess_noun
from conestool._text import check_name, fold
from conestool.batch.jobs import Job
from conestool.cli import _search, _streams
from conestool.errors import ConesError, InputError, UsageError

_FILES = ("photos", "cones")
_ROWS = (".csv", ".jsonl", ".ndjson", ".json")
_Row = tuple[str, dict[str, Any], Path]
"""Where it comes from, its columns, and the folder that its paths start in."""


def read_jobs(
    task: str, subjects: Sequence[str], noun: str | None, prompts: Sequence[str], photos: Path | None
) -> list[Job]:
    """The jobs of a command line, checked; UsageError for rows that name no files, or one name twice."""
    jobs: list[Job] = []
    seen: dict[str, str] = {}
    for source, row, folder in _rows(task, subjects, prompts):
        try:
            job = _job(task, row, folder, noun, photos, len(jobs) + 1)
            if (key := fold(job.name)) in seen:
                raise UsageError(f"the name {job.name} is that of {seen[key]} too", "give each row its own name")
        except ConesError as error:
            raise UsageError(f"{source}: {error}", error.hint) from error
        seen[key] = source
        jobs.append(job)
    if not jobs:
        raise InputError("nothing to do: no subject was named", "give folders of photos, or a manifest (see --help)")
    return jobs


def _rows(task: str, subjects: Sequence[str], prompts: Sequence[str]) -> Iterator[_Row]:
    """The rows of all that was named."""
    for text in subjects:
        path = Path(text)
        if text == _streams.STDIO:
            lines = _streams.decode_lines("stdin", _streams.read_bytes("rows or folders"), "rows or folders")
            yield from _lines("stdin", lines, Path(), task, prompts)
        elif path.suffix.lower() in _ROWS and path.is_file():
            yield from _lines(text, _streams.decode_lines(text, path.read_bytes(), "rows"), path.parent, task, prompts)
        else:
            yield from _named(task, path, prompts)


def _lines(source: str, lines: list[str], folder: Path, task: str, prompts: Sequence[str]) -> Iterator[_Row]:
    """The rows of a manifest: lines of JSON, CSV with a head, or paths."""
    first = next((line for line in lines if line), "")
    if first.startswith("{"):
        for number, line in enumerate(lines, 1):
            if line:
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise UsageError(f"{source}: line {number} is not JSON: {error}", "one object a line") from error
                yield f"{source}: line {number}", row, folder
    elif {"photos", "cones", "prompt"} & {cell.strip() for cell in first.split(",")}:
        for number, row in enumerate(csv.DictReader(lines), 2):
            cells = {key: value for key, value in row.items() if key and value}
            lists = {key: cells[key].split(";") for key in _FILES if key in cells}
            yield f"{source}: line {number}", cells | lists, folder
    else:
        for line in filter(None, lines):
            yield from _named(task, folder / line, prompts)


def _named(task: str, path: Path, prompts: Sequence[str]) -> Iterator[_Row]:
    """The rows of a folder of photos, of a folder of such folders, or of a .cone file."""
    if task != "find":
        for prompt in prompts or ("",):
            yield str(path), {"cones": [str(path)], **({"prompt": prompt} if prompt else {})}, Path()
        return
    from conestool.images.photos import SUFFIXES

    def holds_images(folder: Path) -> bool:
        return any(each.suffix.lower() in SUFFIXES for each in folder.iterdir())

    if not path.is_dir():
        raise UsageError(f"{path}: neither a folder nor a manifest ({', '.join(_ROWS)})", "name folders of photos")
    inside = [each for each in sorted(path.iterdir()) if each.is_dir() and not each.name.startswith(".")]
    found = [path] if holds_images(path) else [each for each in inside if holds_images(each)]
    if not found:
        raise UsageError(f"{path}: no photos in it, nor in the folders inside", "one folder a subject")
    for each in found:
        yield str(each), {"photos": [str(each)], "name": _search.name_from_path(each)}, Path()


def _job(task: str, row: Mapping[str, Any], folder: Path, noun: str | None, photos: Path | None, number: int) -> Job:
    """One row as a job."""
    if not isinstance(row, dict):
        raise UsageError("not an object", 'for example {"photos": "rex", "class_noun": "dog"}')
    rest = dict(row)
    files = {kind: tuple(_paths(rest.pop(kind, ()), folder)) for kind in _FILES}
    name = rest.pop("name", None)
    if task == "find":
        if not files["photos"]:
            raise UsageError("it names no photos", "give a column photos: a folder, or files")
        first = Path(files["photos"][0])
        name = name or _search.name_from_path(first if first.is_dir() else first.parent)
        rest.setdefault("class_noun", noun or guess_noun(str(name)))
        if not rest["class_noun"]:
            raise UsageError(f"cannot tell from {name!r} what the photos show", "give a column class_noun")
    else:
        stem = Path(files["cones"][0]).stem if files["cones"] else "base"
        if task == "eval" and not files["cones"]:
            raise UsageError("it names no .cone file", "give a column cones")
        if task == "render":
            rest["prompt"] = str(rest.get("prompt", "")).replace("{}", stem)
        if task == "eval" and photos and not files["photos"] and (photos / stem).is_dir():
            files["photos"] = (str(photos / stem),)
        name = name or (stem if task == "eval" else f"{stem}-{number:04}")
    check_name(str(name))
    rest = {key: value for key, value in rest.items() if value is not None}
    return Job(str(name), files["photos"], files["cones"], rest, str(rest.get("class_noun", "")))


def _paths(given: Any, folder: Path) -> Iterable[str]:
    """Paths as the driver opens them; UsageError if one leads nowhere."""
    for text in map(str, given if isinstance(given, list | tuple) else [given]):
        if "://" in text:
            yield text
            continue
        path = folder / text
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder", "paths start in the manifest's folder")
        yield str(path)
