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
    MAX_COUNT,
    MAX_SEED,
    MAX_STEPS,
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
from conestool.cli._search import (
    check_stdin,
    checkpoint_path_of,
    make_resources,
    make_search_config,
    read_photos,
    tell_resume,
)

if TYPE_CHECKING:
    from conestool.cli._options import Where
    from conestool.concept import Cone
    from conestool.images.photos import Photo
    from conestool.models.model import Model
    from conestool.search.config import Resources, SearchConfig

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
    seed: Annotated[int, value("--seed", metavar="N", text="Seed of all noise.", min=0, max=MAX_SEED)] = 0,
    dry_run: Annotated[
        bool, flag("--dry-run", text="Run a few steps, say what time and memory all will take, stop.")
    ] = False,
    resume: Annotated[bool, flag("--resume", text="Continue after an interruption.")] = False,
    skip_broken: Annotated[bool, flag("--skip-broken", text="Leave out broken images.")] = False,
    captions: CaptionsOption = None,
    method: Annotated[
        Method | None, value("--method", metavar="M", text="mask, cones, tstat or taylor. Default: mask.", panel=SEARCH)
    ] = None,
    steps: Annotated[
        int | None, value("--steps", metavar="N", text="Steps of the search.", panel=SEARCH, min=1, max=MAX_STEPS)
    ] = None,
    density: Annotated[
        float | None,
        value("--density", metavar="X", text="Share of the K/V weights to zero. Default: found.", panel=SEARCH),
    ] = None,
    prior_loss_weight: Annotated[
        float | None,
        value("--prior-loss-weight", metavar="X", text="Weight of the class images.", panel=SEARCH, min=0.0),
    ] = None,
    unbound_weight: Annotated[
        float | None,
        value("--unbound-weight", metavar="X", text="Of the photos without the identifier.", panel=SEARCH, min=0.0),
    ] = None,
    other_class_weight: Annotated[
        float | None,
        value("--other-class-weight", metavar="X", text="Of pictures of other classes.", panel=SEARCH, min=0.0),
    ] = None,
    composite_weight: Annotated[
        float | None,
        value(
            "--composite-weight", metavar="X", text="Of scenes with other things. Default: 0.", panel=SEARCH, min=0.0
        ),
    ] = None,
    timestep_range: Annotated[
        tuple[float, float] | None,
        value("--timestep-range", metavar="LOW HIGH", text="Part of the noise schedule. Default: 0.3 1.", panel=SEARCH),
    ] = None,
    num_class_images: Annotated[
        int | None,
        value("--num-class-images", metavar="N", text="How many to draw.", panel=SEARCH, min=4, max=MAX_COUNT),
    ] = None,
    class_images: Annotated[
        Path | None, value("--class-images", metavar="DIR", text="Take these, and draw none.", panel=SEARCH)
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
    no_samples: Annotated[bool, flag("--no-samples", text="Draw no sheet of pictures beside the file.")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Find the concept neurons of a subject, from 3 to 5 photos.

    Name and class noun come from the output's name (my-dog.cone: a dog), or the photos' folder. Pictures of the subject
    go into dog-samples.png beside dog.cone.
    """
    from conestool.cli import _options, _search
    from conestool.cli._samples import samples_path
    from conestool.cli.merge import save
    from conestool.concept import check_name, check_words
    from conestool.errors import UsageError

    stored = {"notes": notes, "author": author, "license": license}
    if json and str(output) == _streams.STDIO:
        raise UsageError("-o -: stdout cannot carry the .cone file and JSON", "give the file a name")
    check_stdin(photos)
    paths = _streams.expand_paths(photos)
    name, class_noun = _search.settle(paths, output, name, class_noun)
    path = place(output, name)
    sheet = None if no_samples or dry_run or str(path) == _streams.STDIO else samples_path(path)
    _streams.check_outputs([path, *([sheet] if sheet else [])], "a .cone file", overwrite=overwrite)
    check_name(name)
    check_words("class noun", class_noun)
    texts = {key: check_stored(f"--{key}", text) for key, text in stored.items() if text}
    where = _options.Where(model, device, dtype.value, revision, config, offline)
    _options.check_model(where)
    with _output.waiting("reading photos"):
        images = read_photos(paths, skip_broken, captions=captions != Captions.none)
    _output.say(f"{name}: {_output.amount(len(images), 'photo')} of {class_noun!r}")
    search_config = make_search_config(
        method=method,
        density=density,
        seed=seed,
        prior_loss_weight=prior_loss_weight,
        unbound_weight=unbound_weight,
        other_class_weight=other_class_weight,
        composite_weight=composite_weight,
        timestep_range=timestep_range,
        num_class_images=num_class_images,
        captions=captions,
        options={} if steps is None else {"steps": steps},
    )
    _options.warn_unused("with --class-images", {"--num-class-images": class_images and num_class_images is not None})
    pictures = [photo.image for photo in read_photos([class_images], skip_broken)] if class_images else None
    words = {"class_noun": class_noun, "name": name, "identifier": identifier}
    if identifier is not None:
        check_words("identifier", identifier)
    checkpoint = checkpoint_path_of(path)
    resources = make_resources(micro_batch, gradient_checkpointing, offload_scores)
    if dry_run:
        show_dry_run(images, words, search_config, pictures, where, resources, json)
        return
    base, cone = search(images, words, search_config, pictures, where, checkpoint, resume, resources)
    if _launcher.rank():
        return
    cone = annotate(cone, **texts)
    save(cone, path, overwrite=overwrite, json=json)
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    drawn = write_samples(base, cone, images, sheet, overwrite) if sheet else None
    report(cone, path, drawn, json=json)


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
    search_config: SearchConfig,
    pictures: list[Any] | None,
    where: Where,
    resources: Resources,
    json: bool,
) -> None:
    """Run a few steps, and show what the whole search will take; of several processes the first does."""
    from conestool.cli import _options, _output

    where, processes = _launcher.join(where)
    base = _options.open_model(where)
    from conestool.search.find import resolve_names
    from conestool.search.memory import dry_run

    subject = resolve_names(base, words["class_noun"], words["name"], words["identifier"], lambda event: None)
    with _output.waiting("running a few steps"):
        found = dry_run(base, images, subject, search_config, resources, pictures, processes)
    _output.say(f"{words['name']}: an estimate from a few steps, on {found.device} in {found.dtype}", "bold")
    rows = [[phase, _output.duration(seconds)] for phase, seconds in found.phases.items()]
    _output.table([["", "time"], *rows, ["in all", _output.duration(found.seconds)]], right=(1,))
    _output.say(f"  memory: {'unknown here' if found.memory is None else f'{_output.size(found.memory)} at most'}")
    if json and processes.is_main_process:
        _streams.emit_json(found.record())


def search(
    images: Sequence[Photo],
    words: dict[str, Any],
    search_config: SearchConfig,
    pictures: list[Any] | None,
    where: Where,
    checkpoint: Path | None,
    resume: bool,
    resources: Resources,
) -> tuple[Model, Cone]:
    """Load the model and search, showing the progress; on Ctrl-C say how to continue."""
    from conestool.cli import _options

    if checkpoint and checkpoint.exists() and not resume:
        _output.say(f"note: {checkpoint} holds an interrupted search; --resume continues it")
    try:
        where, processes = _launcher.join(where)
        base = _options.open_model(where)
        from conestool.cli._search import Stages
        from conestool.search.find import find as find_neurons

        with Stages() as stages:
            return base, find_neurons(
                base,
                images,
                config=search_config,
                class_images=pictures,
                callback=stages,
                checkpoint_path=checkpoint,
                resume_from_checkpoint=resume,
                resources=resources,
                processes=processes,
                **words,
            )
    except KeyboardInterrupt:
        tell_resume(checkpoint)
        raise


def annotate(cone: Cone, **texts: str) -> Cone:
    """The cone with notes, author and license where they were given."""
    from dataclasses import replace

    if not texts:
        return cone
    concepts = [replace(each, origin=each.origin.model_copy(update=texts)) for each in cone.concepts]
    return replace(cone, concepts=tuple(concepts))


def write_samples(base: Model, cone: Cone, photos: Sequence[Photo], path: Path, overwrite: bool) -> Path | None:
    """Draw the sheet and write it; None, with a warning, if there is too little memory: the concept is safe already."""
    from conestool._atomic import write_atomic
    from conestool.cli._samples import draw_samples
    from conestool.errors import DeviceError

    try:
        return write_atomic(path, draw_samples(base, cone, photos), overwrite=overwrite)
    except DeviceError as error:
        _output.warn(f"no sample pictures: {error}")
        return None


def report(cone: Cone, path: Path, samples: Path | None, *, json: bool) -> None:
    """What was found, how good it is, and what to do next."""
    from conestool import format as cones
    from conestool._text import quoted
    from conestool.cli import _format
    from conestool.search.subject import article

    name = "stdout" if str(path) == _streams.STDIO else str(path)
    facts = _format.facts_of(name, len(cones.dumps(cone)), cone)
    _format.show_found(facts)
    if samples:
        _output.say(f"samples: {samples}")
    if str(path) != _streams.STDIO:
        given = () if path.parent == Path() and path.suffix == ".cone" else ("-c", path)
        prompt = f"{article(cone.names[0])} on the beach"
        _output.say(f"next: cones render {quoted(prompt, *given)} --compare")
    if json:
        _streams.emit_json(_format.file_record(facts) | {"samples": str(samples) if samples else None})
