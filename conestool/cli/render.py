"""`cones render`: prompts and concepts in, pictures out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool._text import check_prompt
from conestool.cli import _output, _streams
from conestool.cli._options import (
    AllowBaseMismatch,
    Config,
    DeviceOption,
    Dtype,
    DtypeOption,
    Json,
    ModelOption,
    Offline,
    Overwrite,
    Revision,
    flag,
    value,
)
from conestool.cli._output import Ticker, progress
from conestool.errors import PromptError, UsageError

if TYPE_CHECKING:
    from conestool.cli._options import Where
    from conestool.cli._pictures import Targets
    from conestool.cli._selection import Chosen
    from conestool.models.model import Model
    from conestool.render import Rendering

__all__ = ["render"]

CONCEPTS, PICTURE, OUTPUT = "Concepts", "Picture", "Output"


@dataclass(frozen=True)
class Look:
    """How pictures are drawn; `options` are those of the library's `render` that were given."""

    seeds: Sequence[int]
    literal: bool
    allow_base_mismatch: bool
    batch: int
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
    no_cones: Annotated[bool, flag("--no-cones", text="Draw with the base model.", panel=CONCEPTS)] = False,
    literal: Annotated[bool, flag("--literal", text="Send the prompt as typed.", panel=CONCEPTS)] = False,
    output: Annotated[
        str | None, value("-o", "--output", metavar="OUT", text="A .png, a folder, or - for stdout.", panel=OUTPUT)
    ] = None,
    grid: Annotated[bool, flag("--grid", text="One sheet of all pictures.", panel=OUTPUT)] = False,
    compare: Annotated[bool, flag("--compare", text="A sheet with the base model beside.", panel=OUTPUT)] = False,
    number: Annotated[int, value("-n", "--number", metavar="N", text="Pictures per prompt.", min=1, panel=PICTURE)] = 1,
    seed: Annotated[
        int | None, value("--seed", metavar="N", text="First seed. Default: 0.", min=0, panel=PICTURE)
    ] = None,
    steps: Annotated[int | None, value("--steps", metavar="N", text="Sampling steps.", min=1, panel=PICTURE)] = None,
    guidance: Annotated[
        float | None, value("--guidance", metavar="X", text="Weight of the prompt.", panel=PICTURE)
    ] = None,
    negative: Annotated[str | None, value("--negative", metavar="TEXT", text="What to avoid.", panel=PICTURE)] = None,
    size: Annotated[str | None, value("--size", metavar="WxH", text="Pixels, 512 or 512x768.", panel=PICTURE)] = None,
    scheduler: Annotated[
        str | None, value("--scheduler", metavar="NAME", text="A diffusers scheduler, e.g. DDIM.", panel=PICTURE)
    ] = None,
    batch: Annotated[int, value("--batch", metavar="N", text="Pictures at once.", min=1, panel=PICTURE)] = 1,
    picture: Annotated[
        Path | None,
        value("--from", metavar="F.png", text="Repeat this picture; other options change it.", panel=PICTURE),
    ] = None,
    model: ModelOption = None,
    revision: Revision = None,
    config: Config = None,
    offline: Offline = False,
    allow_base_mismatch: AllowBaseMismatch = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.auto,
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
    first, where = seed or 0, _options.Where(model, device, dtype.value, revision, config, offline)
    look = Look(range(first, first + number), literal, allow_base_mismatch, batch, given)
    destination = Destination(output, grid, compare, overwrite, json)
    refuse_contradictions(cones, no_cones, destination)
    _streams.refuse_twice_stdin([*(prompts or ()), *(_options.parse_wanted(text).path for text in cones or ())])
    if picture is None:
        draw_prompts(read_prompts(prompts or []), cones or [], no_cones, look, destination, where)
        return
    if prompts or no_cones or literal or destination.sheet or number > 1:
        raise UsageError("--from: repeats one picture, its prompt and concepts", "leave out prompts, -n and sheets")
    changes = given if seed is None else given | {"seeds": [seed]}
    repeat(picture, cones or [], replace(look, options=changes), destination, where)


def refuse_contradictions(cones: Sequence[str] | None, no_cones: bool, destination: Destination) -> None:
    """Refuse options that exclude each other."""
    if cones and no_cones:
        raise UsageError("--no-cones and -c exclude each other")
    if destination.json and destination.output == _streams.STDIO:
        raise UsageError("-o -: stdout cannot carry the picture and JSON", "give the picture a file")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(width, height) from `512` or `512x768`."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--size {text}: not a size", "for example --size 512 or --size 512x768")
    return int(parts[0]), int(parts[-1])


def read_prompts(texts: Sequence[str]) -> list[str]:
    """The prompts, `-` replaced by the lines of stdin; PromptError if there is none, or one that cannot be used."""
    prompts = []
    for text in texts:
        prompts += _streams.read_lines("prompts, one a line") if text == _streams.STDIO else [text]
    if not prompts:
        raise PromptError("no prompt", 'for example "a dog in a hat"')
    return [check_prompt(prompt) for prompt in prompts]


def draw_prompts(
    prompts: list[str], cones: list[str], none: bool, look: Look, destination: Destination, where: Where
) -> None:
    """Draw every prompt, as files or on one sheet."""
    from conestool.cli import _pictures, _selection

    settled = _pictures.settle(
        destination.output, prompts, look.seeds, sheet=destination.sheet, overwrite=destination.overwrite
    )
    chosen = _selection.choose(prompts, cones, none)
    settled.check()
    base = _selection.open_base(chosen, where)
    _selection.tell(chosen, base, look.literal)
    if destination.sheet:
        records = draw_sheet(base, chosen, look, destination.compare, settled)
    else:
        records = draw_files(base, chosen, look, settled)
    finish(records, destination.json)


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
    from conestool.cli import _pictures, _selection

    drawn = list(draw(base, chosen, look, "pictures"))
    bare = list(draw(base, [_selection.Chosen(each.prompt) for each in chosen], look, "base model")) if compare else []
    names = " + ".join(dict.fromkeys(name for each in chosen for name in each.strength))
    prompts = [each.prompt for each in chosen]
    file = targets.write(0, _pictures.make_sheet(drawn, bare, prompts, look.seeds, names))
    return [{"file": str(file), "pictures": [each.record for each in [*bare, *drawn]]}]


def draw(base: Model, chosen: Sequence[Chosen], look: Look, title: str) -> Iterator[Rendering]:
    """The pictures of every prompt with every seed, in order, with a bar."""
    from conestool.cli import _selection
    from conestool.render import render as render_pictures

    count, done = len(look.seeds), 0
    with progress(title, len(chosen) * count) as tick:
        for group in _selection.groups(chosen, max(1, look.batch // count)):
            yield from render_pictures(
                base,
                group.prompts,
                group.cone,
                strength=group.strength,
                seeds=look.seeds,
                literal=look.literal,
                batch=look.batch,
                allow_base_mismatch=look.allow_base_mismatch,
                progress=after(tick, done),
                **look.options,
            )
            done += len(group.prompts) * count


def after(tick: Ticker, before: int) -> Callable[[int, int], None]:
    """A library's progress callback that counts on from `before` pictures."""
    return lambda done, total: tick(before + done)


def repeat(picture: Path, cones: list[str], look: Look, destination: Destination, where: Where) -> None:
    """Draw the picture that a PNG's record describes once more, with the changes in `look.options`."""
    from conestool.cli import _options, _pictures, _selection
    from conestool.render import read_record, replay

    record = read_record(picture)
    settled = _pictures.settle(
        destination.output, [record["prompt"]], [0], sheet=False, overwrite=destination.overwrite
    )
    settled.check()
    ids = [used["id"] for used in record["concepts"]]
    cone, files = _selection.choose_ids(ids, cones)
    base = _options.open_model(where, (record["model"]["id"], record["model"]["revision"]))
    _output.say(f"{', '.join(files) or 'base model'}: {record['sent']}")
    with progress("pictures", 1) as tick:
        drawn = replay(base, record, cone, allow_mismatch=look.allow_base_mismatch, **look.options)
        tick(1)
    file = settled.write(0, _pictures.png_of(drawn))
    finish([{"file": str(file), **drawn.record}], destination.json)


def finish(records: list[dict[str, Any]], json: bool) -> None:
    """The product on stdout: paths or JSON; nothing more where the picture itself went there."""
    if json:
        _streams.emit_json(records)
    elif records[0]["file"] != _streams.STDIO:
        _streams.emit_paths(record["file"] for record in records)
