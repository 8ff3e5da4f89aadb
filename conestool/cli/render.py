"""`cones render`: prompts and concepts in, pictures out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool.cli import _output, _streams
from conestool.cli._options import (
    MAX_COUNT,
    MAX_SEED,
    AllowBaseMismatch,
    Json,
    Overwrite,
    Where,
    flag,
    value,
)
from conestool.cli._output import after, progress
from conestool.cli._prompts import read_prompts
from conestool.errors import UsageError

if TYPE_CHECKING:
    from conestool.cli._axes import Axes, Cell
    from conestool.cli._options import Where
    from conestool.cli._pictures import Targets
    from conestool.cli._prompts import Asked
    from conestool.cli._selection import Chosen, Group
    from conestool.models.model import Model
    from conestool.rendering import Rendering

__all__ = ["render"]

CONCEPTS, PICTURE, OUTPUT = "Concepts", "Picture", "Output"


@dataclass(frozen=True)
class Look:
    """How pictures are drawn; `options` are those of the library's `render` that were given."""

    seeds: range
    literal: bool
    allow_base_mismatch: bool
    batch: int | None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Destination:
    """Where pictures go and in what form."""

    output: str | None
    grid: bool
    compare: bool
    overwrite: bool
    json: bool

    @property
    def sheet(self) -> bool:
        """Whether all pictures go onto one sheet."""
        return self.grid or self.compare


def render(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw; - reads prompts, one a line.")
    ] = None,
    cones: Annotated[
        list[str] | None,
        value(
            "-c", "--cone", metavar="F[:S]", text="Use this file, at strength S (0 to 1); - is stdin.", panel=CONCEPTS
        ),
    ] = None,
    prompt_file: Annotated[
        str | None,
        value("--prompts", metavar="FILE", text="More prompts, one a line, with options; # begins a comment."),
    ] = None,
    no_cones: Annotated[bool, flag("--no-cones", text="Draw with the base model.", panel=CONCEPTS)] = False,
    literal: Annotated[bool, flag("--literal", text="Send the prompt as typed.", panel=CONCEPTS)] = False,
    require: Annotated[bool, flag("--require", text="Refuse a prompt that names no concept.", panel=CONCEPTS)] = False,
    output: Annotated[
        str | None, value("-o", "--output", metavar="OUT", text="A .png, a folder, or - for stdout.", panel=OUTPUT)
    ] = None,
    grid: Annotated[bool, flag("--grid", text="One sheet of all pictures.", panel=OUTPUT)] = False,
    compare: Annotated[bool, flag("--compare", text="A sheet with the base model beside.", panel=OUTPUT)] = False,
    x: Annotated[
        str | None,
        value("--x", metavar="AXIS", text="Columns of a sheet: strength=0:1:5, seed=0:4, guidance=3,7.", panel=OUTPUT),
    ] = None,
    y: Annotated[
        str | None,
        value("--y", metavar="AXIS", text="Rows: as --x, or file=a.cone,b.cone, method=mask,cones.", panel=OUTPUT),
    ] = None,
    number: Annotated[
        int, value("-n", "--number", metavar="N", text="Pictures per prompt.", min=1, max=MAX_COUNT, panel=PICTURE)
    ] = 1,
    seed: Annotated[
        int | None, value("--seed", metavar="N", text="First seed. Default: 0.", min=0, max=MAX_SEED, panel=PICTURE)
    ] = None,
    steps: Annotated[
        int | None, value("--steps", metavar="N", text="Sampling steps.", min=1, max=MAX_COUNT, panel=PICTURE)
    ] = None,
    guidance: Annotated[
        float | None, value("--guidance", metavar="X", text="Weight of the prompt.", panel=PICTURE)
    ] = None,
    negative: Annotated[str | None, value("--negative", metavar="TEXT", text="What to avoid.", panel=PICTURE)] = None,
    size: Annotated[str | None, value("--size", metavar="WxH", text="Pixels, 512 or 512x768.", panel=PICTURE)] = None,
    scheduler: Annotated[
        str | None,
        value("--scheduler", metavar="NAME", text="Sampler, such as 'DPM++ 2M Karras' or DDIM.", panel=PICTURE),
    ] = None,
    batch: Annotated[
        int | None,
        value(
            "--batch",
            metavar="N",
            text="Pictures at once. Default: as many as fit, on the CPU one.",
            min=1,
            max=MAX_COUNT,
            panel=PICTURE,
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        value("--from", metavar="F.png", text="Repeat this picture or sheet; other options change it.", panel=PICTURE),
    ] = None,
    *,
    where: Where,
    allow_base_mismatch: AllowBaseMismatch = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Draw pictures with concepts.

    Without -c, concepts whose names occur in the prompt are taken from the .cone files here or in $CONES_PATH.
    """
    from conestool.cli import _options

    given = {
        "steps": steps,
        "guidance": guidance,
        "negative": negative,
        "scheduler": scheduler,
        "size": parse_size(size),
    }
    given = {key: each for key, each in given.items() if each is not None}
    first = seed or 0
    look = Look(range(first, first + number), literal, allow_base_mismatch, batch, given)
    from conestool.cli._axes import parse_axes

    axes = parse_axes(x, y)
    if axes and (compare or number > 1 or no_cones):
        raise UsageError(
            "--x and --y: a sheet of its own", "leave out --compare, --no-cones and -n; --y seed=0:3 is -n 4"
        )
    destination = Destination(output, grid or bool(axes), compare, overwrite, json)
    refuse_contradictions(cones, no_cones, destination, require)
    _options.warn_unused("with --no-cones", {"--literal": literal and no_cones})
    _options.warn_unused("with --compare, which is a sheet", {"--grid": grid and compare})
    files = [_options.parse_wanted(text).path for text in cones or ()]
    _streams.refuse_twice_stdin([*(prompts or ()), *([prompt_file] if prompt_file else []), *files])
    if picture is None:
        asked = read_prompts(prompts or [], prompt_file)
        draw_prompts(asked, cones or [], no_cones, require, look, destination, where, axes)
        return
    if prompts or prompt_file or no_cones or literal or require or destination.sheet or number > 1:
        raise UsageError("--from: repeats a picture, its prompt and concepts", "leave out prompts, -n and sheets")
    changes = given if seed is None else given | {"seeds": [seed]}
    repeat(picture, cones or [], replace(look, options=changes), destination, where)


def refuse_contradictions(cones: Sequence[str] | None, no_cones: bool, destination: Destination, require: bool) -> None:
    """Refuse options that exclude each other."""
    for given, name in ((cones, "-c"), (destination.compare, "--compare"), (require, "--require")):
        if given and no_cones:
            raise UsageError(f"--no-cones and {name} exclude each other", "leave out one of them")
    if destination.json and destination.output == _streams.STDIO:
        raise UsageError("-o -: stdout cannot carry the picture and JSON", "give the picture a file")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(width, height) from `512` or `512x768`."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
        raise UsageError(f"--size {text}: not a size", "for example --size 512 or --size 512x768")
    return int(parts[0]), int(parts[-1])


def draw_prompts(
    asked: list[Asked],
    cones: list[str],
    none: bool,
    require: bool,
    look: Look,
    destination: Destination,
    where: Where,
    axes: Axes | None = None,
) -> None:
    """Draw every prompt, as files or on one sheet, with `axes` a cell for each of their values."""
    from conestool.cli import _pictures, _selection

    cells = axes.cells(asked, cones) if axes else []
    asked = [cell.asked for cell in cells] or asked
    chosen, offers = _selection.choose(asked, () if axes else cones, none, look.seeds, where.offline)
    jobs = [(each.prompt, each.seeds) for each in chosen]
    settled = _pictures.settle(destination.output, jobs, sheet=destination.sheet, overwrite=destination.overwrite)
    settled.check()
    if not none:
        _selection.check_named(chosen, offers, look.literal, require)
    base = _selection.open_base(chosen, where)
    _selection.tell(chosen, base, look.literal)
    tell_unused(base, chosen, look)
    if axes:  # cells are drawn one by one
        records = draw_axes(base, chosen, look, cells, axes, settled)
    else:
        look = sized(base, look, sum(len(each.seeds) for each in chosen))
        records = (
            draw_sheet(base, chosen, look, destination.compare, settled)
            if destination.sheet
            else draw_files(base, chosen, look, settled)
        )
    finish(records, destination.json)


def tell_unused(base: Model, chosen: list[Chosen], look: Look) -> None:
    """Warn of settings that change no picture."""
    from conestool.rendering import without_effect

    given = look.options.get("negative", "")
    negative = next((each.negative for each in chosen if each.negative), given)
    for text in without_effect(base, negative, look.options.get("guidance")).values():
        _output.warn(text)


def draw_files(base: Model, chosen: list[Chosen], look: Look, targets: Targets) -> list[dict[str, Any]]:
    """Draw and write picture after picture, so that stopping loses none that is done."""
    from conestool.cli import _pictures

    records: list[dict[str, Any]] = []
    for each in draw(base, chosen, look, "pictures"):
        file = targets.write(len(records), _pictures.png_of(each))
        records.append({"file": str(file), **each.record})
    return records


def draw_sheet(base: Model, chosen: list[Chosen], look: Look, compare: bool, targets: Targets) -> list[dict[str, Any]]:
    """Draw all pictures, with `compare` those of the base model too, and write them as one sheet."""
    from conestool.cli import _pictures

    drawn = list(draw(base, chosen, look, "pictures"))
    bare: list[Rendering] = []
    if compare:
        alone = [replace(each, cone=None) if look.literal else each.base_only() for each in chosen]
        for prompt in dict.fromkeys(each.prompt for each in alone):
            _output.say(f"base model: {prompt}")
        bare = list(draw(base, alone, look, "base model"))
    file = targets.write(0, _pictures.make_sheet(drawn, bare, chosen))
    return [{"file": str(file), "pictures": [each.record for each in [*bare, *drawn]]}]


def draw_axes(
    base: Model, chosen: list[Chosen], look: Look, cells: Sequence[Cell], axes: Axes, targets: Targets
) -> list[dict[str, Any]]:
    """Draw a picture for each cell and write all as one sheet, labelled by what differs."""
    from conestool.cli._selection import Group
    from conestool.rendering import sheet_bytes

    drawn: list[Rendering] = []
    with progress("pictures", len(cells)) as tick:
        for number, (each, cell) in enumerate(zip(chosen, cells, strict=True)):
            own = replace(look, options=look.options | cell.options)
            drawn += draw_group(base, Group((each.prompt,), each), own, after(tick, number))
    wide = len(axes.x.values)
    rows = [drawn[start : start + wide] for start in range(0, len(drawn), wide)]
    labels = [cells[start].row for start in range(0, len(cells), wide)]
    columns = axes.x.labels
    if len({cell.asked.prompt for cell in cells}) == 1:  # else the rows name them
        labels, columns = with_words(labels, rows), with_words(columns, list(zip(*rows, strict=True)))
    file = targets.write(0, sheet_bytes(rows, labels, columns))
    return [{"file": str(file), "pictures": [each.record for each in drawn]}]


def with_words(labels: Sequence[str], lines: Sequence[Sequence[Rendering]]) -> list[str]:
    """The labels of rows or columns, with the words that were sent where these differ from one to the next."""
    sent = [sorted({each.record["sent"] for each in line}) for line in lines]
    if any(len(words) > 1 for words in sent) or len({*map(tuple, sent)}) < 2:
        return [*labels]
    return [f"{label}: {words}" if label else words for label, (words,) in zip(labels, sent, strict=True)]


def sized(base: Model, look: Look, most: int) -> Look:
    """`look` with as many pictures at once as fit on a GPU, measured once and said; as it is where that was given."""
    from conestool.models.sampling import pictures_at_once

    if look.batch is not None or base.device.type == "cpu":
        return look
    side = base.defaults.size
    fit = pictures_at_once(base, look.options.get("size") or (side, side), most)
    why = f": {fit.each / 1e9:.2f} GB each, {fit.free / 1e9:.1f} GB free on {base.device}" if fit.each else ""
    _output.say(f"{fit.samples} of {fit.most} pictures at once{why}")
    return replace(look, batch=fit.samples)


def draw(base: Model, chosen: Sequence[Chosen], look: Look, title: str) -> Iterator[Rendering]:
    """The pictures of every prompt with every seed, in order, with a bar."""
    from conestool.cli import _selection

    count, done = len(look.seeds), 0
    with progress(title, len(chosen) * count) as tick:
        for group in _selection.groups(chosen, max(1, (look.batch or 1) // count)):
            yield from draw_group(base, group, look, after(tick, done))
            done += len(group.prompts) * count


def draw_group(base: Model, group: Group, look: Look, told: Callable[[int, int], None]) -> list[Rendering]:
    """The pictures of prompts that share concepts and seeds."""
    from conestool.rendering import render as render_pictures

    own = {} if group.like.negative is None else {"negative": group.like.negative}
    return render_pictures(
        base,
        group.prompts,
        group.like.cone,
        strength=group.like.strength,
        seeds=group.like.seeds,
        literal=look.literal,
        batch=look.batch,
        allow_base_mismatch=look.allow_base_mismatch,
        progress=told,
        **(look.options | own),
    )


def repeat(picture: Path, cones: list[str], look: Look, destination: Destination, where: Where) -> None:
    """Draw what a PNG's record describes once more, a picture or a sheet, with the changes in `look.options`."""
    from conestool.cli import _options, _pictures
    from conestool.rendering import read_sheet, sheet_bytes

    sheet = read_sheet(picture)
    records = [record for row in sheet["pictures"] for record in row]
    if "rows" in sheet and "seeds" in look.options:
        raise UsageError(f"--seed: the pictures of the sheet {picture} have their own", "leave out --seed")
    settled = _pictures.settle(
        destination.output, [(records[0]["prompt"], [0])], sheet=False, overwrite=destination.overwrite
    )
    settled.check()
    base = _options.open_model(where, (records[0]["model"]["id"], records[0]["model"]["revision"]))
    drawn = list(draw_again(base, records, cones, look, where.offline))
    if "rows" not in sheet:
        file = settled.write(0, _pictures.png_of(drawn[0]))
        finish([{"file": str(file), **drawn[0].record}], destination.json)
        return
    again = iter(drawn)
    rows = [[next(again) for _ in row] for row in sheet["pictures"]]
    file = settled.write(0, sheet_bytes(rows, sheet["rows"], sheet["columns"]))
    finish([{"file": str(file), "pictures": [each.record for each in drawn]}], destination.json)


def draw_again(
    base: Model, records: Sequence[dict[str, Any]], cones: list[str], look: Look, offline: bool
) -> Iterator[Rendering]:
    """The pictures of the records, in order, with a bar."""
    from conestool.cli import _selection
    from conestool.rendering import replay

    found = [_selection.choose_ids([used["id"] for used in record["concepts"]], cones, offline) for record in records]
    for record, (_, files) in zip(records, found, strict=True):
        _output.say(f"{', '.join(files) or 'base model'}: {record['sent']}")
    with progress("pictures", len(records)) as tick:
        for number, (record, (cone, _)) in enumerate(zip(records, found, strict=True), 1):
            told = after(tick, number - 1)
            yield replay(base, record, cone, allow_mismatch=look.allow_base_mismatch, progress=told, **look.options)


def finish(records: list[dict[str, Any]], json: bool) -> None:
    """The product on stdout: paths or JSON; nothing more where the picture itself went there."""
    if json:
        _streams.emit_json(records)
    elif records[0]["file"] != _streams.STDIO:
        _streams.emit_paths(record["file"] for record in records)
