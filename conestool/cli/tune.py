"""`cones tune`: a few further steps for several concepts together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool.cli import _launcher, _output, _search, _streams
from conestool.cli._options import MAX_STEPS, Json, Options, Overwrite, Where, flag, value
from conestool.cli._search import Watcher, Watching
from conestool.errors import UsageError
from conestool.search.config import Resources, SearchConfig

if TYPE_CHECKING:
    from conestool.concept import Cone
    from conestool.images.photos import Photo
    from conestool.search.tune import TuneConfig

_REOPEN = "Reopen neurons that hurt the others; zero no new ones."


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How the concepts change; None is the default of `TuneConfig` and its mask."""

    steps: Annotated[int | None, value("N", "Steps, each with all subjects.", min=1, max=MAX_STEPS)] = None
    lr: Annotated[float | None, value("X", "Largest move of a gate in a step.")] = None
    reopen_only: Annotated[bool, flag(_REOPEN)] = False
    mask: Annotated[str, value("P", "Its other parameters: l1=0.01,init_margin_on=0.1.")] = ""
    composite_weight: Annotated[float | None, value("X", "Weight of scenes with all subjects.", min=0.0)] = None


_LOSSES = Options("Photos and losses", skip=("method", "density", "composite_weight"))


def tune(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".cone files, merged or not; - reads stdin.")],
    photos: Annotated[list[str], value("NAME=PATH", "A concept's photos: folder or file; repeat.", show_default=False)],
    *,
    output: Annotated[Path | None, value("F", "Default: dog+hat-tuned.cone; - is stdout.", "-o", "--output")] = None,
    resume: Annotated[bool, flag("Continue after an interruption.")] = False,
    skip_broken: Annotated[bool, flag("Leave out broken images.")] = False,
    tuning: Annotated[Tuning, Options("Tuning")],
    search_config: Annotated[SearchConfig, _LOSSES],
    watching: Annotated[Watching, Options("Watching")],
    where: Where,
    resources: Annotated[Resources, Options("Memory")],
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Tune several concepts together, with the photos of all.

    The result is again a set of integers per concept: neurons keep their owner, new ones are zeroed, and those that
    hurt the others are opened again.
    """
    from conestool import ops

    _streams.refuse_shared_stdout(output, json)
    _search.check_stdin(files)
    cone = ops.merge(*_streams.load_cones(files), names=[_streams.shown_name(file) for file in files])
    path = output or _default_output(cone.names)
    _streams.check_outputs([path], "a .cone file", overwrite=overwrite)
    watcher = Watcher(path, watching, overwrite=overwrite, resume=resume)
    images = _read_all_photos(cone, _parse_photos(photos), skip_broken, search_config.captions != "none")
    checkpoint, recorded = _search.checkpoint_path_of(path), (cone.base.id, cone.base.revision)
    from conestool.search.tune import tune as tune_concepts

    given: Any = {"config": _config(tuning, search_config), "resources": resources}
    _, tuned, memory = _search.run_search(
        tune_concepts, where, checkpoint, cone, images, resume=resume, watcher=watcher, recorded=recorded, **given
    )
    if _launcher.rank():
        return
    _write_and_report(tuned, path, memory, overwrite=overwrite, json=json)
    if checkpoint:
        checkpoint.unlink(missing_ok=True)


def _config(tuning: Tuning, search: SearchConfig) -> TuneConfig:
    """The options as the library's configuration."""
    from conestool.search.methods.base import read_parameters
    from conestool.search.methods.joint_mask import JointMaskConfig
    from conestool.search.tune import TuneConfig

    given: dict[str, Any] = {key: each for key in ("steps", "lr") if (each := getattr(tuning, key)) is not None}
    given |= {"reopen_only": tuning.reopen_only}
    parts = tuning.mask.split(",") if tuning.mask else []
    mask = JointMaskConfig(**read_parameters("--mask", JointMaskConfig, parts) | given)
    weight = TuneConfig.composite_weight if tuning.composite_weight is None else tuning.composite_weight
    return TuneConfig(mask=mask, composite_weight=weight, search=search)


def _default_output(names: Sequence[str]) -> Path:
    """dog+hat-tuned.cone for the concepts dog and hat."""
    file = _streams.default_output(names)
    return file.with_name(f"{file.stem}-tuned.cone")


def _parse_photos(given: Sequence[str]) -> dict[str, list[Path]]:
    """Paths by concept name from `dog=./photos`; a name that occurs again adds to its paths."""
    out: dict[str, list[Path]] = {}
    for text in given:
        name, sign, path = text.partition("=")
        if not (sign and name and path):
            raise UsageError(f"--photos {text}: expected NAME=PATH", "for example --photos dog=./photos")
        out.setdefault(name, []).append(Path(path))
    return out


def _read_all_photos(
    cone: Cone, paths: Mapping[str, list[Path]], skip_broken: bool, captions: bool
) -> dict[str, list[Photo]]:
    """The photos of every concept; UsageError before anything is read if a name is unknown or one is missing."""
    named = {cone[name].name for name in paths}
    missing = [name for name in cone.names if name not in named]
    if missing:
        raise UsageError(f"no photos of {', '.join(missing)}", f"add --photos {missing[0]}=FOLDER")
    out: dict[str, list[Photo]] = {}
    for name, places in paths.items():
        out.setdefault(cone[name].name, []).extend(_search.read_photos(places, skip_broken, captions))
    for name, photos in out.items():
        _output.say(f"{name}: {_output.amount(len(photos), 'photo')} of {cone[name].class_noun!r}")
    return out


def _write_and_report(cone: Cone, path: Path, memory: dict[str, Any] | None, *, overwrite: bool, json: bool) -> None:
    """Write the file, then report what became of each subject."""
    _streams.save(cone, path, overwrite=overwrite, json=json)
    records = {each.name: each.origin.parameters.get("tune") for each in cone.concepts}
    _show_losses(cone, {name: record for name, record in records.items() if record})
    if json:
        told = {"output": str(path), "id": cone.id, "concepts": list(cone.names), "tune": records, "memory": memory}
        _streams.emit_json(told)


def _show_losses(cone: Cone, records: Mapping[str, Any]) -> None:
    """Tables of the losses against the base model's: on each subject's photos, and on its class images."""
    if not records:
        return
    columns = {"alone": "alone", "merged": "merged", "tuned": "tuned", "random": "random", "alone_tuned": "alone after"}
    steps = [key for key in columns if all(key in record["losses"] for record in records.values())]
    heads = [columns[key] for key in steps]
    for title, prefix in (("photos", ""), ("class", "class_")):
        rows = [[title, *heads]]
        for name, record in records.items():
            losses = record["losses"]
            cells = [
                _output.percent(losses[prefix + key] / losses[f"{prefix}base_model"] - 1, signed=True) for key in steps
            ]
            rows.append([name, *cells])
        _output.table(rows, right=range(1, len(rows[0])))
    rows = [["neurons", "now", "kept", "new", "reopened"]]
    for name, record in records.items():
        counts = (cone[name].neurons, record["kept"], record["zeroed"], record["reopened"])
        rows.append([name, *(f"{count:,}" for count in counts)])
    _output.table(rows, right=range(1, 5))
    for concept in cone.concepts:
        for text in concept.origin.warnings:
            _output.warn(f"{concept.name}: {text}")
