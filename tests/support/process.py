"""The command line in a forked child: streams, terminals and closed pipes of a real process without its start."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.ImageFont
import rich.console
import rich.text

from conestool import ops
from conestool.cli import _format, _plot

LOADED = (PIL.ImageFont, rich.console, rich.text, ops, _format, _plot, _format)
"""What commands import when they run: loaded before the fork, children need not load it again and again."""

SECONDS = 60.0


@dataclass(frozen=True)
class Ended:
    """How a child ended: exit code (128 + number for a signal) and what it wrote."""

    code: int
    out: bytes
    err: bytes


def cones(
    *arguments: str | Path,
    cwd: Path,
    stdin: bytes | int | None = b"",
    stdout: int | None = -1,
    stderr: int | None = -1,
    encoding: str = "utf-8",
    **env: str,
) -> Ended:
    """Run `cones` in a child; a stream is bytes to give or a descriptor, -1 to be collected, None to be closed."""
    outputs = {1: io.BytesIO(), 2: io.BytesIO()}
    pipes: dict[int, tuple[int, int]] = {}
    given: dict[int, int | None] = {}
    for number, stream in ((1, stdout), (2, stderr)):
        if stream == -1:
            pipes[number] = os.pipe()
            given[number] = pipes[number][1]
        else:
            given[number] = stream
    if isinstance(stdin, bytes):
        pipes[0] = os.pipe()
        given[0] = pipes[0][0]
    else:
        given[0] = stdin
    child = fork([str(each) for each in arguments], cwd, given, encoding, env, [fd for p in pipes.values() for fd in p])
    for number, (reader, writer) in pipes.items():
        os.close(reader if number == 0 else writer)
    feed = (pipes[0][1], stdin) if isinstance(stdin, bytes) else None
    exchange(feed, {pipes[number][0]: outputs[number] for number in (1, 2) if number in pipes})
    return Ended(wait(child), outputs[1].getvalue(), outputs[2].getvalue())


def on_terminal(*arguments: str | Path, cwd: Path, columns: int = 80, encoding: str = "utf-8", **env: str) -> Ended:
    """Run `cones` with all three streams on one pseudo-terminal of so many columns; `out` has what it got."""
    import fcntl
    import pty
    import termios

    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    attributes = termios.tcgetattr(side)
    attributes[1] &= ~termios.OPOST  # what the program wrote, byte for byte
    termios.tcsetattr(side, termios.TCSANOW, attributes)
    env = {"TERM": "xterm", **env}
    child = fork([str(each) for each in arguments], cwd, dict.fromkeys((0, 1, 2), side), encoding, env, [main])
    os.close(side)
    seen = io.BytesIO()
    exchange(None, {main: seen})
    return Ended(wait(child), seen.getvalue(), b"")


def fork(
    arguments: list[str],
    cwd: Path,
    streams: dict[int, int | None],
    encoding: str,
    env: dict[str, str],
    spare: list[int],
) -> int:
    """The process id of a child that runs the command line on these streams."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        signal.alarm(int(SECONDS))
        settle(streams, spare)
        os.chdir(cwd)
        for name in ("NO_COLOR", "COLUMNS", "TERM"):
            os.environ.pop(name, None)
        os.environ.update(env)
        code = body(arguments, streams, encoding)
    finally:
        os._exit(code)


def settle(streams: dict[int, int | None], spare: list[int]) -> None:
    """Put the streams where a process has them."""
    copies = {number: None if stream is None else os.dup(stream) for number, stream in streams.items()}
    for descriptor in spare:
        os.close(descriptor)
    for number, copy in copies.items():
        if copy is None:
            with contextlib.suppress(OSError):
                os.close(number)
        else:
            os.dup2(copy, number)
            os.close(copy)


def body(arguments: list[str], streams: dict[int, int | None], encoding: str) -> int:
    """Make Python's streams anew, run the command line and return its exit code."""
    from conestool.cli.main import main

    def text(number: int, mode: str, errors: str) -> Any:
        if streams[number] is None:
            return None
        raw: Any = os.fdopen(number, mode, closefd=False)
        return io.TextIOWrapper(raw, encoding, errors, line_buffering=number == 2)

    sys.stdin = text(0, "rb", "surrogateescape")
    sys.stdout = text(1, "wb", "strict")
    sys.stderr = text(2, "wb", "backslashreplace")
    sys.argv = ["cones", *arguments]
    try:
        main()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0


def exchange(feed: tuple[int, bytes] | None, sinks: dict[int, io.BytesIO]) -> None:
    """Write stdin and read the outputs until all are closed, neither waiting for the other."""
    end = time.monotonic() + SECONDS
    writers = {feed[0]: feed[1]} if feed else {}
    readers = dict(sinks)
    while (readers or writers) and time.monotonic() < end:
        ready, able, _ = select.select(list(readers), list(writers), [], 1)
        for descriptor in ready:
            close_if(not collect(descriptor, readers[descriptor]), descriptor, readers.pop)
        for descriptor in able:
            writers[descriptor] = push(descriptor, writers[descriptor])
            close_if(not writers[descriptor], descriptor, writers.pop)
    for descriptor in (*readers, *writers):
        os.close(descriptor)


def close_if(done: bool, descriptor: int, forget: Callable[[int], object]) -> None:
    """Close a descriptor that is done with."""
    if done:
        forget(descriptor)
        os.close(descriptor)


def collect(descriptor: int, sink: io.BytesIO) -> bool:
    """Take what is there; False at the end."""
    try:
        return bool(sink.write(os.read(descriptor, 1 << 16)))
    except OSError:  # how a pseudo-terminal ends
        return False


def push(descriptor: int, data: bytes) -> bytes:
    """What is left after writing some of `data`; nothing if nobody reads any more."""
    try:
        return data[os.write(descriptor, data[: select.PIPE_BUF]) :]
    except BrokenPipeError:
        return b""


def wait(child: int) -> int:
    """The child's exit code."""
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
