"""Mutants of .cone files against both readers, by the million.

    python -m benchmarks.reliability.fuzz --count 1000000 --processes 2 --out fuzz.json

Every mutant goes to conestool's reader and to the independent one (spec/reference), which must agree on accept or
reject and on what is read; conestool may raise FormatError and its subclasses only, with one printable line, and
VersionError exactly for later versions; what is accepted must survive being written again, to both readers. A mutant
may take 1 s of CPU, and the process 512 MiB of address space beyond what it had before (RLIMIT_AS). Findings are kept
as `fuzz.findings/NUMBER.cone` beside the output.

The output is brought up to date after every chunk; the same command goes on where it stopped. A summary is printed on
stdout; the exit code is 1 if there are findings. `--show` prints the summary of what is done so far. `--count` is
rounded up to whole chunks of 2,000 and may grow from run to run. Mutants are numbered and depend on the seed alone, not
on chunks or processes.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.reliability.tally import State, Tally, code
from tests.hostile.compare_readers import Verdict, judge
from tests.hostile.memory import limit_memory
from tests.hostile.source import Source

CHUNK = 2000
SECONDS = 1.0
HANG = 20.0
"""CPU seconds after which both readers, with the rewriting, are given up."""
ROOM = 512 << 20


class Hang(BaseException):
    """A mutant that takes too long."""


@contextmanager
def clock() -> Iterator[None]:
    """Raise Hang after `HANG` seconds of CPU."""
    signal.setitimer(signal.ITIMER_PROF, HANG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def stop(*_: Any) -> None:
    """The clock has run down."""
    raise Hang


def start() -> None:
    """Prepare a worker: limits, and warnings as errors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, stop)
    warnings.simplefilter("error")
    limit_memory(ROOM)


@functools.lru_cache
def source(seed: str) -> Source:
    """The mutants of a seed."""
    return Source(seed)


def work(seed: str, numbers: range, folder: Path) -> Tally:
    """Judge some mutants."""
    tally, began = Tally(), time.process_time()
    for number in numbers:
        kind, data = source(seed).mutant(number)
        verdict = attempt(data)
        tally.add(number, kind, verdict.rule, verdict.seconds)
        if verdict.fault:
            folder.mkdir(exist_ok=True)
            (folder / f"{number}.cone").write_bytes(data)
            tally.findings.append({"number": number, "kind": kind, "rule": verdict.rule, "fault": verdict.fault})
    tally.peak_rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tally.cpu_seconds = time.process_time() - began
    return tally


def attempt(data: bytes) -> Verdict:
    """The verdict on a mutant, which is also at fault if it takes too long."""
    try:
        with clock():
            verdict = judge(data)
    except Hang:
        return Verdict(-1, HANG, f"no end after {HANG:.0f} s")
    except Exception as error:
        return Verdict(-1, 0.0, f"the independent reader raised {type(error).__name__}: {error}")
    if verdict.seconds > SECONDS and not verdict.fault:
        return Verdict(verdict.rule, verdict.seconds, f"{verdict.seconds:.1f} s")
    return verdict


def run(state: State, out: Path, processes: int) -> None:
    """Do the open chunks, keeping the state after each."""
    folder = out.with_suffix(".findings")
    with ProcessPoolExecutor(processes, initializer=start) as pool:
        jobs = {pool.submit(work, state.seed, state.numbers(chunk), folder): chunk for chunk in state.open()}
        try:
            for job in as_completed(jobs):
                state.tally.merge(job.result())
                state.done.append(jobs[job])
                state.save(out)
                print(f"\r{sum(state.tally.made.values()):,} of {state.count:,}", end="", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            print("\nstopped; the same command goes on", file=sys.stderr)


def summary(state: State) -> str:
    """A campaign in a few lines, and a table of kinds."""
    tally = state.tally
    made = sum(tally.made.values())
    lines = [
        f"{made:,} of {state.count:,} mutants (seed {state.seed}, code {state.code}), "
        f"{sum(tally.accepted.values()):,} accepted, {len(tally.rules) - 1} rules broken",
        f"findings: {len(tally.findings)}",
        f"conestool's reader: {1e3 * tally.reader_seconds / max(1, made):.2f} ms of CPU on average, "
        f"slowest {max((ms for ms, _, _ in tally.slowest), default=0):.0f} ms (limit {1e3 * SECONDS:.0f})",
        f"peak of a process: {tally.peak_rss_mb:.0f} MB resident (limit: {ROOM >> 20} MiB of address space more "
        "than at the start)",
        f"CPU of the campaign: {tally.cpu_seconds / 3600:.2f} h",
        "",
        "| kind | mutants | accepted |",
        "|---|---|---|",
        *(f"| {kind} | {number:,} | {tally.accepted[kind]:,} |" for kind, number in sorted(tally.made.items())),
    ]
    lines += [f"{item['number']} ({item['kind']}): {item['fault']}" for item in tally.findings[:50]]
    return "\n".join(lines)


def resumed(options: argparse.Namespace) -> State:
    """The state in the output file, or a new one."""
    count = -(-options.count // CHUNK) * CHUNK
    if not options.out.exists():
        return State(options.seed, count, CHUNK, code())
    state = State.load(options.out)
    if options.show:
        return state
    if (state.seed, state.code) != (options.seed, code()):
        sys.exit(f"{options.out}: another seed, or other code (then {state.code}, now {code()}); give another --out")
    state.count = max(state.count, count)
    return state


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--show", action="store_true", help="print the summary of what is done so far")
    options = parser.parse_args()
    state = resumed(options)
    if not options.show:
        run(state, options.out, options.processes)
        print(file=sys.stderr)
    try:
        print(summary(state), flush=True)
    except BrokenPipeError:  # a reader such as head has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1 if state.tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
