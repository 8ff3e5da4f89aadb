"""The command line in a forked process that is killed, or robbed of something, at a chosen instant."""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import torch

from benchmarks.reliability.stage import Place, Stage
from conestool.cli.main import main

Act = Callable[[int], None]
"""What is called with the number of each event."""
LONGEST = 600.0
"""Seconds after which a command hangs, whatever else the machine has to do."""
WORKED = 120
"""Seconds of work after which it hangs."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, or None if it was killed, what it said, and the seconds it took."""

    code: int | None
    said: str
    seconds: float


@dataclass(frozen=True)
class Child:
    """A running command; its streams go into the file `log`."""

    pid: int
    log: Path
    began: float

    def wait(self, kill_after: float | None = None) -> Ended:
        """Wait for its end, and kill it after so many seconds."""
        handle = os.pidfd_open(self.pid)
        try:
            ready, _, _ = select.select([handle], [], [], LONGEST if kill_after is None else kill_after)
            if not ready:
                os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
        finally:
            os.close(handle)
        code = os.waitstatus_to_exitcode(status)
        return Ended(code if code >= 0 else None, self.log.read_text(errors="replace"), time.monotonic() - self.began)


def start(stage: Stage, place: Place, arguments: Sequence[str], prepare: Callable[[], None] | None = None) -> Child:
    """Run a command line in a fork of this process; `prepare` is called there first."""
    log = stage.root / f"{place.root.name}-{time.monotonic_ns()}.log"
    log.touch()  # a kill may come before the fork opens it
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = play(stage, place, arguments, log, prepare)
        finally:
            os._exit(code)
    return Child(pid, log, began)


def play(stage: Stage, place: Place, arguments: Sequence[str], log: Path, prepare: Callable[[], None] | None) -> int:
    """What the fork does: streams, environment, then the entry point of the command line; returns its exit code."""
    redirect(log)
    resource.setrlimit(resource.RLIMIT_CPU, (WORKED, WORKED))
    os.environ.update(CONES_CACHE=str(place.cache), CONES_MODEL=str(stage.model), HF_HUB_OFFLINE="1")
    huggingface_hub.constants.HF_HUB_CACHE = str(place.hub)
    os.chdir(place.out)
    torch.set_num_threads(1)
    sys.argv = ["cones", *arguments]
    if prepare:
        prepare()
    try:
        main()
    except SystemExit as error:
        return int(error.code or 0)
    return 99


def redirect(log: Path) -> None:
    """Let stdin be empty and both outputs go into `log`."""
    files = [os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)]
    for handle, target in ((files[0], 0), (files[1], 1), (files[1], 2)):
        os.dup2(handle, target)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, closefd=False)  # noqa: SIM115
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )


def at_event(folder: Path, act: Act) -> Callable[[], None]:
    """A `prepare` that calls `act` before every file-system call on something in `folder`, numbered from 1.

    Those are the events that Python's audit hooks tell of: opening, renaming, linking, removing, listing and so on.
    """
    prefix, count, busy = str(folder), 0, False

    def note() -> None:
        nonlocal count, busy
        if busy:
            return
        count += 1
        busy = True
        act(count)
        busy = False

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if event.startswith(("os.", "shutil.", "tempfile.")) or event == "open":
            path = values[0] if values else None
            if isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(prefix):  # noqa: PTH100
                note()

    return lambda: sys.addaudithook(hook)


def kill_self(number: int) -> Act:
    """An act that kills the process at event `number`."""

    def act(count: int) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def count_events(stage: Stage, place: Place, arguments: Sequence[str]) -> tuple[int, float]:
    """How many events a command has in `place`, and the seconds it takes, when nothing happens to it."""
    tally = stage.root / f"{place.root.name}.count"
    handle = os.open(tally, os.O_RDWR | os.O_CREAT)
    try:
        ended = start(stage, place, arguments, at_event(place.root, lambda count: note_count(handle, count))).wait()
        if ended.code != 0:
            raise RuntimeError(f"{arguments} failed: {ended.said}")
        return int(os.pread(handle, 20, 0)), ended.seconds
    finally:
        os.close(handle)


def note_count(handle: int, count: int) -> None:
    """Leave the count where the parent process finds it."""
    os.pwrite(handle, b"%d" % count, 0)
