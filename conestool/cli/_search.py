"""What `find` and `tune` share: photos and configuration as typed, names, events as bars, and how to resume."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from conestool._names import NAME_PARTS, guess_noun, words_in
from conestool._text import NAME_LENGTH
from conestool.cli import _launcher, _options, _output, _streams
from conestool.cli._options import MAX_STEPS, value
from conestool.errors import OutOfMemoryError, UsageError

if TYPE_CHECKING:
    from conestool.concept import Cone
    from conestool.images.photos import Photo
    from conestool.models.model import Model
    from conestool.search.events import Event, Samples
    from conestool.search.tracking import SearchLog

_WORTH_SAYING = 20.0
"""Seconds from which on a stage says beforehand what it will take, where no bar shows it."""


_STEPS, _EVERY = "Steps of the search. Default: 60.", "Draw it every N steps, into dog-samples.png."
StepsOption = Annotated[int | None, value("N", _STEPS, panel="Search", min=1, max=MAX_STEPS)]


@dataclass(frozen=True, kw_only=True)
class Watching:
    """How a search can be followed."""

    samples: Annotated[int | None, value("N", _EVERY, min=1, max=MAX_STEPS)] = None
    track: Annotated[str | None, value("KIND", "Log to dog-log: tensorboard, wandb or jsonl.")] = None


class Watcher:
    """A callback that puts what a search draws into one growing picture beside the output, and logs it.

    Use it as a context manager. UsageError if there is no file beside which to write, or something is there already:
    a resumed search goes on with it.
    """

    def __init__(self, output: Path, watching: Watching, *, overwrite: bool, resume: bool) -> None:
        every, track = watching.samples, watching.track
        if str(output) == _streams.STDIO and (every or track):
            raise UsageError("--samples and --track: stdout has no place beside it", "name the output with -o")
        from conestool.cli._report import read_strip

        self.every, self.track = every or 0, track
        self.path, self.folder = _streams.beside(output, "samples.png"), _streams.beside(output, "log")
        self.drawn: list[Samples] = []
        self.log: SearchLog | None = None
        if not _launcher.rank():
            _streams.check_outputs([self.path] * bool(every), "a PNG", overwrite=overwrite or resume)
            _streams.check_outputs([self.folder] * bool(track), "a log", overwrite=overwrite or resume, folder=True)
        self.before = read_strip(self.path) if every and resume else None

    def __enter__(self) -> Watcher:
        if self.track and not _launcher.rank():
            from conestool.search.tracking import SearchLog

            self.log = SearchLog(self.track, self.folder)
        return self

    def __exit__(self, *error: object) -> None:
        if self.log:
            self.log.tracker.finish()

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        from conestool.search.events import Samples

        if self.log:
            self.log(event)
        if isinstance(event, Samples):
            self.drawn.append(event)
            self.write()

    def write(self, cone_id: str = "") -> None:
        """Write the strip, at the end with the content id of what was found."""
        from conestool._atomic import write_atomic
        from conestool.rendering.png import plain_png
        from conestool.rendering.samples import strip

        write_atomic(self.path, plain_png(strip(self.drawn, self.before), cone=cone_id), overwrite=True)

    def end(self, cone: Cone) -> None:
        """Say in the strip whose it is, and log the losses of the report."""
        if self.drawn:
            self.write(cone.id)
        for each in cone.concepts if self.log else ():
            losses = each.origin.losses.model_dump(exclude_none=True) if each.origin.losses else {}
            values = {f"{each.name}/{key}": value for key, value in losses.items()}
            self.log.tracker.log(values, step=each.origin.parameters.get("steps"))  # type: ignore[union-attr]


class Stages:
    """A progress callback; use it as a context manager, so that no bar is left behind."""

    def __init__(self) -> None:
        self.stage: str | None = None
        self.view = ExitStack()
        self.ticker: _output.Ticker | None = None
        self.began = 0.0
        self.start = 0
        self.memory: dict[str, Any] | None = None

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        from conestool.search.events import LogEvent, MemoryChoice, Samples

        if isinstance(event, MemoryChoice):
            self.memory = dict(event.record)
        if isinstance(event, LogEvent):
            (_output.warn if event.warning else _output.say)(event.text)
        if isinstance(event, LogEvent | Samples):
            return
        if event.stage != self.stage:
            self.open(event.stage, event.done, event.total)
        if self.ticker:
            self.ticker(event.done, f"loss {event.loss:.4f}" if event.loss is not None else "")
        self.estimate(event.done, event.total)
        if event.done >= event.total:
            took = time.monotonic() - self.began
            self.close()
            _output.say(f"{event.stage}: {event.total}" + (f" in {_output.duration(took)}" if took >= 1 else ""))

    def open(self, stage: str, done: int, total: int) -> None:
        """Begin a stage, `done` steps of which are finished when it is first heard of; the one before it is closed."""
        self.close()
        self.stage, self.began, self.start = stage, time.monotonic(), done
        self.ticker = self.view.enter_context(_output.progress(stage, total, done))

    def estimate(self, done: int, total: int) -> None:
        """Say once, after the first step seen, what the stage will take."""
        ahead = (time.monotonic() - self.began) * (total - done)
        if done == self.start + 1 and ahead > _WORTH_SAYING and _output.plain():
            _output.say(f"{self.stage}: about {_output.duration(ahead)}")

    def close(self) -> None:
        """Take the bar away."""
        self.view.close()
        self.ticker = self.stage = None


def _name_source(photos: Sequence[Path], output: Path | None) -> Path | None:
    """The path whose name says what the subject is: the output, else the one folder that holds the photos.

    None if the names say nothing (`photos`, `out.cone`, `img_0412`) or the photos come from several folders.
    """
    folders = {(path if path.is_dir() else path.parent).resolve() for path in photos}
    candidates = [folders.pop()] if len(folders) == 1 else []
    if output is not None and not (output.is_dir() or str(output) == _streams.STDIO):
        candidates.insert(0, output.with_suffix("") if output.suffix == ".cone" else output)
    return next((path for path in candidates if words_in(path.name)), None)


def name_from_path(path: Path) -> str:
    """A concept name from a path's last part: `my dog (2)` is my-dog-2."""
    parts = NAME_PARTS.findall(path.name.replace("_", " "))
    if not parts:
        raise UsageError(f"{path.name!r}: no letters to name a concept by", "use --name")
    return "-".join(parts)[:NAME_LENGTH].rstrip("-'’")


def resolve_names(photos: Sequence[Path], output: Path | None, name: str | None, noun: str | None) -> tuple[str, str]:
    """Concept name and class noun: as given, and what is missing from the output's or the folder's name.

    Raises UsageError if that name says nothing: a concept called `photos` of the class "photos" helps nobody.
    """
    source = _name_source(photos, output)
    if noun is None and source is None:
        raise UsageError(
            f"{photos[0]}: cannot tell from its name what the photos show",
            "name the output after it, for example -o dog.cone, or use --class-noun",
        )
    noun = noun or guess_noun(source.name if source else "")
    return name or name_from_path(source or Path(noun)), noun


def check_stdin(paths: Sequence[Path]) -> None:
    """Refuse to read stdin where several processes would each take a part of it."""
    if _launcher.size() > 1 and any(str(path) == _streams.STDIO for path in paths):
        raise UsageError("-: several processes cannot read stdin", "name the files")


def checkpoint_path_of(output: Path) -> Path | None:
    """Where an interrupted search is kept, beside the output; nowhere if that is stdout."""
    return None if str(output) == _streams.STDIO else output.with_name(f"{output.name}.checkpoint")


def read_photos(paths: Sequence[Path], skip_broken: bool, captions: bool = False) -> list[Photo]:
    """The photos, with a note on everything that was passed over."""
    from conestool.images.photos import read_photos as read

    photos, remarks = read(paths, skip_broken=skip_broken, captions=captions)
    for remark in remarks:
        _output.say(f"note: {remark}")
    return photos


def run_search(
    search: Callable[..., Cone],
    where: _options.Where,
    checkpoint: Path | None,
    *given: Any,
    resume: bool,
    watcher: Watcher,
    recorded: tuple[str, str | None] | None = None,
    **named: Any,
) -> tuple[Model, Cone, dict[str, Any] | None]:
    """Load the model and `find` or `tune` on it, showing the progress; stopped or out of memory, say how to continue.

    Returns the model and what was chosen to make do with the memory, too.
    """
    if checkpoint and checkpoint.exists() and not resume:
        _output.say(f"note: {checkpoint} holds an interrupted search; --resume continues it")
    try:
        where, processes = _launcher.join(where)
        base = _options.open_model(where, recorded)
        saving = {"checkpoint_path": checkpoint, "resume_from_checkpoint": resume, "sample_every": watcher.every}
        with Stages() as stages, watcher:

            def tell(event: Event) -> None:
                stages(event)
                watcher(event)

            cone = search(base, *given, callback=tell, processes=processes, **saving, **named)
            watcher.end(cone)
            return base, cone, stages.memory
    except (KeyboardInterrupt, OutOfMemoryError):
        _tell_resume(checkpoint)
        raise


def _tell_resume(checkpoint: Path | None) -> None:
    """After Ctrl-C, or where memory ran out: how to continue, if anything was saved."""
    if checkpoint and checkpoint.exists():
        arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
        again = "to continue" if _launcher.size() == 1 else "to continue, launch as before"
        _output.command(f"the search is saved; {again}:", "cones", *arguments, "--resume")
    else:
        _output.tell("nothing of the search is saved yet")
