"""`cones find`: photos in, a .cone file out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool._text import check_stored
from conestool.cli import _launcher, _output, _streams
from conestool.cli._options import (
    MAX_STEPS,
    MEMORY,
    Json,
    Overwrite,
    Where,
    flag,
    value,
)
from conestool.cli._search import (
    SamplesOption,
    TrackOption,
    Watcher,
    check_stdin,
    checkpoint_path_of,
    read_photos,
    run_search,
    with_config,
)
from conestool.search.config import Resources, SearchConfig

if TYPE_CHECKING:
    from conestool.cli._options import Where
    from conestool.concept import Cone
    from conestool.images.photos import Photo
    from conestool.models.model import Model

__all__ = ["find", "output_path"]

_SEARCH, _STORED = "Search", "Stored in the file"


@with_config(Resources, "resources", MEMORY)
@with_config(SearchConfig, "search_config", _SEARCH)
def find(
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTOS...", help="Folders or files; - reads a list of them.")
    ],
    *,
    output: Annotated[
        Path | None, value("-o", "--output", metavar="F", text="Default: NAME.cone; - is stdout.")
    ] = None,
    class_noun: Annotated[
        str | None, value("--class-noun", metavar="NOUN", text="What kind of thing it is. Default: as in F.")
    ] = None,
    name: Annotated[str | None, value("--name", metavar="NAME", text="What prompts call it. Default: as in F.")] = None,
    identifier: Annotated[
        str | None, value("--identifier", metavar="WORD", text="Rare word for it. Default: chosen by the name.")
    ] = None,
    preview: Annotated[
        bool, flag("--preview", text="Show what will be learned from, in dog-preview.png, and stop.")
    ] = False,
    dry_run: Annotated[
        bool, flag("--dry-run", text="Run a few steps, say what time and memory all will take, stop.")
    ] = False,
    resume: Annotated[bool, flag("--resume", text="Continue after an interruption.")] = False,
    skip_broken: Annotated[bool, flag("--skip-broken", text="Leave out broken images.")] = False,
    steps: Annotated[
        int | None,
        value("--steps", metavar="N", text="Steps of the search. Default: 60.", panel=_SEARCH, min=1, max=MAX_STEPS),
    ] = None,
    search_config: SearchConfig,
    class_images: Annotated[
        Path | None, value("--class-images", metavar="DIR", text="Class images to take, none drawn.", panel=_SEARCH)
    ] = None,
    where: Where,
    resources: Resources,
    notes: Annotated[str | None, value("--notes", metavar="TEXT", text="Free text.", panel=_STORED)] = None,
    author: Annotated[str | None, value("--author", metavar="TEXT", text="Who made it.", panel=_STORED)] = None,
    license: Annotated[str | None, value("--license", metavar="TEXT", text="Its license.", panel=_STORED)] = None,
    samples: SamplesOption = None,
    track: TrackOption = None,
    report: Annotated[bool, flag("--report", text="Write dog-report.html, as cones report does.")] = False,
    no_sheet: Annotated[bool, flag("--no-sheet", text="Draw no sheet of pictures beside the file.")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Find the concept neurons of a subject, from 3 to 5 photos.

    Name and class noun come from the output's name (my-dog.cone: a dog), or the photos' folder. Pictures of the subject
    go into dog-sheet.png beside dog.cone.
    """
    from conestool.cli import _options, _search
    from conestool.cli.merge import save
    from conestool.concept import check_name, check_words
    from conestool.errors import UsageError

    if json and str(output) == _streams.STDIO:
        raise UsageError("-o -: stdout cannot carry the .cone file and JSON", "give the file a name")
    check_stdin(photos)
    paths = _streams.expand_paths(photos)
    name, class_noun = _search.resolve_names(paths, output, name, class_noun)
    path = output_path(output, name)
    stdout = str(path) == _streams.STDIO
    if stdout and (preview or report):
        raise UsageError("-o -: stdout has no place beside it", "name the output, as --preview and --report need it")
    alone = preview or dry_run
    sheet = None if no_sheet or alone or stdout else _streams.beside(path, "sheet.png")
    page = _streams.beside(path, "report.html") if report and not alone else None
    shown = _streams.beside(path, "preview.png") if preview else path
    written = [shown, *(each for each in (sheet, page) if each)]
    _streams.check_outputs(written, "a .cone file", overwrite=overwrite)
    watcher = Watcher(path, None if alone else samples, None if alone else track, overwrite=overwrite, resume=resume)
    check_name(name)
    check_words("class noun", class_noun)
    if identifier is not None:
        check_words("identifier", identifier)
    stored = {"notes": notes, "author": author, "license": license}
    texts = {key: check_stored(f"--{key}", text) for key, text in stored.items() if text}
    _options.check_model(where)
    with _output.waiting("reading photos"):
        images = read_photos(paths, skip_broken, captions=search_config.captions != "none")
    _output.say(f"{name}: {_output.amount(len(images), 'photo')} of {class_noun!r}")
    from conestool.search.find import find as find_neurons
    from conestool.search.methods import resolve_method

    method = f"{search_config.method},steps={steps}" if steps else search_config.method
    search_config = replace(search_config, method=resolve_method(method))
    drawn = search_config.num_class_images != SearchConfig.num_class_images
    _options.warn_unused("with --class-images", {"--num-class-images": bool(class_images) and drawn})
    words: dict[str, Any] = {"class_noun": class_noun, "name": name, "identifier": identifier}
    given: dict[str, Any] = {
        "config": search_config,
        "class_images": [photo.image for photo in read_photos([class_images], skip_broken)] if class_images else None,
        "resources": resources,
    }
    if preview:
        _show_preview(where, images, words, search_config, resources, shown, overwrite=overwrite, json=json)
        return
    if dry_run:
        _show_dry_run(where, images, words, json=json, **given)
        return
    checkpoint = checkpoint_path_of(path)
    base, cone, memory = run_search(
        find_neurons, where, checkpoint, images, resume=resume, watcher=watcher, **words, **given
    )
    if _launcher.rank():
        return
    cone = _with_texts(cone, texts)
    save(cone, path, overwrite=overwrite, json=json)
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    if sheet or page:
        sheet, page = _write_pictures(base, cone, images, path, sheet, page, overwrite)
    _report(cone, path, sheet, page, memory, json=json)


def output_path(output: Path | None, name: str) -> Path:
    """Where the .cone goes: the output as given, NAME.cone inside it if it is a folder, or NAME.cone here."""
    from conestool.cli.merge import default_output

    file = default_output([name])
    if output is None:
        return file
    return output / file if output.is_dir() else output


def _show_dry_run(
    where: Where,
    images: Sequence[Photo],
    words: dict[str, Any],
    *,
    config: SearchConfig,
    class_images: list[Any] | None,
    resources: Resources,
    json: bool,
) -> None:
    """Run a few steps, and show what the whole search will take; of several processes the first does."""
    from conestool.cli import _options

    where, processes = _launcher.join(where)
    base = _options.open_model(where)
    from conestool.search.context import SearchContext
    from conestool.search.find import resolve_names
    from conestool.search.memory import dry_run

    context = SearchContext(model=base, config=config, resources=resources, processes=processes)
    with _output.waiting("running a few steps"):
        found = dry_run(context, images, resolve_names(base, **words), class_images)
    _output.say(f"{words['name']}: an estimate from a few steps, on {found.device} in {found.dtype}", "bold")
    rows = [[phase, _output.duration(seconds)] for phase, seconds in found.phases.items()]
    _output.table([["", "time"], *rows, ["in all", _output.duration(found.seconds)]], right=(1,))
    held = "unknown here" if found.memory is None else f"{_output.size(found.memory)} at most"
    _output.say(f"  memory: {held}, with {_output.amount(found.samples, 'sample')} at once")
    if json and processes.is_main_process:
        _streams.emit_json(found.record())


def _with_texts(cone: Cone, texts: dict[str, str]) -> Cone:
    """The cone with notes, author and license where they were given."""
    if not texts:
        return cone
    concepts = [replace(each, origin=each.origin.model_copy(update=texts)) for each in cone.concepts]
    return replace(cone, concepts=tuple(concepts))


def _show_preview(
    where: Where,
    images: Sequence[Photo],
    words: dict[str, Any],
    config: SearchConfig,
    resources: Resources,
    path: Path,
    *,
    overwrite: bool,
    json: bool,
) -> None:
    """Show what a search would learn from, as a picture and in words, and how to correct it."""
    from conestool._atomic import write_atomic
    from conestool.cli import _options
    from conestool.cli._search import Stages
    from conestool.rendering.png import plain_png
    from conestool.rendering.samples import preview_sheet
    from conestool.search.preview import preview

    base = _options.open_model(where)
    with Stages() as stages, _output.waiting("looking at the photos"):
        found = preview(base, images, **words, config=config, callback=stages, resources=resources)
    for each in found.photos:
        use = "held out" if each.held_out else f"{_output.amount(len(each.crops), 'crop')} too"
        _output.say(f"{each.photo.name}: {each.photo.caption or 'no caption'}; {use}")
        for text in each.advice:
            _output.warn(f"{each.photo.name}: {text}")
    first = Path(found.photos[0].photo.name)
    _output.say(f"to correct a caption, write it into {first.with_suffix('.txt')} beside {first}, and so on")
    written = write_atomic(path, plain_png(preview_sheet(found)), overwrite=overwrite)
    if json:
        _streams.emit_json(found.record() | {"preview": str(written)})
    else:
        _streams.emit_paths([written])


def _write_pictures(
    base: Model, cone: Cone, photos: Sequence[Photo], path: Path, sheet: Path | None, page: Path | None, overwrite: bool
) -> tuple[Path | None, Path | None]:
    """Draw the concept, and write sheet and report; with too little memory neither: the concept is safe already."""
    from conestool import format as cones
    from conestool._atomic import write_atomic
    from conestool.cli import _report
    from conestool.cli.report import draw_shown
    from conestool.errors import DeviceError
    from conestool.rendering.png import plain_png
    from conestool.rendering.samples import showcase_sheet

    (concept,) = cone.concepts
    try:
        known = {concept.id: _report.Shown(samples=_report.read_strip(_streams.beside(path, "samples.png"), cone.id))}
        shown = draw_shown(base, cone.concepts, known)
    except DeviceError as error:
        _output.warn(f"no pictures: {error}")
        return None, None
    case = shown[concept.id].showcase
    if sheet and case:
        write_atomic(sheet, plain_png(showcase_sheet(case, [photo.image for photo in photos])), overwrite=overwrite)
    if page:
        made = _report.report_html([(str(path), len(cones.dumps(cone)), cone)], shown)
        write_atomic(page, made.encode(), overwrite=overwrite)
    return sheet, page


def _report(
    cone: Cone, path: Path, sheet: Path | None, page: Path | None, memory: dict[str, Any] | None, *, json: bool
) -> None:
    """What was found, how good it is, and what to do next."""
    from conestool import format as cones
    from conestool._text import quoted
    from conestool.cli import _format
    from conestool.search.subject import article

    name = "stdout" if str(path) == _streams.STDIO else str(path)
    facts = _format.facts_of(name, len(cones.dumps(cone)), cone)
    _format.show_found(facts)
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
