"""A small `cones find` on an idle and on a busy machine, with threads that sleep while they wait, and that spin.

`python -m benchmarks.speed.busy --rounds 5` prints seconds and how many times faster the former is: medians over
rounds, in each of which one follows the other, in turns. Give it a machine with no other work. `cones` lets threads
sleep (OMP_WAIT_POLICY=PASSIVE) unless the variable is set; the OpenMP of PyTorch's Linux wheels takes a value that is
empty for its own default.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.fidelity.tables import table

PHOTOS = Path(__file__).parents[2] / "examples" / "rex"
POLICIES = {"sleep": "PASSIVE", "spin": ""}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row for each number of other jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[0, 1, 8], help="other jobs that compute all the time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args(arguments)
    print(f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}, {given.steps} steps, {given.rounds} rounds\n")
    head, rows = ["other jobs", *(f"{name}, s" for name in POLICIES), "times faster"], []
    with tempfile.TemporaryDirectory() as folder:
        search(Path(folder), "PASSIVE", 1)  # hashes the base model and reads the files once
        for count in given.jobs:
            with jobs(count):
                rounds = [one_round(Path(folder), given.steps, number) for number in range(given.rounds)]
            medians = [f"{statistics.median(each[name] for each in rounds):.3g}" for name in POLICIES]
            faster = statistics.median(each["spin"] / each["sleep"] for each in rounds)
            rows.append([str(count), *medians, f"{faster:.2f}"])
    print(table(head, rows))


def one_round(folder: Path, steps: int, number: int) -> dict[str, float]:
    """Seconds by policy; the first one is another each round."""
    order = list(POLICIES)[:: -1 if number % 2 else 1]
    return {name: search(folder, POLICIES[name], steps) for name in order}


def search(folder: Path, policy: str, steps: int) -> float:
    """Seconds of a whole command, whose class images are given."""
    words: tuple[str, ...] = ("find", str(PHOTOS), "--class-images", str(PHOTOS), "--captions", "none")
    words += ("--prior-loss-weight", "0", "--unbound-weight", "0", "--other-class-weight", "0")
    command = [sys.executable, "-m", "conestool", *words, "--steps", str(steps), "--model", "pocket"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_"))}
    env = {**kept, "OMP_WAIT_POLICY": policy, "CONES_CACHE": str(folder / "cache")}
    begun = time.perf_counter()
    done = subprocess.run(
        [*command, "--overwrite", "-o", "dog.cone"], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    took = time.perf_counter() - begun
    print(f"{policy or 'default'}: {took:.1f} s", file=sys.stderr, flush=True)
    return took


@contextmanager
def jobs(count: int) -> Iterator[None]:
    """So many other processes that compute all the time."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for job in started:
            job.kill()
            job.wait()


if __name__ == "__main__":
    main()
