"""`cones inspect`: what is in a .cone file, and whether it fits a base model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool.cli import _options, _output, _streams
from conestool.cli._options import Config, Json, LayersOption, Offline, Overwrite, Revision, value
from conestool.errors import BaseModelMismatchError, UsageError

if TYPE_CHECKING:
    from conestool.cli._format import FileFacts


def inspect(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".cone files; - reads one from stdin.")],
    model: Annotated[str | None, value("M", "Check that they fit this base model.")] = None,
    plot: Annotated[Path | None, value("F.png", "Draw the layer map; - is stdout.")] = None,
    layers: LayersOption = False,
    revision: Revision = None,
    config: Config = None,
    offline: Offline = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Show what is in a .cone file.

    Concepts, prompts, losses, base model, size beside other methods; with --layers the density of each layer. The JSON
    is a list with one object per file.
    """
    from conestool.cli import _format

    if not model:
        _options.warn_unused("without --model", {"--revision": revision, "--config": config})
    if not plot:
        _options.warn_unused("without --plot", {"--overwrite": overwrite})
    check_plot(files, plot, overwrite=overwrite, json=json)
    _streams.refuse_twice_stdin(files)
    data = {str(path): _streams.read_bytes("a .cone file") for path in files if str(path) == _streams.STDIO}
    data |= {str(path): _streams.fetch(path, offline).data for path in files if str(path).startswith(_streams.HUB)}
    facts = [gather(path, data.get(str(path))) for path in files]
    for number, one in enumerate(facts):
        if number:
            _output.say("")
        _format.show_file(one, layers)
    written = [draw(files[0], data.get(str(files[0])), plot, overwrite)] if plot else []
    checks = check_models(facts, model, revision=revision, config=config, offline=offline) if model else []
    if json:
        records = [_format.file_record(one) for one in facts]
        for record, check in zip(records, checks, strict=False):
            record["model_check"] = check
        _streams.emit_json(records)
    elif written and str(plot) != _streams.STDIO:
        _streams.emit_paths(written)
    refuse_misfits(facts, checks, model)


def check_plot(files: list[Path], plot: Path | None, *, overwrite: bool, json: bool) -> None:
    """Refuse a plot that cannot be written, or that cannot hold all that was asked for."""
    if plot is None:
        return
    if len(files) > 1:
        raise UsageError(f"--plot: one picture, but {len(files)} files", "plot one file at a time, or merge them first")
    _streams.refuse_shared_stdout(plot, json, "the picture", "--plot")
    _streams.check_outputs([plot], "a PNG", overwrite=overwrite)


def gather(path: Path, data: bytes | None) -> FileFacts:
    """The facts of one file, from its header alone; or of bytes that came on stdin."""
    from conestool import format as cones
    from conestool.cli import _format

    if data is not None:
        name = _streams.shown_name(path)
        return _format.facts_of(name, len(data), cones.loads(data, name))
    header = cones.read_header(path)
    return _format.FileFacts(str(path), header.size, header.concepts)


def draw(path: Path, data: bytes | None, plot: Path, overwrite: bool) -> Path:
    """Draw the layer map of one file into `plot`."""
    from conestool import format as cones
    from conestool.cli._plot import map_png

    picture = map_png(cones.load(path) if data is None else cones.loads(data, "stdin"))
    return _streams.write_bytes(plot, picture, "a PNG", overwrite=overwrite)


def check_models(facts: list[FileFacts], model_id: str, **options: Any) -> list[dict[str, Any]]:
    """How each file's base model compares with the model `model_id`, which is loaded with `options`, on the CPU."""
    from conestool.fingerprint import match
    from conestool.models.model import Model

    info = Model.from_pretrained(model_id, device="cpu", **options).info
    checks = []
    for one in facts:
        found = match(one.base, info)
        _output.say(f"{one.path}: {found.text}")
        checks.append({"model": model_id, "fits": found.accepted, "text": found.text})
    return checks


def refuse_misfits(facts: list[FileFacts], checks: list[dict[str, Any]], model: str | None) -> None:
    """Raise BaseModelMismatchError for files that do not fit the model they were checked against."""
    wrong = [one.path for one, check in zip(facts, checks, strict=False) if not check["fits"]]
    if wrong:
        raise BaseModelMismatchError(
            f"{', '.join(wrong)}: found on another base model than {model}", "cones inspect FILE shows on which"
        )
