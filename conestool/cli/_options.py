"""Options that several commands share, and the decorator that gives every command `-q`, `-v` and `--traceback`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, get_type_hints

import typer

from conestool.cli import _show

__all__ = [
    "Captions",
    "CaptionsOption",
    "Checkpointing",
    "Config",
    "Device",
    "DeviceOption",
    "Dtype",
    "DtypeOption",
    "Force",
    "ForceModel",
    "Json",
    "MicroBatch",
    "ModelOption",
    "Offline",
    "OffloadScores",
    "Quiet",
    "Revision",
    "Trace",
    "Verbose",
    "command",
    "flag",
    "reset",
    "value",
    "wants_traceback",
]


def flag(*names: str, text: str, panel: str | None = None) -> Any:
    """An option that is there or not; without typer's `--no-` twin and without a default in the help."""
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


def value(*names: str, text: str, metavar: str | None = None, panel: str | None = None, **rest: Any) -> Any:
    """An option with a value."""
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=panel, **rest)


GENERAL, MODEL, MEMORY = "General", "Model", "Memory"

Quiet = Annotated[bool, flag("-q", "--quiet", text="Warnings and errors alone.", panel=GENERAL)]
Verbose = Annotated[bool, flag("-v", "--verbose", text="Say more.", panel=GENERAL)]
Trace = Annotated[bool, flag("--traceback", text="Show where an error came from.", panel=GENERAL)]
Force = Annotated[bool, flag("--force", text="Overwrite what is there.", panel=GENERAL)]
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
ForceModel = Annotated[bool, flag("--force-model", text="Accept another base model than the concept's.", panel=MODEL)]

MicroBatch = Annotated[
    int | None, value("--micro-batch", metavar="N", text="Samples at once; 1 takes least memory.", panel=MEMORY, min=1)
]
Checkpointing = Annotated[
    bool, flag("--gradient-checkpointing", text="Recompute activations instead of keeping them.", panel=MEMORY)
]
OffloadScores = Annotated[
    bool, flag("--offload-scores", text="Keep scores in the machine's memory, off the GPU.", panel=MEMORY)
]


class Captions(StrEnum):
    """What `--captions` takes; those of Settings."""

    auto = "auto"
    given = "given"
    none = "none"


CaptionsOption = Annotated[
    Captions | None,
    value(
        "--captions",
        metavar="auto|given|none",
        text="Words for the rest of a photo: photo.txt (given), or else the model's own (auto). Default: auto.",
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

settings = {"traceback": False}


def wants_traceback() -> bool:
    """Whether `--traceback` was given."""
    return settings["traceback"]


def reset() -> None:
    """Forget the options of an earlier command line in the same process."""
    settings["traceback"] = False
    _show.configure(_show.NORMAL)


def configure(quiet: bool, verbose: bool, traceback: bool) -> None:
    """Apply the options that every command has."""
    settings["traceback"] = traceback or settings["traceback"]
    if quiet or verbose:
        _show.configure(_show.QUIET if quiet else _show.VERBOSE)


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with the options `-q`, `-v` and `--traceback` added to those in its signature."""
    common: dict[str, Any] = {"quiet": Quiet, "verbose": Verbose, "traceback": Trace}
    hints = get_type_hints(function, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    own = [
        parameter.replace(annotation=hints[name], kind=kind)
        for name, parameter in inspect.signature(function).parameters.items()
    ]
    added = [inspect.Parameter(name, kind, default=False, annotation=note) for name, note in common.items()]

    @functools.wraps(function)
    def run(**options: Any) -> Any:
        configure(*(options.pop(name) for name in common))
        return function(**options)

    del run.__wrapped__  # typer would read the signature of the function inside
    run.__annotations__ = {**hints, **common}
    run.__signature__ = inspect.Signature(own + added)  # type: ignore[attr-defined]
    return run
