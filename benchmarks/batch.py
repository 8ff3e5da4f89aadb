"""What `cones batch` saves and costs: `python -m benchmarks.batch growth | amortisation [--ray ADDRESS]`.

`growth` measures the driver alone, with workers that answer at once. `amortisation` finds subjects of several class
nouns one by one, each with an empty cache and with a filled one, and then all in one batch; subjects are three of the
five photos of an example each. Times are CPU seconds of all processes, since the machine may do other work, and ratios
are within one run.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from conestool.batch.driver import Batch
from conestool.batch.jobs import Job, Payload, Result, parse_options, payload_of
from conestool.batch.store import open_store
from conestool.batch.worker import Hello, versions
from conestool.search.config import DEFAULT_RESOURCES, SearchConfig

EXAMPLES = Path(__file__).parents[1] / "examples"
NOUNS = {"rex": "dog", "cat": "cat", "car": "car", "hat": "hat"}


class Instant:
    """A worker that answers at once with a file of the size of a concept of pocket."""

    def call(self, method: str, *arguments: Any) -> Future[Any]:
        """A Hello or a Result."""
        done: Future[Any] = Future()
        words = ("sks", "zwx", "qyx", "vlk", "brz", "fnj", "gvt", "hjq")
        facts = {"losses": {"held_out_before": 0.5, "held_out_after": 0.4, "random_after": 0.5}, "warnings": []}
        hello, result = Hello(versions(), {"f32": "00"}, words), Result(data=bytes(4400), facts=facts)
        done.set_result(hello if method == "hello" else result)
        return done

    def close(self) -> None:
        """Nothing."""


def growth(counts: Sequence[int]) -> None:
    """Seconds and bytes of the driver for so many subjects of three photos, and of a second run that skips all.

    The first of all runs is not told: it loads modules and makes Python's table of names as large as it gets.
    """
    print("subjects      first run      a subject    second run    memory    a thousand")
    photos = tuple(str(EXAMPLES / "rex" / f"{number}.jpg") for number in range(1, 4))
    for told, count in enumerate((max(counts), *counts)):
        with tempfile.TemporaryDirectory() as folder:
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            jobs = [Job(f"dog-{n:05}", photos, (), {"class_noun": "dog"}, "dog") for n in range(count)]
            seconds = []
            for _ in range(2):
                began = time.process_time()
                work = Batch("find", jobs, prepared, open_store(folder, ""), lambda *_: None, lambda _: None)
                outcome = work.run(lambda number: Instant(), 2)  # type: ignore[arg-type,return-value]
                seconds.append(time.process_time() - began)
            assert (outcome.skipped, outcome.done) == (count, 0)
            gc.collect()
            held = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
        first, second = seconds
        if not told:
            continue
        print(
            f"{count:8,}  {first:11.2f} s  {1000 * first / count:9.2f} ms  {second:10.2f} s"
            f"  {held / 1e6:5.2f} MB  {held / count / 1000:9.2f} MB"
        )


def prepared(job: Job, identifier: str | None) -> Payload:
    """What the command line gives the driver."""
    options = parse_options("find", {**job.options, "identifier": identifier}, SearchConfig())
    return payload_of(job, "find", options, DEFAULT_RESOURCES)


def amortisation(count: int, singles: int, ray: str | None, options: Sequence[str]) -> None:
    """CPU seconds a subject, alone and in a batch."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = list(itertools.islice(make_subjects(folder / "subjects"), count))
        cold = warm = 0.0
        for subject in names[:singles]:
            words = ["find", str(folder / "subjects" / subject), "-o", f"{subject}.cone", "--no-sheet", "--overwrite"]
            words += ["--class-noun", subject.split("-")[0], "--name", subject, *options]
            cache = folder / f"cache-{subject}"
            cold += cones(words, folder, cache)
            warm += cones(words, folder, cache)
        workers = ["--ray", ray] if ray else []
        batch = cones(["batch", "subjects", "-o", "out", *workers, *options], folder, folder / "cache")
        lines = [json.loads(line) for line in (folder / "out" / "ledger.jsonl").read_text().splitlines()]
    assert len(lines) == count
    print(f"{count} subjects of {len({name.split('-')[0] for name in names})} class nouns, options {' '.join(options)}")
    print(f"alone, empty cache   {cold / singles:8.1f} s a subject ({singles} subjects)")
    print(f"alone, filled cache  {warm / singles:8.1f} s a subject ({singles} subjects)")
    if not ray:  # a cluster's workers are no children of this process
        print(f"in the batch         {batch / count:8.1f} s a subject")
        alone = [batch / count / (each / singles) for each in (cold, warm)]
        print(f"ratio                {alone[0]:8.2f} of those with an empty cache, {alone[1]:.2f} with a filled one")
    first = {line["class_noun"]: line["seconds"] for line in reversed(lines)}
    later = sum(line["seconds"] for line in lines) - sum(first.values())
    print(f"first of its noun    {sum(first.values()) / len(first):8.1f} s of wall time")
    print(f"later ones           {later / (count - len(first)):8.1f} s of wall time")


def make_subjects(folder: Path) -> Any:
    """Folders of three of the five photos, in turn of each example; yields their names."""
    for number, chosen in enumerate(itertools.combinations(range(1, 6), 3)):
        for example, noun in NOUNS.items():
            place = folder / f"{noun}-{number}"
            place.mkdir(parents=True)
            for photo in chosen:
                shutil.copy(EXAMPLES / example / f"{photo}.jpg", place)
            yield place.name


def cones(words: Sequence[str], folder: Path, cache: Path) -> float:
    """CPU seconds of a command line and all its processes."""
    env = {**os.environ, "CONES_CACHE": str(cache), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "conestool", *words, "-q"], cwd=folder, env=env, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("growth", "amortisation"))
    parser.add_argument("--subjects", type=int, nargs="+", default=[24])
    parser.add_argument("--singles", type=int, default=4)
    parser.add_argument("--ray")
    given, options = parser.parse_known_args()
    if given.what == "growth":
        growth(given.subjects)
    else:
        amortisation(given.subjects[0], given.singles, given.ray, options)


if __name__ == "__main__":
    main()
