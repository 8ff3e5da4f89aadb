"""`cones find`: photos in, a .cone file out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from conestool._text import check_name, check_stored, check_words
from conestool.cli import _launcher, _options, _output, _search, _streams
from conestool.cli._options import Json, Options, Overwrite, Where, flag, value
from conestool.cli._search import StepsOption, Watcher, Watching, read_photos
from conestool.errors import DeviceError, UsageError
from conestool.search.config import Resources, SearchConfig

if TYPE_CHECKING:
    from PIL.Image import Image

    from conestool.concept import Cone
    from conestool.images.photos import Photo
    from conestool.models.model import Model


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be found, and what is to be made of it."""

    output: Annotated[Path | None, value("F", "Default: NAME.cone; - is stdout.", "-o", "--output")] = None
    class_noun: Annotated[str | None, value("NOUN", "What kind of thing it is. Default: as in F.")] = None
    name: Annotated[str | None, value("NAME", "What prompts call it. Default: as in F.")] = None
    identifier: Annotated[str | None, value("WORD", "Rare word for it. Default: chosen by the name.")] = None
    preview: Annotated[bool, flag("Show what will be learned from, in dog-preview.png, and stop.")] = False
    dry_run: Annotated[bool, flag("Run a few steps, say what time and memory all will take, stop.")] = False
    resume: Annotated[bool, flag("Continue after an interruption.")] = False
    skip_broken: Annotated[bool, flag("Leave out broken images.")] = False
    report: Annotated[bool, flag("Write dog-report.html, as cones report does.")] = False
    no_sheet: Annotated[bool, flag("Draw no sheet of pictures beside the file.")] = False


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What the file says of itself."""

    notes: Annotated[str | None, value("TEXT", "Free text.")] = None
    author: Annotated[str | None, value("TEXT", "Who made it.")] = None
    license: Annotated[str | None, value("TEXT", "Its license.")] = None


class Outputs(NamedTuple):
    """Where everything goes, None for what is not made; `shown` is what the command is for."""

    cone: Path
    sheet: Path | None
    page: Path | None
    shown: Path


class Search(NamedTuple):
    """What is searched for, where and how; `words` are name, class noun and identifier."""

    where: Where
    photos: Sequence[Photo]
    words: dict[str, Any]
    config: SearchConfig
    class_images: list[Image] | None
    resources: Resources
    overwrite: bool
    json: bool


def find(
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTOS...", help="Folders or files; - reads a list of them.")
    ],
    *,
    request: Request,
    steps: StepsOption = None,
    search_config: Annotated[SearchConfig, Options("Search")],
    class_images: Annotated[Path | None, value("DIR", "Class images to take, none drawn.", panel="Search")] = None,
    where: Where,
    resources: Annotated[Resources, Options("Memory")],
    texts: Annotated[Texts, Options("Stored in the file")],
    watching: Annotated[Watching, Options("Watching")],
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Find the concept neurons of a subject, from 3 to 5 photos.

    Name and class noun come from the output's name (my-dog.cone: a dog), or the photos' folder. Pictures of the subject
    go into dog-sheet.png beside dog.cone.
    """
    _streams.refuse_shared_stdout(request.output, json)
    _search.check_stdin(photos)
    paths = _streams.expand_paths(photos)
    words = _words(request, paths)
    outputs = _plan_outputs(request, words["name"], overwrite)
    watching = Watching() if request.preview or request.dry_run else watching
    watcher = Watcher(outputs.cone, watching, overwrite=overwrite, resume=request.resume)
    stored = {key: check_stored(f"--{key}", text) for key, text in vars(texts).items() if text}
    _options.check_model(where)
    with _output.waiting("reading photos"):
        images = read_photos(paths, request.skip_broken, captions=search_config.captions != "none")
    _output.say(f"{words['name']}: {_output.amount(len(images), 'photo')} of {words['class_noun']!r}")
    config = _with_method(search_config, steps)
    drawn = config.num_class_images != SearchConfig.num_class_images
    _options.warn_unused("with --class-images", {"--num-class-images": bool(class_images) and drawn})
    others = [photo.image for photo in read_photos([class_images], request.skip_broken)] if class_images else None
    search = Search(where, images, words, config, others, resources, overwrite, json)
    if request.preview:
        _show_preview(search, outputs.shown)
    elif request.dry_run:
        _show_dry_run(search)
    else:
        _run(search, outputs, watcher, request.resume, stored)


def _words(request: Request, paths: Sequence[Path]) -> dict[str, Any]:
    """Name, class noun and identifier, each checked where it is known already."""
    name, class_noun = _search.resolve_names(paths, request.output, request.name, request.class_noun)
    check_name(name)
    check_words("class noun", class_noun)
    if request.identifier is not None:
        check_words("identifier", request.identifier)
    return {"class_noun": class_noun, "name": name, "identifier": request.identifier}


def _with_method(config: SearchConfig, steps: int | None) -> SearchConfig:
    """The configuration with its method resolved, which has the steps."""
    from conestool.search.methods import resolve_method

    return replace(config, method=resolve_method(f"{config.method},steps={steps}" if steps else config.method))


def _plan_outputs(request: Request, name: str, overwrite: bool) -> Outputs:
    """Where everything goes; UsageError, or OutputExistsError, for what cannot be written."""
    path = output_path(request.output, name)
    stdout, alone = str(path) == _streams.STDIO, request.preview or request.dry_run
    if stdout and (request.preview or request.report):
        raise UsageError("-o -: stdout has no place beside it", "name the output, as --preview and --report need it")
    sheet = None if request.no_sheet or alone or stdout else _streams.beside(path, "sheet.png")
    page = _streams.beside(path, "report.html") if request.report and not alone else None
    outputs = Outputs(path, sheet, page, _streams.beside(path, "preview.png") if request.preview else path)
    written = [each for each in (outputs.shown, sheet, page) if each]
    _streams.check_outputs(written, "a .cone file", overwrite=overwrite)
    return outputs


def _run(search: Search, outputs: Outputs, watcher: Watcher, resume: bool, texts: dict[str, str]) -> None:
    """Search, write what was found, and say how good it is."""
    from conestool.search.find import find as find_neurons

    checkpoint = _search.checkpoint_path_of(outputs.cone)
    given: Any = {"config": search.config, "class_images": search.class_images, "resources": search.resources}
    base, cone, memory = _search.run_search(
        find_neurons, search.where, checkpoint, search.photos, resume=resume, watcher=watcher, **search.words, **given
    )
    if _launcher.rank():
        return
    concepts = [replace(each, origin=each.origin.model_copy(update=texts)) for each in cone.concepts]
    cone = replace(cone, concepts=tuple(concepts)) if texts else cone
    _streams.save(cone, outputs.cone, overwrite=search.overwrite, json=search.json)
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    if outputs.sheet or outputs.page:
        outputs = _write_pictures(base, cone, search.photos, outputs, search.overwrite)
    _report(cone, outputs, memory, json=search.json)


def output_path(output: Path | None, name: str) -> Path:
    """Where the .cone goes: the output as given, NAME.cone inside it if it is a folder, or NAME.cone here."""
    file = _streams.default_output([name])
    if output is None:
        return file
    return output / file if output.is_dir() else output


def _show_dry_run(search: Search) -> None:
    """Run a few steps, and show what the whole search will take; of several processes the first does."""
    where, processes = _launcher.join(search.where)
    base = _options.open_model(where)
    from conestool.search.context import SearchContext
    from conestool.search.find import resolve_names
    from conestool.search.memory import dry_run

    context = SearchContext(model=base, config=search.config, resources=search.resources, processes=processes)
    with _output.waiting("running a few steps"):
        found = dry_run(context, search.photos, resolve_names(base, **search.words), search.class_images)
    _output.say(f"{search.words['name']}: an estimate from a few steps, on {found.device} in {found.dtype}", "bold")
    rows = [[phase, _output.duration(seconds)] for phase, seconds in found.phases.items()]
    _output.table([["", "time"], *rows, ["in all", _output.duration(found.seconds)]], right=(1,))
    held = "unknown here" if found.memory is None else f"{_output.size(found.memory)} at most"
    _output.say(f"  memory: {held}, with {_output.amount(found.samples, 'sample')} at once")
    if search.json and processes.is_main_process:
        _streams.emit_json(found.record())


def _show_preview(search: Search, path: Path) -> None:
    """Show what a search would learn from, as a picture and in words, and how to correct it."""
    from conestool._atomic import write_atomic
    from conestool.rendering.png import plain_png
    from conestool.rendering.samples import preview_sheet
    from conestool.search.preview import preview

    base = _options.open_model(search.where)
    given: Any = {"config": search.config, "resources": search.resources}
    with _search.Stages() as stages, _output.waiting("looking at the photos"):
        found = preview(base, search.photos, **search.words, callback=stages, **given)
    for each in found.photos:
        use = "held out" if each.held_out else f"{_output.amount(len(each.crops), 'crop')} too"
        _output.say(f"{each.photo.name}: {each.photo.caption or 'no caption'}; {use}")
        for text in each.advice:
            _output.warn(f"{each.photo.name}: {text}")
    first = Path(found.photos[0].photo.name)
    _output.say(f"to correct a caption, write it into {first.with_suffix('.txt')} beside {first}, and so on")
    written = write_atomic(path, plain_png(preview_sheet(found)), overwrite=search.overwrite)
    _streams.emit_result(found.record() | {"preview": str(written)}, [written], search.json)


def _write_pictures(base: Model, cone: Cone, photos: Sequence[Photo], outputs: Outputs, overwrite: bool) -> Outputs:
    """Draw the concept, and write sheet and report; with too little memory neither: the concept is safe already."""
    from conestool import format as cones
    from conestool._atomic import write_atomic
    from conestool.cli import _report
    from conestool.cli.report import draw_shown
    from conestool.rendering.png import plain_png
    from conestool.rendering.samples import showcase_sheet

    (concept,) = cone.concepts
    try:
        samples = _report.read_strip(_streams.beside(outputs.cone, "samples.png"), cone.id)
        shown = draw_shown(base, cone.concepts, {concept.id: _report.Shown(samples=samples)})
    except DeviceError as error:
        _output.warn(f"no pictures: {error}")
        return outputs._replace(sheet=None, page=None)
    case = shown[concept.id].showcase
    if outputs.sheet and case:
        sheet = showcase_sheet(case, [photo.image for photo in photos])
        write_atomic(outputs.sheet, plain_png(sheet), overwrite=overwrite)
    if outputs.page:
        made = _report.report_html([(str(outputs.cone), len(cones.dumps(cone)), cone)], shown)
        write_atomic(outputs.page, made.encode(), overwrite=overwrite)
    return outputs


def _report(cone: Cone, outputs: Outputs, memory: dict[str, Any] | None, *, json: bool) -> None:
    """What was found, how good it is, and what to do next."""
    from conestool import format as cones
    from conestool._text import quoted
    from conestool.cli import _format
    from conestool.search.subject import article

    path, sheet, page, _ = outputs
    facts = _format.facts_of(_streams.shown_output(path), len(cones.dumps(cone)), cone)
    for concept in facts.concepts:
        _format.show_concept(concept)
    _output.facts(_format.size_rows(facts))
    for what, made in (("sheet", sheet), ("report", page)):
        if made:
            _output.say(f"{what}: {made}")
    if str(path) != _streams.STDIO:
        given = () if path.parent == Path() and path.suffix == ".cone" else ("-c", path)
        prompt = f"{article(cone.names[0])} on the beach"
        _output.say(f"next: cones render {quoted(prompt, *given)} --compare")
    if json:
        more = {"sheet": sheet and str(sheet), "report": page and str(page), "memory": memory}
        _streams.emit_json(_format.file_record(facts) | more)
