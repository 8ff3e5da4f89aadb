"""The entry point `cones`: runs a command line, and turns every way to stop into an exit code and one line."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from conestool import __version__
from conestool.cli import _launcher, _options, _output, _streams
from conestool.cli._app import NAMES, Group
from conestool.errors import ConesError, ModelLoadError, OutOfMemoryError, causes, first_line, is_out_of_memory

PACKAGE = Path(__file__).parents[1]
INTERRUPTED = 130
BUG = 70

app = typer.Typer(
    name="cones",
    cls=Group,
    help="Find concept neurons in a diffusion model, and draw with them.",
    epilog="First steps: cones find ./photos -o dog.cone, then cones render 'a dog in a hat'.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    """Write the version to stdout and stop."""
    if wanted:
        typer.echo(f"cones {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
    quiet: _options.Quiet = False,
    verbose: _options.Verbose = False,
    traceback: _options.Trace = False,
) -> None:
    """Find concept neurons in a diffusion model, and draw with them."""
    _options.configure(quiet, verbose, traceback)


def main() -> None:
    """Run the command line of this process and leave with its exit code."""
    open_missing_streams()
    let_threads_sleep()
    let_memory_grow()
    calm_libraries()
    code = run(sys.argv[1:])
    hush_closed_pipes()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; everything there is to say is on stderr afterwards."""
    _options.reset()
    _output.mute(_launcher.rank() > 0)
    try:
        _launcher.check_command(command_of(arguments))
        code = app(arguments, prog_name="cones", standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        sys.stdout.flush()
    except SystemExit as error:  # how typer answers a closed pipe
        closed = isinstance(error.__context__, BrokenPipeError)
        return 0 if closed or not isinstance(error.code, int) else error.code
    except (Exception, KeyboardInterrupt) as error:
        return report(error, arguments)
    _launcher.leave()
    return code if isinstance(code, int) else 0


def command_of(arguments: Sequence[str]) -> str | None:
    """The command of a command line: its first word that is no option."""
    return next((word for word in arguments if not word.startswith("-")), None)


def report(error: BaseException, arguments: Sequence[str]) -> int:
    """Say what stopped the command in a line and what to do in another; return the exit code."""
    if _launcher.may_speak(error):
        _output.mute(False)
    prefix = f"process {_launcher.rank()}: " if _launcher.rank() else ""
    if _options.wants_traceback():
        import traceback

        _output.page("".join(traceback.format_exception(error)))
    message, hint, code = describe(error, arguments)
    if message:
        _output.tell(message) if code == INTERRUPTED else _output.fail(prefix + message, hint)
    return code


def describe(error: BaseException, arguments: Sequence[str] = ()) -> tuple[str, str | None, int]:
    """Message, hint and exit code of what stopped a command line; an empty message for those that stay quiet."""
    if ran_out(error):
        text = str(error) if isinstance(error, OutOfMemoryError) else f"out of memory: {first_line(error)}"
        return text, advice(command_of(arguments), arguments, on_cpu(error)), OutOfMemoryError.exit_code
    if isinstance(error, ConesError):
        bug = error.exit_code == BUG
        return str(error), error.hint or (report_hint() if bug else None), error.exit_code
    if isinstance(error, BrokenPipeError):
        return "", None, 0
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        return "stopped", None, INTERRUPTED
    if hasattr(error, "format_message"):  # click's, or typer's own copy of it
        return describe_usage(error, command_of(arguments))
    if isinstance(error, FileNotFoundError) and error.filename is None and no_folder():
        return "the current folder is gone", "change to one that exists", 2
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.filename or 'stdin or stdout'}: {error.strerror}", None, 2
    return f"a bug in cones: {type(error).__name__}: {first_line(error)}", report_hint(), BUG


def no_folder() -> bool:
    """Whether the current folder was removed."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def describe_usage(error: Any, command: str | None = None) -> tuple[str, str | None, int]:
    """Message, hint and exit code of an error in the arguments; just the help's exit code if it was shown.

    An option without its value is refused before click knows whose it is: then the `command` as typed says it.
    """
    context = getattr(error, "ctx", None)
    path = context.command_path if context else f"cones {command}" if command in NAMES else "cones"
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        _output.page(message)
        return "", None, 2
    return message[:1].lower() + message[1:].rstrip("."), f"see {path} --help", int(error.exit_code)


def report_hint() -> str:
    """What to do about a bug of ours."""
    if _options.wants_traceback():
        return "please report it with the output of: cones doctor --json"
    return "run it again with --traceback and report that, with the output of: cones doctor --json"


def ran_out(error: BaseException) -> bool:
    """Whether memory ran out, also while a base model was read."""
    told = causes(error) if isinstance(error, ModelLoadError) else [error]
    return any(is_out_of_memory(each) for each in told)


def on_cpu(error: BaseException) -> bool:
    """Whether it was the machine's own memory that ran out, and not that of a device; a Mac's GPU has no other."""
    return not any(name in str(each).lower() for each in causes(error) for name in ("cuda", "hip"))


def let_threads_sleep() -> None:
    """Let OpenMP's threads sleep while they wait, before torch is imported; its own default keeps them spinning.

    That costs nothing on an idle machine, and many times less beside other work (docs/performance.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def let_memory_grow() -> None:
    """Let PyTorch enlarge pieces of a card's memory instead of taking new ones, before it is imported.

    Batches of several sizes would else leave gaps that nothing fits into.
    """
    if sys.platform == "linux":  # others have it not, and say so
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def calm_libraries() -> None:
    """Keep the chatter of libraries from the user's screen; what conestool itself warns of is shown as a warning."""
    for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

    def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        ours = Path(filename).is_relative_to(PACKAGE)
        (_output.warn if ours else _output.detail)(f"{message}" if ours else f"{category.__name__}: {message}")

    warnings.showwarning = show  # type: ignore[assignment]


def open_missing_streams() -> None:
    """Let output go nowhere if the process was started without stdout or stderr.

    No file that is opened later may get one of the three numbers, or what libraries print would go into it. A parent
    may have left a stream non-blocking; reads and writes here wait, however slow the other side is.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, this one
        with contextlib.suppress(OSError, AttributeError):
            os.set_blocking(number, True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


def hush_closed_pipes() -> None:
    """Let the interpreter's last flush go nowhere if the reader of a stream has left."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _streams.let_go(stream)


SEARCH = ("--micro-batch 1", "--gradient-checkpointing", "--offload-scores")
PLACE = ("--offload", "--dtype bfloat16", "--device cpu")
HELPS = {
    "find": (*SEARCH, *PLACE),
    "tune": (*SEARCH, *PLACE),
    "render": ("a smaller --size", *PLACE),
    "eval": ("--micro-batch 1", *PLACE),
    "apply": ("--dtype bfloat16",),
}
"""By command, most useful first; a command that is not here has no option that lowers its memory."""
ELSEWHERE = ("--device cpu", "--offload-scores", "--offload")
"""Options that move something off a device, and are of no use where the machine's own memory ran out."""
OTHERS = "closing other programs"


def advice(command: str | None, arguments: Sequence[str], on_cpu: bool) -> str:
    """The hint for a command line that ran out of memory: the options of its `command` that it does not use yet."""
    left = [text for text in HELPS.get(command or "", ()) if not used(text, arguments)]
    many = ["--batch 1"] if command == "render" and used("--batch", arguments) else []
    left = [*many, *(text for text in left if not (on_cpu and text in ELSEWHERE))]
    return f"what helps: {', '.join([*left, OTHERS])}"


def used(text: str, arguments: Sequence[str]) -> bool:
    """Whether the command line has this very option with this very value."""
    return f" {text} " in f" {' '.join(arguments)} ".replace("=", " ")
