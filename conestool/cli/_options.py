"""Options that several commands share, what they stand for, and the decorator that adds those of every command."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin, get_type_hints

import typer

from conestool.cli import _output

if TYPE_CHECKING:
    from conestool.concept import Cone
    from conestool.models.model import Model

__all__ = [
    "MAX_COUNT",
    "MAX_SEED",
    "MAX_STEPS",
    "MEMORY",
    "POCKET",
    "AllowBaseMismatch",
    "DeviceOption",
    "DrawingWhere",
    "Dtype",
    "Json",
    "LayersOption",
    "MicroBatch",
    "ModelOption",
    "Offline",
    "Overwrite",
    "Quiet",
    "Trace",
    "Verbose",
    "Wanted",
    "Where",
    "check_model",
    "command",
    "flag",
    "note_fallback",
    "open_model",
    "parse_wanted",
    "reset",
    "strengths",
    "value",
    "wants_traceback",
    "warn_unused",
]


def flag(*names: str, text: str, panel: str | None = None) -> Any:
    """An option that is there or not; without typer's `--no-` twin and without a default in the help."""
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


def value(*names: str, text: str, metavar: str | None = None, panel: str | None = None, **rest: Any) -> Any:
    """An option with a value."""
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=panel, **rest)


MAX_SEED = (1 << 63) - 1
"""The largest seed that a picture's record and a .cone file hold."""
MAX_COUNT = 10_000
"""The most steps, pictures or samples of anything that a command is asked for."""

MAX_STEPS = 1_000_000
"""The most steps of a search, which can be stopped and continued."""

GENERAL, MODEL, MEMORY = "General", "Model", "Memory"

Quiet = Annotated[bool, flag("-q", "--quiet", text="Warnings and errors alone.", panel=GENERAL)]
Verbose = Annotated[bool, flag("-v", "--verbose", text="Say more.", panel=GENERAL)]
Trace = Annotated[bool, flag("--traceback", text="Show where an error came from.", panel=GENERAL)]
Overwrite = Annotated[bool, flag("--overwrite", text="Overwrite what is there.", panel=GENERAL)]
LayersOption = Annotated[bool, flag("--layers", text="Show every layer.")]
Json = Annotated[bool, flag("--json", text="Write JSON to stdout.", panel=GENERAL)]
ModelOption = Annotated[
    str | None,
    value(
        "--model",
        metavar="M",
        text="Hub id, diffusers folder, .safetensors file, or pocket. Default: $CONES_MODEL, the concept's, pocket.",
        panel=MODEL,
    ),
]
Revision = Annotated[
    str | None, value("--revision", metavar="R", text="Branch, tag or commit of a Hub model.", panel=MODEL)
]
Config = Annotated[
    str | None,
    value("--config", metavar="C", text="Folder or Hub id that a .safetensors takes its shape from.", panel=MODEL),
]
Offline = Annotated[bool, flag("--offline", text="Never ask the Hub.", panel=MODEL)]
AllowBaseMismatch = Annotated[
    bool, flag("--allow-base-mismatch", text="Accept another base model than the concept's.", panel=MODEL)
]

MicroBatch = Annotated[
    int | None,
    value(
        "--micro-batch",
        metavar="N",
        text="Samples at once. Default: as many as fit.",
        panel=MEMORY,
        min=1,
        max=MAX_COUNT,
    ),
]


class Dtype(StrEnum):
    """What `--dtype` takes."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Device = str
"""auto, cuda, cuda:1, mps or cpu; checked where torch is."""

DeviceOption = Annotated[Device, value("--device", metavar="D", text="auto, cuda, cuda:N, mps or cpu.", panel=MODEL)]
DtypeOption = Annotated[Dtype, value("--dtype", metavar="T", text="auto, float32, bfloat16 or float16.", panel=MODEL)]

OffloadOption = Annotated[bool, flag("--offload", text="Keep on the GPU only the part at work.", panel=MEMORY)]
DeterministicOption = Annotated[
    bool, flag("--deterministic", text="Repeat exactly on a GPU, which takes longer.", panel=MODEL)
]


@dataclass(frozen=True, kw_only=True)
class Where:
    """Which base model, and how to load it, as typed.

    A command with a parameter ``where: Where`` has an option for each of the fields, but for those that an annotation
    ``Annotated[Where, names]`` leaves out.
    """

    model: ModelOption = None
    revision: Revision = None
    config: Config = None
    offline: Offline = False
    device: DeviceOption = "auto"
    dtype: DtypeOption = Dtype.auto
    deterministic: DeterministicOption = False
    offload: OffloadOption = False


DrawingWhere = Annotated[Where, ("deterministic", "offload")]
"""Without the options of long computations."""

settings = {"traceback": False}


def wants_traceback() -> bool:
    """Whether `--traceback` was given."""
    return settings["traceback"]


def reset() -> None:
    """Forget the options of an earlier command line in the same process."""
    settings["traceback"] = False
    _output.configure(_output.NORMAL)


def configure(quiet: bool, verbose: bool, traceback: bool, json: bool = False) -> None:
    """Apply the options that every command has, and `--json`, which leaves the report to stdout."""
    settings["traceback"] = traceback or settings["traceback"]
    level = _output.QUIET if quiet else _output.VERBOSE if verbose else None
    if level is not None or json:
        _output.configure(_output.level() if level is None else level, report=not json)


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with the options of its `where`, and `-q`, `-v` and `--traceback` added to those in its signature."""
    common: dict[str, Any] = {"quiet": Quiet, "verbose": Verbose, "traceback": Trace}
    hints = get_type_hints(function, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    place = _options_of(hints["where"]) if "where" in hints else []
    own: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        own += place if name == "where" else [parameter.replace(annotation=hints[name], kind=kind)]
    own += [inspect.Parameter(name, kind, default=False, annotation=note) for name, note in common.items()]

    @functools.wraps(function)
    def run(**options: Any) -> Any:
        quiet, verbose, traceback = (options.pop(name) for name in common)
        configure(quiet, verbose, traceback, json=bool(options.get("json")))
        if place:
            options["where"] = where = Where(**{each.name: options.pop(each.name) for each in place})
            if where.deterministic:
                from conestool.models.devices import compute_deterministically

                with compute_deterministically():
                    return function(**options)
        return function(**options)

    del run.__wrapped__  # typer would read the signature of the function inside
    run.__annotations__ = {each.name: each.annotation for each in own}
    run.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    return run


def _options_of(where: Any) -> list[inspect.Parameter]:
    """A parameter for each field of `Where` that the annotation does not leave out."""
    skip = where.__metadata__[0] if get_origin(where) is Annotated else ()
    notes, kind = get_type_hints(Where, include_extras=True), inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(each.name, kind, default=each.default, annotation=notes[each.name])
        for each in fields(Where)
        if each.name not in skip
    ]


def warn_unused(why: str, given: Mapping[str, object]) -> None:
    """Warn of the options in `given` that were set, although they change nothing for the reason `why`."""
    for name, setting in given.items():
        if setting:
            _output.warn(f"{name} has no effect {why}")


POCKET = "pocket"
FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"


@dataclass(frozen=True)
class Wanted:
    """One `F[:strength]` of the command line."""

    path: Path
    strength: float = 1.0


def parse_wanted(text: str) -> Wanted:
    """Split `dog.cone:0.5` into file and strength; a file that has the whole name wins."""
    from conestool.errors import UsageError

    path, colon, tail = text.rpartition(":")
    if not colon or not path or Path(text).exists():
        return Wanted(Path(text))
    try:
        strength = float(tail)
    except ValueError:
        return Wanted(Path(text))
    if not 0 <= strength <= 1:
        raise UsageError(f"{text}: strength {tail} is out of range", "0 leaves the neurons as they are, 1 zeroes them")
    return Wanted(Path(path), strength)


def strengths(wanted: Sequence[Wanted], cones: Sequence[Cone]) -> dict[str, float]:
    """Strength per concept name: every concept of a file gets that of its file."""
    return {name: one.strength for one, cone in zip(wanted, cones, strict=True) for name in cone.names}


def open_model(where: Where, recorded: tuple[str, str | None] | None = None) -> Model:
    """Load the base model: `--model`, else CONES_MODEL, else the one `recorded` (id, revision), else pocket."""
    from conestool.errors import UsageError

    given = where.model or os.environ.get("CONES_MODEL")
    model_id, revision = (given, where.revision) if given else recorded or (POCKET, None)
    options: dict[str, Any] = {"config": where.config, "offline": where.offline, "offload": where.offload}
    try:
        with _output.waiting(f"loading {model_id}"):
            from conestool.models.model import Model

            model = Model.from_pretrained(
                model_id, device=where.device, dtype=where.dtype.value, revision=where.revision or revision, **options
            )
    except UsageError as error:
        if given or not recorded:
            raise
        raise UsageError(f"{error}, but the concept was found on it", "say where it is with --model") from error
    if not model.revision:
        warn_unused(f"on {model_id}, which is no Hub model", {"--revision": where.revision})
    if model.in_folder:
        warn_unused(f"on {model_id}, which is no single file", {"--config": where.config})
    if model.device.type == "cpu":
        warn_unused("on the CPU", {"--offload": where.offload, "--deterministic": where.deterministic})
    note_fallback(model.device.type)
    _output.detail(f"{model_id} on {model.device}, {str(model.dtype).removeprefix('torch.')}")
    return model


def check_model(where: Where) -> None:
    """Raise UsageError for the path of a base model that is not there, before anything else is done."""
    given = where.model or os.environ.get("CONES_MODEL") or POCKET
    with _output.waiting("loading PyTorch"):
        from conestool._atomic import expand_user
        from conestool.models.loading import is_hub_id, resolve_source

        if given != POCKET and not is_hub_id(given) and not expand_user(given).exists():
            resolve_source(given, offline=True)


def note_fallback(device: str) -> None:
    """Say that PyTorch was told to let the CPU do what the Apple GPU cannot."""
    if device == "mps" and os.environ.get(FALLBACK) == "1":
        _output.say(f"note: {FALLBACK}=1: what the Apple GPU cannot do runs on the CPU, and takes long")
