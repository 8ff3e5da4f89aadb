"""`cones render`: prompts and concepts in, pictures out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool.cli import _options, _output, _pictures, _selection, _streams
from conestool.cli._options import MAX_COUNT, MAX_SEED, AllowBaseMismatch, Json, Options, Overwrite, Where, flag, value
from conestool.cli._output import after, progress
from conestool.cli._pictures import Targets
from conestool.cli._prompts import read_prompts
from conestool.cli._selection import Chosen, Group
from conestool.errors import UsageError

if TYPE_CHECKING:
    from conestool.cli._axes import Axes, Cell
    from conestool.cli._prompts import Asked
    from conestool.models.model import Model
    from conestool.rendering import Rendering


@dataclass(frozen=True, kw_only=True)
class Concepts:
    """Which concepts are applied."""

    cones: Annotated[
        list[str] | None, value("F[:S]", "Use this file, at strength S (0 to 1); - is stdin.", "-c", "--cone")
    ] = None
    no_cones: Annotated[bool, flag("Draw with the base model.")] = False
    literal: Annotated[bool, flag("Send the prompt as typed.")] = False
    require: Annotated[bool, flag("Refuse a prompt that names no concept.")] = False
    regions: Annotated[bool, flag("Each concept in its own part of the picture alone; slower.")] = False


_X = "Columns of a sheet: strength=0:1:5, seed=0:4, guidance=3,7."
_Y = "Rows: as --x, or file=a.cone,b.cone, method=mask,cones."


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where pictures go and in what form."""

    output: Annotated[str | None, value("OUT", "A .png, a folder, or - for stdout.", "-o", "--output")] = None
    grid: Annotated[bool, flag("One sheet of all pictures.")] = False
    compare: Annotated[bool, flag("A sheet with the base model beside.")] = False
    x: Annotated[str | None, value("AXIS", _X)] = None
    y: Annotated[str | None, value("AXIS", _Y)] = None
    overwrite: Overwrite = False
    json: Json = False

    @property
    def sheet(self) -> bool:
        """Whether all pictures go onto one sheet."""
        return self.grid or self.compare or self.x is not None or self.y is not None


_BATCH = "Pictures at once. Default: as many as fit, on the CPU one."


@dataclass(frozen=True, kw_only=True)
class Picture:
    """How pictures are drawn, as typed."""

    number: Annotated[int, value("N", "Pictures per prompt.", "-n", "--number", min=1, max=MAX_COUNT)] = 1
    seed: Annotated[int | None, value("N", "First seed. Default: 0.", min=0, max=MAX_SEED)] = None
    steps: Annotated[int | None, value("N", "Sampling steps.", min=1, max=MAX_COUNT)] = None
    guidance: Annotated[float | None, value("X", "Weight of the prompt.")] = None
    negative: Annotated[str | None, value("TEXT", "What to avoid.")] = None
    size: Annotated[str | None, value("WxH", "Pixels, 512 or 512x768.")] = None
    scheduler: Annotated[str | None, value("NAME", "Sampler, such as 'DPM++ 2M Karras' or DDIM.")] = None
    batch: Annotated[int | None, value("N", _BATCH, min=1, max=MAX_COUNT)] = None
    repeated: Annotated[
        Path | None, value("F.png", "Repeat this picture or sheet; other options change it.", "--from")
    ] = None


@dataclass(frozen=True)
class Look:
    """How pictures are drawn; `options` are those of the library's `render` that were given."""

    seeds: range
    literal: bool
    allow_base_mismatch: bool
    batch: int | None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def regions(self) -> bool:
        """Whether each concept acts in its own part of the picture alone."""
        return bool(self.options.get("regions"))


def render(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw; - reads prompts, one a line.")
    ] = None,
    *,
    prompt_file: Annotated[
        str | None, value("FILE", "More prompts, one a line, with options; # begins a comment.", "--prompts")
    ] = None,
    concepts: Annotated[Concepts, Options("Concepts")],
    output: Annotated[Output, Options("Output")],
    picture: Annotated[Picture, Options("Picture")],
    where: Where,
    allow_base_mismatch: AllowBaseMismatch = False,
) -> None:
    """Draw pictures with concepts.

    Without -c, concepts whose names occur in the prompt are taken from the .cone files here or in $CONES_PATH.
    """
    from conestool.cli._axes import parse_axes

    given = {key: getattr(picture, key) for key in ("steps", "guidance", "negative", "scheduler")}
    given = {key: each for key, each in (given | {"size": parse_size(picture.size)}).items() if each is not None}
    given |= {"regions": True} if concepts.regions and not concepts.no_cones else {}
    first = picture.seed or 0
    seeds = range(first, first + picture.number)
    look = Look(seeds, concepts.literal, allow_base_mismatch, picture.batch, given)
    axes = parse_axes(output.x, output.y)
    refuse_contradictions(concepts, output, picture, bool(prompts or prompt_file))
    files = [_options.parse_wanted(text).path for text in concepts.cones or ()]
    _streams.refuse_twice_stdin([*(prompts or ()), *([prompt_file] if prompt_file else []), *files])
    if picture.repeated is None:
        draw_prompts(read_prompts(prompts or [], prompt_file), concepts, look, output, where, axes)
    else:
        changes = given if picture.seed is None else given | {"seeds": [picture.seed]}
        repeat(picture.repeated, concepts.cones or [], replace(look, options=changes), output, where)


def refuse_contradictions(concepts: Concepts, output: Output, picture: Picture, prompted: bool) -> None:
    """Refuse options that exclude each other, and warn of those that change nothing."""
    if (output.x or output.y) and (output.compare or picture.number > 1 or concepts.no_cones):
        hint = "leave out --compare, --no-cones and -n; --y seed=0:3 is -n 4"
        raise UsageError("--x and --y: a sheet of its own", hint)
    for given, name in ((concepts.cones, "-c"), (output.compare, "--compare"), (concepts.require, "--require")):
        if given and concepts.no_cones:
            raise UsageError(f"--no-cones and {name} exclude each other", "leave out one of them")
    _streams.refuse_shared_stdout(output.output, output.json, "the picture")
    without = {"--literal": concepts.literal, "--regions": concepts.regions}
    _options.warn_unused("with --no-cones", {name: used and concepts.no_cones for name, used in without.items()})
    _options.warn_unused("with --regions", {"--batch": picture.batch is not None and concepts.regions})
    _options.warn_unused("with --compare, which is a sheet", {"--grid": output.grid and output.compare})
    several = output.sheet or picture.number > 1
    if picture.repeated and (prompted or concepts.no_cones or concepts.literal or concepts.require or several):
        raise UsageError("--from: repeats a picture, its prompt and concepts", "leave out prompts, -n and sheets")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(width, height) from `512` or `512x768`."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
        raise UsageError(f"--size {text}: not a size", "for example --size 512 or --size 512x768")
    return int(parts[0]), int(parts[-1])


def draw_prompts(
    asked: list[Asked], concepts: Concepts, look: Look, output: Output, where: Where, axes: Axes | None
) -> None:
    """Draw every prompt, as files or on one sheet, with `axes` a cell for each of their values."""
    cones, none = concepts.cones or [], concepts.no_cones
    cells = axes.cells(asked, cones) if axes else []
    asked = [cell.asked for cell in cells] or asked
    chosen, offers = _selection.choose(asked, () if axes else cones, none, look.seeds, where.offline)
    jobs = [(each.prompt, each.seeds) for each in chosen]
    settled = _pictures.settle(output.output, jobs, sheet=output.sheet, overwrite=output.overwrite)
    settled.check()
    if not none:
        _selection.check_named(chosen, offers, look.literal, concepts.require)
    known = next((each.cone.base for each in chosen if each.cone), None)
    base = _options.open_model(where, (known.id, known.revision) if known else None)
    _selection.tell(chosen, base, look.literal)
    tell_unused(base, chosen, look)
    if look.regions:
        check_regions(chosen, look.literal)
    elif any(each.cone and len(each.cone.names) > 1 for each in chosen):
        _output.say("note: several concepts act everywhere; --regions keeps each to its own part, and takes longer")
    if axes:  # cells are drawn one by one
        finish(draw_axes(base, chosen, look, cells, axes, settled), output.json)
        return
    look = sized(base, look, sum(len(each.seeds) for each in chosen))
    if output.sheet:
        finish(draw_sheet(base, chosen, look, output.compare, settled), output.json)
    else:
        finish(draw_files(base, chosen, look, settled), output.json)


def tell_unused(base: Model, chosen: list[Chosen], look: Look) -> None:
    """Warn of settings that change no picture."""
    from conestool.rendering import without_effect

    given = look.options.get("negative", "")
    negative = next((each.negative for each in chosen if each.negative), given)
    for text in without_effect(base, negative, look.options.get("guidance")).values():
        _output.warn(text)


def check_regions(chosen: Sequence[Chosen], literal: bool) -> None:
    """Refuse, before anything is drawn, a prompt that does not name a concept that is to have a region."""
    from conestool.rendering import rewrite
    from conestool.rendering.regions import bare_prompt

    for each in chosen:
        if each.cone:
            bare_prompt(rewrite(each.prompt, each.cone.concepts, literal), each.cone)


def draw_files(base: Model, chosen: list[Chosen], look: Look, targets: Targets) -> list[dict[str, Any]]:
    """Draw and write picture after picture, so that stopping loses none that is done."""
    records: list[dict[str, Any]] = []
    for each in draw(base, chosen, look, "pictures"):
        file = targets.write(len(records), _pictures.png_of(each))
        records.append({"file": str(file), **each.record})
    return records


def draw_sheet(base: Model, chosen: list[Chosen], look: Look, compare: bool, targets: Targets) -> list[dict[str, Any]]:
    """Draw all pictures, with `compare` those of the base model too, and write them as one sheet."""
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

    if look.batch is not None or look.regions or base.device.type == "cpu":
        return look
    side = base.defaults.size
    fit = pictures_at_once(base, look.options.get("size") or (side, side), most)
    why = f": {fit.each / 1e9:.2f} GB each, {fit.free / 1e9:.1f} GB free on {base.device}" if fit.each else ""
    _output.say(f"{fit.samples} of {fit.most} pictures at once{why}")
    return replace(look, batch=fit.samples)


def draw(base: Model, chosen: Sequence[Chosen], look: Look, title: str) -> Iterator[Rendering]:
    """The pictures of every prompt with every seed, in order, with a bar."""
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


def repeat(picture: Path, cones: list[str], look: Look, output: Output, where: Where) -> None:
    """Draw what a PNG's record describes once more, a picture or a sheet, with the changes in `look.options`."""
    from conestool.rendering import read_sheet, sheet_bytes

    sheet = read_sheet(picture)
    records = [record for row in sheet["pictures"] for record in row]
    if "rows" in sheet and "seeds" in look.options:
        raise UsageError(f"--seed: the pictures of the sheet {picture} have their own", "leave out --seed")
    jobs = [(records[0]["prompt"], [0])]
    settled = _pictures.settle(output.output, jobs, sheet=False, overwrite=output.overwrite)
    settled.check()
    base = _options.open_model(where, (records[0]["model"]["id"], records[0]["model"]["revision"]))
    drawn = list(draw_again(base, records, cones, look, where.offline))
    if "rows" not in sheet:
        file = settled.write(0, _pictures.png_of(drawn[0]))
        finish([{"file": str(file), **drawn[0].record}], output.json)
        return
    again = iter(drawn)
    rows = [[next(again) for _ in row] for row in sheet["pictures"]]
    file = settled.write(0, sheet_bytes(rows, sheet["rows"], sheet["columns"]))
    finish([{"file": str(file), "pictures": [each.record for each in drawn]}], output.json)


def draw_again(
    base: Model, records: Sequence[dict[str, Any]], cones: list[str], look: Look, offline: bool
) -> Iterator[Rendering]:
    """The pictures of the records, in order, with a bar."""
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
    _streams.emit_result(records, [record["file"] for record in records], json)
