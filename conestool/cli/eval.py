"""`cones eval`: what the concepts of a file do, beside their controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool.cli import _options, _output, _streams
from conestool.cli._options import (
    MAX_COUNT,
    MAX_SEED,
    MEMORY,
    AllowBaseMismatch,
    Json,
    Options,
    Overwrite,
    Where,
    flag,
    value,
)
from conestool.cli._prompts import read_lines
from conestool.errors import PhotoError

if TYPE_CHECKING:
    from PIL.Image import Image

    from conestool.concept import Cone
    from conestool.evaluation import Plan
    from conestool.images.photos import Photo

ROWS = ("photos", "base model", "random indices", "concept, no identifier", "concept")
_NUMBER = "Pictures per prompt and row. Default: 2."


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is drawn, and who judges it."""

    prompts: Annotated[str | None, value("F", "Prompts, one a line, {} for the subject.")] = None
    number: Annotated[int | None, value("N", _NUMBER, "-n", "--number", min=1, max=MAX_COUNT)] = None
    seed: Annotated[int, value("N", "First seed.", min=0, max=MAX_SEED)] = 0
    clip: Annotated[str | None, value("M", "CLIP-I and CLIP-T by this folder or Hub id.")] = None
    dino: Annotated[str | None, value("M", "DINO-I by this folder or Hub id.")] = None


@dataclass(frozen=True, kw_only=True)
class Least:
    """What a concept must reach, as `evaluation.Gates` has it."""

    min_gain: Annotated[float | None, value("X", "Fall of the photos' loss; 0.1 is a tenth.")] = None
    min_image: Annotated[float | None, value("X", "Image alignment.")] = None
    min_text: Annotated[float | None, value("X", "Text alignment.")] = None


def evaluate(
    file: Annotated[Path, typer.Argument(metavar="F", help="A .cone file; - reads stdin.")],
    *,
    photos: Annotated[
        list[str] | None, value("[NAME=]DIR", "Photos of the subject; of several, by name or subfolder.")
    ] = None,
    quick: Annotated[bool, flag("Fewer pictures and less noise.")] = False,
    pictures: Annotated[Path | None, value("DIR", "Write a sheet of pictures per concept.")] = None,
    measures: Annotated[Measures, Options("Measures")],
    least: Annotated[Least, Options("Gates: exit code 1 below")],
    where: Where,
    allow_base_mismatch: AllowBaseMismatch = False,
    micro_batch: Annotated[
        int | None, value("N", "Samples at once. Default: as many as fit.", panel=MEMORY, min=1, max=MAX_COUNT)
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Measure what concepts do, beside random indices and the base model.

    Losses on photos, on the class and on other nouns; and how well pictures show the subject and the rest of their
    prompt. Exits with 1 if a --min gate fails.
    """
    from conestool.cli import _format

    number, seed = measures.number, measures.seed
    _options.warn_unused("with --quick, which draws one", {"-n": quick and number is not None})
    _options.warn_unused("without --pictures", {"--overwrite": overwrite and not pictures})
    cone = _streams.load_cone(file)
    shown = read_photos(cone, photos or [])
    targets = sheet_paths(cone, pictures, overwrite)
    templates = None
    if measures.prompts is not None:
        from conestool.evaluation.prompts import check_templates

        templates = check_templates(line for _, line in read_lines(measures.prompts))
    base = _options.open_model(where, (cone.base.id, cone.base.revision))
    from conestool.cli._search import Stages
    from conestool.evaluation import Gates, load_metrics
    from conestool.evaluation import evaluate as measure

    gates = Gates(least.min_gain, least.min_image, least.min_text)
    plan = make_plan(templates, quick, range(seed, seed + (number or 2)), micro_batch)
    with _output.waiting("loading what judges pictures"):
        metrics = load_metrics(base.settings, measures.clip, measures.dino, where.offline, base.device)
    gates.check(cone.names, shown, bool(metrics))
    given: Any = {"metrics": metrics, "plan": plan, "allow_base_mismatch": allow_base_mismatch}
    with Stages() as stages:
        report, sheets = measure(base, cone, shown, tell=stages, **given)
    _format.show_report(report)
    written = write_sheets(sheets, targets, overwrite)
    told = report.record() | {"pictures": [str(path) for path in written], "memory": stages.memory}
    _streams.emit_result(told, written, json)
    failures = gates.failures(report)
    for text in failures:
        _output.tell(f"gate: {text}")
    if failures:
        raise typer.Exit(1)


def read_photos(cone: Cone, given: Sequence[str]) -> dict[str, list[Photo]]:
    """Photos by concept name: NAME=DIR, or DIR for the only concept, or with a subfolder for each of several."""
    places: dict[str, Path] = {}
    for text in given:
        name, equals, rest = text.partition("=")
        if equals and not Path(text).exists():
            if name not in cone.names:
                raise PhotoError(f"--photos {text}: no concept is named {name!r}", f"one of {', '.join(cone.names)}")
            places[name] = Path(rest)
        elif len(cone.names) == 1:
            places[cone.names[0]] = Path(text)
        else:
            places |= subfolders(cone, Path(text))
    if not places:
        return {}
    from conestool.cli._search import read_photos as read

    return {name: read([path], skip_broken=False) for name, path in places.items()}


def subfolders(cone: Cone, folder: Path) -> dict[str, Path]:
    """The subfolders of `folder` that are named as concepts; PhotoError if there is none."""
    found = {name: folder / name for name in cone.names if (folder / name).is_dir()}
    if not found:
        raise PhotoError(
            f"{folder}: no subfolder is named as a concept ({', '.join(cone.names)})",
            f"say whose photos they are: --photos {cone.names[0]}={folder}",
        )
    return found


def make_plan(
    templates: tuple[str, ...] | None, quick: bool, seeds: Sequence[int], micro_batch: int | None = None
) -> Plan:
    """How much is measured, and how much at once."""
    from conestool.evaluation import Plan
    from conestool.search.config import Resources

    usual, chosen = (Plan.quick(), seeds[:1]) if quick else (Plan(), seeds)
    given: Any = {"templates": templates or usual.templates, "resources": Resources(micro_batch=micro_batch)}
    return replace(usual, seeds=tuple(chosen), **given)


def sheet_paths(cone: Cone, folder: Path | None, overwrite: bool) -> dict[str, Path]:
    """Where each sheet goes, checked before any work; the folder is made."""
    if folder is None:
        return {}
    if not folder.exists() and folder.parent.is_dir():
        folder.mkdir(exist_ok=True)
    names = [*cone.names, *(["together"] if len(cone.names) > 1 else [])]
    paths = {name: folder / f"{name}.png" for name in names}
    _streams.check_outputs(paths.values(), "a PNG", overwrite=overwrite)
    return paths


def write_sheets(sheets: dict[str, list[Sequence[Image]]], targets: dict[str, Path], overwrite: bool) -> list[Path]:
    """A sheet per concept, each row of pictures in the order of prompts and seeds; and one of all together."""
    from conestool._atomic import write_atomic
    from conestool.rendering import grid
    from conestool.rendering.png import plain_png

    written = []
    for name, path in targets.items():
        if name in sheets:
            labels: Any = ("all concepts", "base model") if name == "together" else ROWS
            rows = [(row, label) for row, label in zip(sheets[name], labels, strict=True) if row]
            sheet = grid([row for row, _ in rows], [label for _, label in rows])
            written.append(write_atomic(path, plain_png(sheet), overwrite=overwrite))
    return written
