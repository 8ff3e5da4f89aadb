"""Kill commands at random instants: `python -m benchmarks.reliability.torture --kills 200 --seed 0 --out F.json`.

One process imports everything, then forks a child per attempt, which runs the command line on a tiny base model.
Half of the kills fall at a uniformly random instant of the command's duration, half at a random file-system call.
After a kill every output must be absent or as it was before or as an uninterrupted command leaves it, whole; a folder
that was replaced may be absent until the next write. After one to three kills the command runs to its end (a search
that saved itself resumed, more often than not), and must leave the bytes of the uninterrupted command, a readable
cache and no other file, once the first write of the next day has removed the hidden folders.

Then the hardships: full disks, folders that cannot be written, inputs that vanish, clocks that jump, and commands that
write the same output at once. Attempts are kept in the JSON file and not repeated.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability.child import Ended, at_event, count_events, kill_self, start
from benchmarks.reliability.hardship import CASES
from benchmarks.reliability.stage import COMMANDS, ORDER, Command, Content, Place, Stage, open_stage
from conestool._atomic import write_atomic

RESUMED = ("find", "tune")
LINKS = 3
"""The most kills in a row before a command is let through."""


@dataclass(frozen=True)
class Measured:
    """A command that nothing happens to: what it writes, its seconds, its events; and a cache as it leaves it."""

    command: Command
    new: list[Content]
    seconds: float
    events: int
    cache: Path


@dataclass
class Attempt:
    """Kills of one command in a row, and what came of it."""

    command: str
    number: int
    line: str
    old_there: bool
    cache_full: bool
    kills: list[dict[str, Any]] = field(default_factory=list)
    strays: int = 0
    resumed: bool = False
    problems: list[str] = field(default_factory=list)


def measure(stage: Stage, command: Command) -> Measured:
    """Run a command undisturbed."""
    with stage.place() as place:
        events, seconds = count_events(stage, place, command.arguments(stage.inputs))
        new = place.contents(command)
        cache = stage.root / f"cache-{len(list(stage.root.glob('cache-*')))}"
        if place.cache.exists():
            place.cache.rename(cache)
    return Measured(command, new, seconds, events, cache)


def attempt(stage: Stage, name: str, measured: Measured, number: int, rng: random.Random, most: int) -> Attempt:
    """Kill a command one to `most` times in a row, then let it end, checking all that must hold."""
    command = measured.command
    record = Attempt(name, number, command.line, rng.random() < 0.5, rng.random() < 0.3)
    with stage.place(measured.cache if record.cache_full else None) as place:
        if record.old_there:
            place.put_old(command)
        old = place.contents(command)
        resume: list[str] = []
        for _ in range(rng.randint(1, most)):
            kill(stage, place, measured, resume, rng, record, old)
            resume = ["--resume"] if name in RESUMED and rng.random() < 0.7 else []
        record.resumed = bool(resume and list(place.out.glob("*.checkpoint")))
        record.strays = len([stray for stray in place.strays(command) if not stray.endswith(".checkpoint")])
        ended = start(stage, place, command.arguments(stage.inputs, "--overwrite", *resume)).wait()
        record.problems += [*after_end(place, measured, ended)]
    return record


def kill(
    stage: Stage,
    place: Place,
    measured: Measured,
    resume: list[str],
    rng: random.Random,
    record: Attempt,
    old: list[Content],
) -> None:
    """Start the command until a kill hits it before its end, and note what it left."""
    command = measured.command
    arguments = command.arguments(stage.inputs, "--overwrite", *resume)
    for share in (1.0, 1.0, 0.7, 0.4, 0.2, 0.05):
        if rng.random() < 0.5:
            instant: float = rng.uniform(0, measured.seconds * share)
            ended = start(stage, place, arguments).wait(kill_after=instant)
        else:
            instant = rng.randint(1, max(1, int(measured.events * share)))
            ended = start(stage, place, arguments, at_event(place.root, kill_self(int(instant)))).wait()
        if command.folder and not place.contents(command)[0]:
            place.mend()
        three = zip(place.contents(command), old, measured.new, strict=True)
        states = [state(now, before, new) for now, before, new in three]
        record.problems += [f"{command.line}: output {each}" for each in states if each.startswith("bad")]
        record.problems += [f"cache: {path} cannot be read" for path in place.unreadable()]
        if ended.code is None:
            record.kills.append({"instant": instant, "states": states})
            return
        if ended.code != 0:
            record.problems.append(f"exit code {ended.code} after a kill: {ended.said}")
        old[:] = place.contents(command)


def state(now: Content, old: Content, new: Content) -> str:
    """Whether an output is absent, old or new; "bad" with the reason if it is none of these, or lost."""
    if now == new:
        return "new"
    if now == old:
        return "old" if old else "absent"
    return f"bad: {'lost' if not now else f'a mixture: {sorted(now)}'}"


def after_end(place: Place, measured: Measured, ended: Ended) -> Iterator[str]:
    """What is wrong once the command was let through after kills."""
    if ended.code != 0:
        yield f"exit code {ended.code}: {ended.said}"
    if place.contents(measured.command) != measured.new:
        yield "other bytes than without interruption"
    place.next_day()
    yield from (f"left over: {stray}" for stray in place.strays(measured.command))
    yield from (f"cache: {path} cannot be read" for path in place.unreadable())


def summary(attempts: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over the attempts of one command."""
    kills = [kill for each in attempts for kill in each["kills"]]
    states = collections.Counter(one for kill in kills for one in kill["states"])
    return {
        "attempts": len(attempts),
        "kills": len(kills),
        "at an instant": sum(isinstance(kill["instant"], float) for kill in kills),
        "at an event": sum(isinstance(kill["instant"], int) for kill in kills),
        "outputs": dict(states),
        "strays cleaned": sum(each["strays"] for each in attempts if not each["problems"]),
        "resumed to the same bytes": sum(each["resumed"] for each in attempts if not each["problems"]),
        "problems": [f"attempt {each['number']}: {text}" for each in attempts for text in each["problems"]],
    }


def torture(stage: Stage, name: str, kills: int, seed: int, results: dict[str, Any], out: Path) -> None:
    """Attempts on one command until it has been killed often enough."""
    attempts = results["attempts"].setdefault(name, [])
    variants = [measure(stage, command) for command in COMMANDS[name]]
    while (done := sum(len(each["kills"]) for each in attempts)) < kills:
        number = len(attempts)
        rng = random.Random(f"{seed} {name} {number}")
        measured = variants[number % len(variants)]
        attempts.append(asdict(attempt(stage, name, measured, number, rng, min(LINKS, kills - done))))
        if number % 10 == 0:
            save(results, out)
    results["summary"][name] = summary(attempts)
    save(results, out)
    print(json.dumps({name: results["summary"][name]}, indent=1), flush=True)


def suffer(stage: Stage, names: tuple[str, ...], hardships: Sequence[str], results: dict[str, Any], out: Path) -> None:
    """The hardships of these commands that are not in the results yet."""
    for hardship in hardships:
        key = f"{hardship}: {', '.join(names)}"
        if key not in results["hardships"]:
            results["hardships"][key] = CASES[hardship](stage, names)
            save(results, out)
        print(key, json.dumps(results["hardships"][key]), flush=True)


def save(results: dict[str, Any], out: Path) -> None:
    """Write the JSON file."""
    write_atomic(out, json.dumps(results, indent=1).encode(), overwrite=True)


def main() -> int:
    """Run what is missing; exit code 1 if anything did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills per command")
    parser.add_argument("--commands", nargs="*", default=ORDER, choices=ORDER)
    parser.add_argument("--hardships", nargs="*", default=list(CASES), choices=list(CASES), help="none: leave them out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    fresh = {"seed": args.seed, "attempts": {}, "summary": {}, "hardships": {}}
    results = json.loads(args.out.read_text()) if args.out.exists() else fresh
    with open_stage() as stage:
        for name in args.commands:
            torture(stage, name, args.kills, args.seed, results, args.out)
        suffer(stage, tuple(args.commands), args.hardships, results, args.out)
    problems = [each["problems"] for each in (*results["summary"].values(), *results["hardships"].values())]
    return 1 if any(problems) else 0


if __name__ == "__main__":
    sys.exit(main())
