"""How a command says what its options are, those that several share, and what they stand for."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import typer

from conestool.cli import _output
from conestool.search.config import MethodConfig

if TYPE_CHECKING:
    from conestool.concept import Cone
    from conestool.models.model import Model


def flag(text: str, *names: str, panel: str | None = None) -> Any:
    """An option that is there or not; without typer's `--no-` twin and without a default in the help.

    Without `names` an option has that of its parameter.
    """
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


def value(metavar: str, text: str, *names: str, panel: str | None = None, **rest: Any) -> Any:
    """An option with a value."""
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=panel, **rest)


class Options(NamedTuple):
    """Beside a parameter that is a dataclass of options: the section of the help for them, and fields that are none."""

    panel: str | None = None
    skip: tuple[str, ...] = ()


MAX_SEED = (1 << 63) - 1
"""The largest seed that a picture's record and a .cone file hold."""
MAX_COUNT = 10_000
"""The most steps, pictures or samples of anything that a command is asked for."""
MAX_STEPS = 1_000_000
"""The most steps of a search, which can be stopped and continued."""

GENERAL, MODEL, MEMORY = "General", "Model", "Memory"


class Dtype(StrEnum):
    """What `--dtype` takes."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


_MODEL = "Hub id, diffusers folder, .safetensors file, or pocket. Default: $CONES_MODEL, the concept's, pocket."
_CONFIG = "Folder or Hub id that a .safetensors takes its shape from."

Quiet = Annotated[bool, flag("Warnings and errors alone.", "-q", "--quiet", panel=GENERAL)]
Verbose = Annotated[bool, flag("Say more.", "-v", "--verbose", panel=GENERAL)]
Trace = Annotated[bool, flag("Show where an error came from.", "--traceback", panel=GENERAL)]
Overwrite = Annotated[bool, flag("Overwrite what is there.", panel=GENERAL)]
Json = Annotated[bool, flag("Write JSON to stdout.", panel=GENERAL)]
LayersOption = Annotated[bool, flag("Show every layer.")]
ModelOption = Annotated[str | None, value("M", _MODEL, panel=MODEL)]
Revision = Annotated[str | None, value("R", "Branch, tag or commit of a Hub model.", panel=MODEL)]
Config = Annotated[str | None, value("C", _CONFIG, panel=MODEL)]
Offline = Annotated[bool, flag("Never ask the Hub.", panel=MODEL)]
AllowBaseMismatch = Annotated[bool, flag("Accept another base model than the concept's.", panel=MODEL)]
DeviceOption = Annotated[str, value("D", "auto, cuda, cuda:N, mps or cpu.", panel=MODEL)]
"""Checked where torch is."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """Which base model, and how to load it, as typed."""

    model: ModelOption = None
    revision: Revision = None
    config: Config = None
    offline: Offline = False
    device: DeviceOption = "auto"
    dtype: Annotated[Dtype, value("T", "auto, float32, bfloat16 or float16.", panel=MODEL)] = Dtype.auto
    deterministic: Annotated[bool, flag("Repeat exactly on a GPU, which takes longer.", panel=MODEL)] = False
    offload: Annotated[bool, flag("Keep on the GPU only the part at work.", panel=MEMORY)] = False


DrawingWhere = Annotated[Where, Options(skip=("deterministic", "offload"))]
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
    """`function` as typer runs it: `-q`, `-v` and `--traceback` added, and an option for each field of a dataclass.

    The function gets the dataclasses, made of their options.
    """
    own: list[inspect.Parameter] = []
    groups: dict[str, tuple[Any, list[str]]] = {}
    hints = get_type_hints(function, include_extras=True)
    for name, each in inspect.signature(function).parameters.items():
        kind = getattr(hints[name], "__origin__", hints[name])
        if is_dataclass(kind):
            inside = _fields_as_options(kind, *getattr(hints[name], "__metadata__", (Options(),))[0])
            groups[name] = kind, [option.name for option in inside]
            own += inside
        else:
            own.append(_parameter(name, each.default, hints[name]))
    common: dict[str, Any] = {"quiet": Quiet, "verbose": Verbose, "traceback": Trace}
    own += [_parameter(name, False, note) for name, note in common.items()]

    @functools.wraps(function)
    def run(**given: Any) -> Any:
        quiet, verbose, traceback = (given.pop(name) for name in common)
        configure(quiet, verbose, traceback, json=bool(given.get("json")))
        given |= {name: kind(**{part: given.pop(part) for part in parts}) for name, (kind, parts) in groups.items()}
        if getattr(given.get("where"), "deterministic", False):
            from conestool.models.devices import compute_deterministically

            with compute_deterministically():
                return function(**given)
        return function(**given)

    del run.__wrapped__  # typer would read the signature of the function inside
    run.__annotations__ = {each.name: each.annotation for each in own}
    run.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    return run


def _parameter(name: str, default: Any, hint: Any, panel: str | None = None) -> inspect.Parameter:
    """A parameter for typer; its option gets the parameter's name and the `panel`, where it has none of its own."""
    (info,) = getattr(hint, "__metadata__", (None,))
    if isinstance(info, typer.models.OptionInfo):
        info = copy(info)
        info.rich_help_panel = info.rich_help_panel or panel
        if info.default is ...:  # where typer keeps the first name in an annotation
            info.default = f"--{name.replace('_', '-')}"
        hint = Annotated[hint.__origin__, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _fields_as_options(kind: Any, panel: str | None, skip: tuple[str, ...]) -> list[inspect.Parameter]:
    """A parameter for each field of a dataclass that is an option, by its annotation or by its help (`setting`)."""
    hints = get_type_hints(kind, include_extras=True)
    out = []
    for each in fields(kind):
        hint, help = hints[each.name], each.metadata.get("help")
        if help:
            hint = str if hint == MethodConfig | str else hint
            hint = Annotated[hint, flag(help) if hint is bool else value(each.metadata["metavar"], help)]
        if each.name not in skip and hasattr(hint, "__metadata__"):
            default = inspect.Parameter.empty if each.default is MISSING else each.default
            out.append(_parameter(each.name, default, hint, panel))
    return out


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
