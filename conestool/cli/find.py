"""`cones find`: photos in, a .cone file out."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conestool._text import check_stored
from conestool.cli import _launcher, _output, _streams
from conestool.cli._options import (
    Captions,
    CaptionsOption,
    Checkpointing,
    Config,
    DeviceOption,
    Dtype,
    DtypeOption,
    Json,
    MicroBatch,
    ModelOption,
    Offline,
    OffloadScores,
    Overwrite,
    Revision,
    flag,
    value,
)
from conestool.cli._search import check_stdin, make_resources, make_settings, read_photos, state_path, tell_resume

if TYPE_CHECKING:
    from conestool.cli._options import Where
    from conestool.concept import Cone
    from conestool.images.photos import Photo
    from conestool.search.config import Resources, Settings

__all__ = ["Method", "find"]

SEARCH, STORED = "Search", "Stored in the file"


class Method(StrEnum):
    """What `--method` takes."""

    mask = "mask"
    cones = "cones"
    tstat = "tstat"
    taylor = "taylor"


def find(
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTOS...", help="Folders or files; - reads a list of them.")
    ],
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
    seed: Annotated[int, value("--seed", metavar="N", text="Seed of all noise.")] = 0,
    dry_run: Annotated[
        bool, flag("--dry-run", text="Run a few steps, say what time and memory all will take, stop.")
    ] = False,
    resume: Annotated[bool, flag("--resume", text="Go on after an interruption.")] = False,
    skip_broken: Annotated[bool, flag("--skip-broken", text="Leave out broken images.")] = False,
    captions: CaptionsOption = None,
    method: Annotated[
        Method | None, value("--method", metavar="M", text="mask, cones, tstat or taylor. Default: mask.", panel=SEARCH)
    ] = None,
    steps: Annotated[
        int | None, value("--steps", metavar="N", text="Steps of the search.", panel=SEARCH, min=1)
    ] = None,
    density: Annotated[
        float | None,
        value("--density", metavar="X", text="Share of the K/V weights to zero. Default: found.", panel=SEARCH),
    ] = None,
    prior_weight: Annotated[
        float | None, value("--lambda", metavar="X", text="Weight of the class images.", panel=SEARCH, min=0.0)
    ] = None,
    contrast: Annotated[
        float | None,
        value("--contrast", metavar="X", text="Weight of the photos without the identifier.", panel=SEARCH, min=0.0),
    ] = None,
    others: Annotated[
        float | None, value("--others", metavar="X", text="Weight of pictures of other things.", panel=SEARCH, min=0.0)
    ] = None,
    scenes: Annotated[
        float | None,
        value("--scenes", metavar="X", text="Weight of scenes with other things. Default: 0.", panel=SEARCH, min=0.0),
    ] = None,
    noise: Annotated[
        tuple[float, float] | None,
        value(
            "--noise", metavar="LOW HIGH", text="Part of the noise schedule to look at. Default: 0.3 1.", panel=SEARCH
        ),
    ] = None,
    class_images: Annotated[
        str | None,
        value("--class-images", metavar="N|DIR", text="How many to draw, or a folder of them.", panel=SEARCH),
    ] = None,
    model: ModelOption = None,
    revision: Revision = None,
    config: Config = None,
    offline: Offline = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.auto,
    micro_batch: MicroBatch = None,
    gradient_checkpointing: Checkpointing = False,
    offload_scores: OffloadScores = False,
    notes: Annotated[str | None, value("--notes", metavar="TEXT", text="Free text.", panel=STORED)] = None,
    author: Annotated[str | None, value("--author", metavar="TEXT", text="Who made it.", panel=STORED)] = None,
    license: Annotated[str | None, value("--license", metavar="TEXT", text="Its license.", panel=STORED)] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Find the concept neurons of a subject, from 3 to 5 photos.

    Name and class noun come from the output's name (my-dog.cone: a dog), or the photos' folder.
    """
    from conestool.cli import _options, _search
    from conestool.concept import check_name, check_words
    from conestool.errors import UsageError

    stored = {"notes": notes, "author": author, "license": license}
    if json and str(output) == _streams.STDIO:
        raise UsageError("-o -: stdout cannot carry the .cone file and JSON", "give the file a name")
    check_stdin(photos)
    paths = _streams.expand_paths(photos)
    name, class_noun = _search.settle(paths, output, name, class_noun)
    path = place(output, name)
    _streams.check_outputs([path], "a .cone file", overwrite=overwrite)
    check_name(name)
    check_words("class noun", class_noun)
    texts = {key: check_stored(f"--{key}", text) for key, text in stored.items() if text}
    images = read_photos(paths, skip_broken, captions=captions != Captions.none)
    _output.say(f"{name}: {_output.amount(len(images), 'photo')} of {class_noun!r}")
    options = {} if steps is None else {"steps": steps}
    weights = {"prior_weight": prior_weight, "contrast": contrast, "others": others, "scenes": scenes}
    settings = make_settings(
        method=method, density=density, seed=seed, noise=noise, captions=captions, options=options, **weights
    )
    settings, pictures = use_class_images(settings, class_images, skip_broken)
    words = {"class_noun": class_noun, "name": name, "identifier": identifier}
    if identifier is not None:
        check_words("identifier", identifier)
    where = _options.Where(model, device, dtype.value, revision, config, offline)
    state = state_path(path)
    resources = make_resources(micro_batch, gradient_checkpointing, offload_scores)
    if dry_run:
        show_dry_run(images, words, settings, pictures, where, resources, json)
        return
    cone = search(images, words, settings, pictures, where, state, resume, resources)
    if _launcher.rank():
        return
    cone = annotate(cone, **texts)
    finish(cone, path, overwrite=overwrite, json=json)
    if state:
        state.unlink(missing_ok=True)


def place(output: Path | None, name: str) -> Path:
    """Where the .cone goes: the output as given, NAME.cone inside it if it is a folder, or NAME.cone here."""
    from conestool.cli.merge import default_output

    file = default_output([name])
    if output is None:
        return file
    return output / file if output.is_dir() else output


def show_dry_run(
    images: Sequence[Photo],
    words: dict[str, Any],
    settings: Settings,
    pictures: list[Any] | None,
    where: Where,
    resources: Resources,
    json: bool,
) -> None:
    """Run a few steps, and show what the whole search will take; of several processes the first does."""
    from conestool.cli import _options, _output

    where, processes = _launcher.join(where)
    base = _options.open_model(where)
    from conestool.search.find import name_subject
    from conestool.search.memory import dry_run

    subject = name_subject(base, words["class_noun"], words["name"], words["identifier"], lambda event: None)
    with _output.waiting("running a few steps"):
        found = dry_run(base, images, subject, settings, resources, pictures, processes)
    _output.say(f"{words['name']}: an estimate from a few steps, on {found.device} in {found.dtype}", "bold")
    rows = [[phase, _output.duration(seconds)] for phase, seconds in found.phases.items()]
    _output.table([["", "time"], *rows, ["in all", _output.duration(found.seconds)]], right=(1,))
    _output.say(f"  memory: {'unknown here' if found.memory is None else f'{_output.size(found.memory)} at most'}")
    if json and processes.is_main_process:
        _streams.emit_json(found.record())


def use_class_images(settings: Settings, option: str | None, skip_broken: bool) -> tuple[Settings, list[Any] | None]:
    """Settings with the number of class images, or the pictures of the folder given instead."""
    from dataclasses import replace

    if option is None:
        return settings, None
    if option.isdecimal():
        return replace(settings, class_images=int(option)), None
    return settings, [photo.image for photo in read_photos([Path(option)], skip_broken)]


def search(
    images: Sequence[Photo],
    words: dict[str, Any],
    settings: Settings,
    pictures: list[Any] | None,
    where: Where,
    state: Path | None,
    resume: bool,
    resources: Resources,
) -> Cone:
    """Load the model and search, showing the progress; on Ctrl-C say how to go on."""
    from conestool.cli import _options

    if state and state.exists() and not resume:
        _output.say(f"note: {state} holds an interrupted search; --resume continues it")
    try:
        where, processes = _launcher.join(where)
        base = _options.open_model(where)
        from conestool.cli._search import Stages
        from conestool.search.find import find as find_neurons

        with Stages() as stages:
            return find_neurons(
                base,
                images,
                settings=settings,
                class_pictures=pictures,
                progress=stages,
                state=state,
                resume=resume,
                resources=resources,
                processes=processes,
                **words,
            )
    except KeyboardInterrupt:
        tell_resume(state)
        raise


def annotate(cone: Cone, **texts: str) -> Cone:
    """The cone with notes, author and license where they were given."""
    from dataclasses import replace

    if not texts:
        return cone
    concepts = [replace(each, origin=each.origin.model_copy(update=texts)) for each in cone.concepts]
    return replace(cone, concepts=tuple(concepts))


def finish(cone: Cone, path: Path, *, overwrite: bool, json: bool) -> None:
    """Write the file, then report what was found and how good it is."""
    from conestool import format as cones
    from conestool.cli import _format
    from conestool.cli.merge import save

    save(cone, path, overwrite=overwrite, json=json)
    name = "stdout" if str(path) == _streams.STDIO else str(path)
    facts = _format.facts_of(name, len(cones.dumps(cone)), cone)
    _format.show_found(facts)
    if json:
        _streams.emit_json(_format.file_record(facts))
