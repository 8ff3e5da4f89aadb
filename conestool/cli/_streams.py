"""Streams: stdin for `-`, stdout for the product and nothing else.

stdout carries paths, JSON or the bytes asked for with `-o -`; never bytes to a terminal. Nothing here prints for people
(that is `_output`) and nothing imports more than the standard library before a .cone is read.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from conestool._text import cut_bytes, escape_json, hidden, quoted
from conestool.cli import _output
from conestool.errors import InputError, PromptError, UsageError

if TYPE_CHECKING:
    from conestool.concept import Cone
    from conestool.hub import Pulled

STDIO = "-"
"""The path that means stdin or stdout."""

HUB = "hf:"
"""What begins the name of a file on the Hub: hf:owner/name, hf:owner/name/dog.cone, hf:owner/name@branch."""

LONGEST_NAME = 120
"""Bytes of a name put together from those of concepts."""

MOST = 1 << 28
"""Bytes of stdin that are read, and one more: the limit of a .cone file (conestool.format.limits.MAX_FILE_BYTES)."""


def beside(output: Path, what: str) -> Path:
    """The file that goes with an output: dog-report.html beside dog.cone."""
    return output.with_name(f"{output.stem}-{what}")


def read_bytes(what: str) -> bytes:
    """What comes on stdin, cut off where no .cone file may be that long; InputError if that is a terminal."""
    if sys.stdin is None:
        raise InputError(f"stdin: closed, expected {what}", "pipe it in, or name a file instead of -")
    if sys.stdin.isatty():
        raise InputError(f"stdin: a terminal, expected {what}", "pipe it in, or name a file instead of -")
    return sys.stdin.buffer.read(MOST + 1)


def decode_lines(source: str, data: bytes, what: str) -> list[str]:
    """The lines of `data`, stripped, empty ones too; PromptError, naming `source`, unless they are UTF-8."""
    if len(data) > MOST:
        raise PromptError(f"{source}: more than {MOST >> 20} MiB, expected {what}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise PromptError(
            f"{source}: line {line} is not UTF-8 (byte {error.start})",
            "convert it first, for example with iconv -t utf-8",
        ) from error
    return [line.strip() for line in text.splitlines()]


def read_path_list() -> list[Path]:
    """Paths listed on stdin, one a line, or separated by NUL (`find -print0`); any bytes a file name may have."""
    data = read_bytes("a list of paths")
    if len(data) > MOST:
        raise InputError(f"stdin: more than {MOST >> 20} MiB, expected a list of paths")
    separator = b"\0" if b"\0" in data else b"\n"
    return [Path(os.fsdecode(line.rstrip(b"\r"))) for line in data.split(separator) if line.strip()]


def expand_paths(paths: Sequence[Path]) -> list[Path]:
    """`paths` with `-` replaced by the list of paths on stdin."""
    out: list[Path] = []
    for path in paths:
        out.extend(read_path_list() if str(path) == STDIO else [path])
    if not out:
        raise InputError("stdin: empty, expected a list of paths", "for example: ls photos/*.jpg | cones find -")
    return out


def load_cone(path: str | Path, offline: bool = False) -> Cone:
    """The cone in the file `path`, on stdin for `-`, or on the Hub for hf:owner/name, from the cache if `offline`."""
    from conestool import format as cones

    if str(path) == STDIO:
        return cones.loads(read_bytes("a .cone file"), "stdin")
    if str(path).startswith(HUB):
        return fetch(path, offline).cone
    return cones.load(path)


def fetch(path: str | Path, offline: bool = False) -> Pulled:
    """The .cone file on the Hub that hf:owner/name names, from the cache if `offline`."""
    from conestool import hub

    repository, file, revision = hub.split_address(str(path))
    return hub.pull(repository, file, revision=revision, offline=offline)


def load_cones(paths: Sequence[str | Path], offline: bool = False) -> list[Cone]:
    """The cones in `paths` as of `load_cone`; stdin can be only one of them."""
    refuse_twice_stdin(paths)
    return [load_cone(path, offline) for path in paths]


def shown_name(path: str | Path) -> str:
    """What messages call an input: its path, or stdin for `-`."""
    return "stdin" if str(path) == STDIO else str(path)


def shown_output(path: str | Path) -> str:
    """What messages call an output: its path, or stdout for `-`."""
    return "stdout" if str(path) == STDIO else str(path)


def refuse_twice_stdin(paths: Iterable[str | Path]) -> None:
    """Raise UsageError if `-` is there more than once: stdin can be read once."""
    if sum(str(path) == STDIO for path in paths) > 1:
        raise UsageError("-: stdin was named twice", "write one of the two to a file first")


def refuse_terminal(what: str) -> None:
    """Raise UsageError if stdout is a terminal: `what` is binary and would garble it."""
    if sys.stdout is not None and sys.stdout.isatty():
        raise UsageError(f"stdout: a terminal, will not write {what} to it", "redirect it (> file), or use -o FILE")


def refuse_shared_stdout(
    output: str | Path | None, json: bool, what: str = "the .cone file", option: str = "-o"
) -> None:
    """Raise UsageError where stdout would have to carry the product and JSON."""
    if json and str(output) == STDIO:
        raise UsageError(f"{option} -: stdout cannot carry {what} and JSON", "give one of them a file")


def check_outputs(paths: Iterable[str | Path], what: str, *, overwrite: bool, folder: bool = False) -> None:
    """Refuse outputs that could not be written, before any long work: a terminal for `-`, existing files, no folder."""
    from conestool._atomic import check_output

    for path in paths:
        if str(path) == STDIO:
            refuse_terminal(what)
        else:
            check_output(path, overwrite=overwrite, folder=folder)


def emit_bytes(data: bytes, what: str) -> None:
    """Write `data` to stdout, unless that is a terminal."""
    refuse_terminal(what)
    write_out(data)


def write_bytes(path: Path, data: bytes, what: str, *, overwrite: bool) -> Path:
    """Write `data` to the file `path`, or to stdout for `-`; returns the path."""
    from conestool._atomic import write_atomic

    if str(path) == STDIO:
        emit_bytes(data, what)
        return path
    return write_atomic(path, data, overwrite=overwrite)


def emit_paths(paths: Iterable[str | Path]) -> None:
    """Write the paths of what was made to stdout, one a line, byte for byte as the file system has them.

    To a terminal a path with characters that it would act on is written as a shell takes it: `$'a\\033b.cone'`.
    """
    shown = sys.stdout.isatty()
    names = (quoted(path) if shown and hidden(str(path)) else str(path) for path in paths)
    write_out(b"".join(os.fsencode(name) + b"\n" for name in names))


def emit_json(value: Any) -> None:
    """Write `value` to stdout as JSON in UTF-8; characters that a terminal would act on stay escaped, bytes are hex."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=plain)
    write_out(escape_json(text).encode() + b"\n")


def emit_result(record: Any, paths: Iterable[str | Path], json: bool) -> None:
    """Write what a command made to stdout: `record` as JSON, else the paths but for that of stdout itself."""
    if json:
        emit_json(record)
    else:
        emit_paths(path for path in paths if str(path) != STDIO)


def let_go(stream: IO[Any]) -> None:
    """Send what is left in a stream, and all that follows, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def plain(value: Any) -> Any:
    """What JSON has no type for as a type that it has: the bytes and maps that a header's unknown keys may hold."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def write_out(data: bytes) -> None:
    """Write all of `data` to stdout; UsageError if it cannot take it.

    A reader that has left has had all that it wanted: the command goes on to its end and its own exit code.
    """
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        let_go(sys.stdout)
    except OSError as error:
        let_go(sys.stdout)
        raise UsageError(f"stdout: cannot be written: {error.strerror or error}", "choose another place") from error


def default_output(names: Iterable[str]) -> Path:
    """dog+hat.cone for the concepts dog and hat, whatever order they came in."""
    stem = "+".join(name.replace(" ", "-") for name in names)
    return Path(f"{cut_bytes(stem, LONGEST_NAME)}.cone")


def save(cone: Cone, path: Path, *, overwrite: bool, json: bool) -> Path:
    """Write `cone` to `path` or stdout; with `json` the path itself is left to the JSON."""
    from conestool import format as cones

    refuse_shared_stdout(path, json)
    if str(path) == STDIO:
        emit_bytes(cones.dumps(cone), "a .cone file")
        return path
    cones.save(cone, path, overwrite=overwrite)
    if not json:
        emit_paths([path])
    if path.suffix != ".cone":
        _output.say(f"note: render looks for names that end in .cone; {path} needs -c")
    return path
