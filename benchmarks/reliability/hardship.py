"""What else may befall a command: full disks, closed folders, vanished inputs, jumping clocks and company.

Every case returns what was tried, `how` it was done on this machine, and the `problems` that it found, if any.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from benchmarks.reliability.child import LONGEST, Ended, at_event, count_events, start
from benchmarks.reliability.stage import COMMANDS, OLD, ORDER, Command, Content, Place, Stage

YEAR = 365 * 24 * 3600.0
FREE = (0, 4, 12, 32, 64)
"""KiB that are left on the disk."""

Result = dict[str, Any]
Case = Callable[[Stage, tuple[str, ...]], Result]


def variants(names: tuple[str, ...] = ORDER) -> list[Command]:
    """Every variant of the named commands."""
    return [command for name in names for command in COMMANDS[name]]


def full_disk(stage: Stage, names: tuple[str, ...] = ORDER, free: tuple[int, ...] = FREE) -> Result:
    """Each command with an old output on a disk with little space left, then once more with enough of it."""
    problems: list[str] = []
    how, tried = "", 0
    for command, kib in itertools.product(variants(names), free):
        tried += 1
        with stage.place() as place:
            place.put_old(command)
            old = place.contents(command)
            with small_disk(place, kib) as (how, prepare):
                ended = start(stage, place, command.arguments(stage.inputs, "--overwrite"), prepare).wait()
                problems += refused(command, place, ended, old, f"{kib} KiB free")
                make_room(place)
                ended = start(stage, place, command.arguments(stage.inputs, "--overwrite")).wait()
                problems += completed(command, place, ended, "after it had space again")
    return {"tried": tried, "how": how, "problems": problems}


@contextlib.contextmanager
def small_disk(place: Place, kib: int) -> Iterator[tuple[str, Callable[[], None] | None]]:
    """Let the output folder be a file system with `kib` KiB left, or else let no file grow longer than that."""
    if not mounted(place.out, "-t", "tmpfs", "-o", "size=64m", "tmpfs"):
        yield "RLIMIT_FSIZE", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (kib << 10, kib << 10))
        return
    try:
        shutil.copytree(place.root / "kept", place.out, dirs_exist_ok=True)
        used = int(subprocess.check_output(["du", "-sk", place.out]).split()[0])
        subprocess.run(["mount", "-o", f"remount,size={used + kib + 4}k", place.out], check=True)
        yield "tmpfs", None
    finally:
        subprocess.run(["umount", "-l", place.out], check=True)


def make_room(place: Place) -> None:
    """Give a small disk enough space."""
    if place.out.is_mount():
        subprocess.run(["mount", "-o", "remount,size=64m", place.out], check=True)


def mounted(folder: Path, *options: str) -> bool:
    """Mount something over `folder`, what was in it kept in `kept` beside it; whether that is permitted."""
    shutil.copytree(folder, folder.parent / "kept", dirs_exist_ok=True)
    try:
        return subprocess.run(["mount", *options, folder], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def full_streams(stage: Stage, names: tuple[str, ...] = ORDER) -> Result:
    """A stdout that is full is an error in one line; a stderr that is full stops nothing. `merge` stands for all."""
    line = COMMANDS["merge"][0]
    problems: list[str] = []
    if "merge" not in names:
        return {"tried": 0, "how": "not with these commands", "problems": problems}
    with stage.place() as place:
        words = [word if word != "both.cone" else "-" for word in line.arguments(stage.inputs)]
        ended = start(stage, place, words, lambda: fill(1)).wait()
        if ended.code != 2 or "stdout: cannot be written: No space left" not in ended.said:
            problems.append(f"full stdout: exit code {ended.code}: {ended.said}")
        ended = start(stage, place, line.arguments(stage.inputs), lambda: fill(2)).wait()
        problems += completed(line, place, ended, "full stderr")
    return {"tried": 2, "how": "/dev/full", "problems": problems}


def fill(stream: int) -> None:
    """Let a stream of this process be a full device."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), stream)


def read_only(stage: Stage, names: tuple[str, ...] = ORDER) -> Result:
    """Each command where its folder may be read alone; then where the cache may not be written, which stops nothing."""
    problems: list[str] = []
    for command in variants(names):
        with stage.place() as place:
            place.put_old(command)
            old = place.contents(command)
            with closed(place.out):
                ended = obey(stage, place, command.arguments(stage.inputs, "--overwrite"))
            problems += refused(command, place, ended, old, "read-only folder")
            problems += [f"{command.line}: wrote into a closed folder"] * (ended.code == 0)
        with stage.place() as place:
            for folder in (place.cache, place.hub):
                folder.mkdir()
            with closed(place.cache):
                ended = obey(stage, place, command.arguments(stage.inputs))
            problems += completed(command, place, ended, "read-only cache")
    how = "as root without capabilities" if os.geteuid() == 0 else "as this user"
    return {"tried": 2 * len(variants(names)), "how": how, "problems": problems}


@contextlib.contextmanager
def closed(folder: Path) -> Iterator[None]:
    """Let a folder and everything in it be read-only."""
    inside = [folder, *folder.rglob("*")]
    for path in inside:
        path.chmod(0o555)
    try:
        yield
    finally:
        for path in inside:
            path.chmod(0o755)


def obey(stage: Stage, place: Place, arguments: Sequence[str]) -> Ended:
    """Run a command line in a process for which permissions hold: if this is root, without its capabilities.

    Another user would not do, who might not reach Python's own modules. The Hub is the stage's stand-in.
    """
    less = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"] if os.geteuid() == 0 else []
    variables = {"CONES_CACHE": place.cache, "CONES_MODEL": stage.model, "HF_HUB_CACHE": place.hub, "HF_HUB_OFFLINE": 0}
    variables |= {"HF_ENDPOINT": constants.ENDPOINT, "HF_TOKEN_PATH": place.hub / "no-token", "HF_HUB_DISABLE_XET": 1}
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    began = time.monotonic()
    done = subprocess.run(
        [*less, sys.executable, "-m", "conestool", *arguments],
        cwd=place.out,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LONGEST,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(errors="replace"), time.monotonic() - began)


def vanished(stage: Stage, names: tuple[str, ...] = ORDER, times: int = 12, seed: int = 0) -> Result:
    """Inputs, or the folder of the output, deleted at random events: an error in one line, or the whole output."""
    problems, codes = [], []
    for command, number in itertools.product(variants(names), range(times)):
        rng = random.Random(f"{seed} {command.line} {number}")
        with stage.place() as place:
            inputs = shutil.copytree(stage.inputs, place.root / "inputs")
            arguments = command.arguments(inputs)
            if number == 0:
                new, events = undisturbed(stage, command)
            victim = rng.choice([*sorted(inputs.iterdir()), place.out])
            robbed = rob(place, inputs, victim, rng.randint(1, events))
            ended = start(stage, place, arguments, robbed).wait()
            codes.append(ended.code)
            states = place.contents(command)
            whole = all(not state or state == one for state, one in zip(states, new, strict=True))
            if not whole or ended.code not in (0, 2, 3, 4, 7) or "Traceback" in ended.said:
                problems.append(f"{command.line}, {victim.name} deleted: exit code {ended.code}, {ended.said}")
            if place.out.exists():
                problems += robbed_leaves(stage, place, command, inputs, ended, new)
    counts = {str(code): codes.count(code) for code in sorted(set(codes), key=str)}
    return {"tried": len(codes), "how": "deleted at random events", "exit codes": counts, "problems": problems}


def robbed_leaves(
    stage: Stage, place: Place, command: Command, inputs: Path, ended: Ended, new: list[Content]
) -> Iterator[str]:
    """What is wrong with what a robbed command left: nothing may stay but the saved search of one that failed.

    That must be of use: with the inputs back, `--resume` ends as the undisturbed command does, and takes it away.
    """
    strays = place.strays(command)
    if ended.code and strays and all(stray.endswith(".checkpoint") for stray in strays):
        shutil.copytree(stage.inputs, inputs, dirs_exist_ok=True)
        again = start(stage, place, command.arguments(inputs, "--overwrite", "--resume"), use_model(inputs)).wait()
        yield from completed(command, place, again, "resumed after its inputs came back")
        if place.contents(command) != new:
            yield f"{command.line}: resumed after its inputs came back, it wrote something else"
    else:
        yield from (f"left over: {stray}" for stray in strays)


def undisturbed(stage: Stage, command: Command) -> tuple[list[dict[str, str]], int]:
    """What a command writes, and its events, inputs included."""
    with stage.place() as place:
        inputs = shutil.copytree(stage.inputs, place.root / "inputs")
        events, _ = count_events(stage, place, command.arguments(inputs))
        return place.contents(command), events


def rob(place: Place, inputs: Path, victim: Path, number: int) -> Callable[[], None]:
    """A `prepare` after which the base model among `inputs` is used, and `victim` deleted at event `number`."""

    def prepare() -> None:
        use_model(inputs)()
        at_event(place.root, delete(victim, number))()

    return prepare


def use_model(inputs: Path) -> Callable[[], None]:
    """A `prepare` after which the base model among `inputs` is used."""
    return lambda: os.environ.update(CONES_MODEL=str(inputs / "model"))


def delete(victim: Path, number: int) -> Callable[[int], None]:
    """An act that deletes a file or folder at event `number`."""

    def act(count: int) -> None:
        if count == number:
            shutil.rmtree(victim) if victim.is_dir() else victim.unlink()

    return act


def clock_jumps(stage: Stage, names: tuple[str, ...] = ORDER) -> Result:
    """Each command while the clock jumps by years at every look, beside a cache and strays from other times."""
    problems: list[str] = []
    for command in variants(names):
        with stage.place() as place:
            plain = start(stage, place, command.arguments(stage.inputs)).wait()
            new = place.contents(command)
            for path in place.cache.rglob("*"):
                os.utime(path, (4e9, 4e9))
            ended = start(stage, place, command.arguments(stage.inputs, "--overwrite"), unsettle_clock).wait()
            problems += completed(command, place, ended, "jumping clock")
            if plain.code or place.contents(command) != new:
                problems.append(f"{command.line}: other bytes under a jumping clock")
    return {"tried": len(variants(names)), "how": "time.time and time.time_ns replaced", "problems": problems}


def unsettle_clock() -> None:
    """Let the wall clock of this process jump back and far ahead."""
    jumps = itertools.cycle((0.0, -30 * YEAR, 60 * YEAR, -YEAR, 3600.0))
    real = time.time
    time.time = lambda: max(0.0, real() + next(jumps))
    time.time_ns = lambda: int(time.time() * 1e9)


def company(stage: Stage, names: tuple[str, ...] = ORDER, size: int = 4) -> Result:
    """Processes that write other content to one output, with one empty cache: each output is whole, from one of them.

    With --overwrite all succeed; without, an output that is there already is never replaced.
    """
    problems: list[str] = []
    for command, overwrite in itertools.product(variants(names), (True, False)):
        lines = [command, command.twin]
        whole = [written_by(stage, line) for line in lines]
        with stage.place() as place:
            more = ["--overwrite"] if overwrite else []
            words = [lines[number % 2].arguments(stage.inputs, *more) for number in range(size)]
            ends = [child.wait() for child in [start(stage, place, each) for each in words]]
            codes = sorted(99 if ended.code is None else ended.code for ended in ends)
            expected = [0] * size if overwrite else [0, *[2] * (size - 1)]
            if codes != expected and (overwrite or len(command.outputs) == 1):
                problems.append(f"{command.line} {more}: exit codes {codes}: {[ended.said for ended in ends]}")
            for now, *possible in zip(place.contents(command), *whole, strict=True):
                problems += [] if now in possible else [f"{command.line}: a mixture: {now}"]
            problems += [f"{command.line}, in company: left over: {stray}" for stray in place.strays(command)]
            problems += [f"{command.line}, in company: cache: {path} cannot be read" for path in place.unreadable()]
    return {"tried": 2 * len(variants(names)), "how": f"{size} processes", "problems": problems}


def written_by(stage: Stage, command: Command) -> list[Content]:
    """What a command writes when it is alone."""
    with stage.place() as place:
        start(stage, place, command.arguments(stage.inputs)).wait()
        return place.contents(command)


def refused(command: Command, place: Place, ended: Ended, old: list[dict[str, str]], when: str) -> Iterator[str]:
    """What is wrong with a command that could not write: it says so, and the old output is untouched, or it is done."""
    if ended.code == 0:
        yield from completed(command, place, ended, when)
        return
    now = place.contents(command)
    if ended.code != 2 or ("cannot be written" not in ended.said and "not writable" not in ended.said):
        yield f"{command.line}, {when}: exit code {ended.code}: {ended.said}"
    if any(one != before and len(now) == 1 for one, before in zip(now, old, strict=True)):
        yield f"{command.line}, {when}: the old output is gone"
    yield from (f"{command.line}, {when}: left over: {stray}" for stray in place.strays(command))


def completed(command: Command, place: Place, ended: Ended, when: str) -> Iterator[str]:
    """What is wrong with a command that should have worked."""
    if ended.code != 0:
        yield f"{command.line}, {when}: exit code {ended.code}: {ended.said}"
    if not all(place.contents(command)) or any(holds_old(place.out / name) for name in command.outputs):
        yield f"{command.line}, {when}: no new output"
    yield from (f"{command.line}, {when}: left over: {stray}" for stray in place.strays(command))
    yield from (f"{command.line}, {when}: cache: {path} cannot be read" for path in place.unreadable())


def holds_old(path: Path) -> bool:
    """Whether an output is still what was there before."""
    files = path.rglob("*") if path.is_dir() else (path,)
    return any(file.is_file() and file.read_bytes() == OLD for file in files)


CASES: dict[str, Case] = {
    "full disk": full_disk,
    "full streams": full_streams,
    "read-only folders": read_only,
    "vanished inputs": vanished,
    "clock jumps": clock_jumps,
    "company": company,
}
