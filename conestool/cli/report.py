"""`cones report`: .cone files as one HTML page, to judge them by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conestool.cli import _options, _output, _streams
from conestool.cli._options import AllowBaseMismatch, DrawingWhere, Json, Overwrite, flag, value
from conestool.errors import NameClashError, UsageError

if TYPE_CHECKING:
    from conestool.cli._report import Shown
    from conestool.concept import Concept, Cone
    from conestool.models.model import Model
    from conestool.rendering.drawing import Rendering


def report(
    files: Annotated[list[str], typer.Argument(metavar="F...", help=".cone files, or hf:owner/name; - reads stdin.")],
    output: Annotated[Path | None, value("OUT", "Default: dog-report.html; - is stdout.", "-o", "--output")] = None,
    photos: Annotated[
        list[str] | None, value("[NAME=]DIR", "Show photos too; of several, by name or subfolder.")
    ] = None,
    no_pictures: Annotated[bool, flag("Draw none: no base model is needed.")] = False,
    *,
    where: DrawingWhere,
    allow_base_mismatch: AllowBaseMismatch = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a page that shows and explains concepts.

    Pictures with and without each, its losses beside their controls, the loss curve, where its neurons lie. One HTML
    file that fetches nothing; dog-samples.png beside dog.cone goes in as well. Photos are private, and stay out unless
    --photos names them.
    """
    from conestool import format as cones_format
    from conestool import ops
    from conestool.cli import _report
    from conestool.cli.eval import read_photos

    _streams.refuse_shared_stdout(output, json, "the page")
    cones, names = _streams.load_cones(files, where.offline), [_streams.shown_name(file) for file in files]
    everything = [concept for cone in cones for concept in cone.concepts]
    path = output or _streams.beside(_streams.default_output([each.name for each in everything]), "report.html")
    _streams.check_outputs([path], "a page", overwrite=overwrite)
    try:
        merged = ops.merge(*cones, names=names)
    except NameClashError:  # versions of one subject, beside each other
        merged = cones[0]
    photos_of = {name: [photo.image for photo in found] for name, found in read_photos(merged, photos or []).items()}
    known: dict[str, Shown] = {}
    for file, cone in zip(files, cones, strict=True):
        strip = _report.read_strip(_streams.beside(Path(file), "samples.png"), cone.id)
        known |= {each.id: _report.Shown(photos=photos_of.get(each.name, ()), samples=strip) for each in cone.concepts}
    together: list[Rendering] = []
    if not no_pictures:
        try:
            base = _options.open_model(where, (merged.base.id, merged.base.revision))
        except UsageError as error:
            raise UsageError(str(error), "name the base model with --model, or use --no-pictures") from error
        known = draw_shown(base, everything, known, allow_base_mismatch=allow_base_mismatch)
        if len(merged.concepts) > 1:
            together = draw_together(base, merged, allow_base_mismatch)
    sized = [(name, len(cones_format.dumps(cone)), cone) for name, cone in zip(names, cones, strict=True)]
    page = _report.report_html(sized, known, together).encode()
    written = _streams.write_bytes(path, page, "a page", overwrite=overwrite)
    told = {"output": str(written), "bytes": len(page), "concepts": [each.name for each in everything]}
    _streams.emit_result(told, [written], json)


def draw_shown(
    base: Model,
    concepts: Sequence[Concept],
    known: Mapping[str, Shown] | None = None,
    *,
    allow_base_mismatch: bool = False,
) -> dict[str, Shown]:
    """The pictures of every concept by its id, beside those that are `known`."""
    from dataclasses import replace

    from conestool.cli._report import Shown
    from conestool.rendering.samples import PICTURES, draw_showcase

    shown: dict[str, Shown] = {}
    with _output.progress("pictures", PICTURES * len(concepts)) as tick:
        for number, concept in enumerate(concepts):
            told = _output.after(tick, PICTURES * number)
            case = draw_showcase(base, concept, allow_base_mismatch=allow_base_mismatch, progress=told)
            shown[concept.id] = replace((known or {}).get(concept.id, Shown()), showcase=case)
    return shown


def draw_together(base: Model, cone: Cone, allow_base_mismatch: bool) -> list[Rendering]:
    """Four pictures of all concepts at once."""
    from conestool.rendering.drawing import render
    from conestool.search.subject import joined

    prompt, seeds = f"a photo of {joined([concept.phrase for concept in cone.concepts])}", range(4)
    with _output.progress("all together", len(seeds)) as tick:
        told = _output.after(tick, 0)
        return render(
            base, prompt, cone, seeds=seeds, literal=True, allow_base_mismatch=allow_base_mismatch, progress=told
        )
