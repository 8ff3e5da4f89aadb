"""`cones batch` on a Ray cluster of this machine: `python -m benchmarks.cluster --subjects 24 --steps 4`.

Finds the subjects of `benchmarks.batch` with pocket in one process, in two processes that know nothing of each other
(`--part`), on one and two of Ray's nodes with one CPU each, and on two nodes of which one is killed after a third of
the files. Every process has one thread and every run begins with an empty cache. Efficiency is the time of as many
processes by that on Ray; other work on the cores spoils it. The files of all runs have to be equal.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.batch import make_subjects

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "RAY_USAGE_STATS_ENABLED": "0"}


class Study:
    """A folder of subjects, and what finds them."""

    def __init__(self, folder: Path, count: int, options: Sequence[str]) -> None:
        self.folder, self.options = folder, options
        self.names = list(itertools.islice(make_subjects(folder / "subjects"), count))

    def cache(self, name: str) -> Path:
        """An empty cache of that name."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return self.folder / name

    def start(self, run: str, *words: str, cache: Path | None = None) -> subprocess.Popen[bytes]:
        """A driver that writes to the folder of a run."""
        env = {**os.environ, **ENVIRONMENT, **({"CONES_CACHE": str(cache)} if cache else {})}
        command = [sys.executable, "-m", "conestool", "batch", "subjects", "-o", run, *words, *self.options, "-q"]
        return subprocess.Popen(command, cwd=self.folder, env=env)

    def files(self, run: str) -> dict[str, bytes]:
        """The concepts of a run."""
        return {path.stem: path.read_bytes() for path in (self.folder / run).glob("*.cone")}

    def processes(self, count: int) -> float:
        """Seconds of so many processes at once, each with its part."""
        run, began = f"processes-{count}", time.monotonic()
        drivers = [self.start(run, "--part", f"{n + 1}/{count}", cache=self.cache(f"cache-{n}")) for n in range(count)]
        wait(*drivers)
        return time.monotonic() - began

    def on_ray(self, run: str, nodes: int, *, kill: bool = False) -> float:
        """Seconds on so many nodes of Ray, the last of which may be killed after a third of the files."""
        from ray.cluster_utils import Cluster

        os.environ |= {**ENVIRONMENT, "CONES_CACHE": str(self.cache("cache-ray"))}
        options: Mapping[str, Any] = {"object_store_memory": 80_000_000}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **options})
        added = [cluster.add_node(num_cpus=1, **options) for _ in range(nodes)]
        cluster.wait_for_nodes()
        began = time.monotonic()
        driver = self.start(run, "--ray", cluster.address)
        while kill and len(self.files(run)) < len(self.names) / 3 and driver.poll() is None:
            time.sleep(0.1)
        if kill:
            cluster.remove_node(added[-1], allow_graceful=False)
        wait(driver)
        seconds = time.monotonic() - began
        cluster.shutdown()
        return seconds


def wait(*drivers: subprocess.Popen[bytes]) -> None:
    """Until all have ended well."""
    codes = [driver.wait() for driver in drivers]
    if any(codes):
        raise SystemExit("a driver failed")


def main() -> None:
    """Run all, and compare times and files; what is not known here goes to `cones batch`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=24)
    given, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        study = Study(Path(name), given.subjects, options)
        print(f"{given.subjects} subjects, options {' '.join(options)}; seconds", flush=True)
        alone = {count: study.processes(count) for count in (1, 2)}
        for count, seconds in alone.items():
            print(f"{count} processes           {seconds:8.1f}", flush=True)
        for count, seconds in alone.items():
            there = study.on_ray(f"ray-{count}", count)
            print(f"{count} nodes of Ray        {there:8.1f}    efficiency {seconds / there:.2f}", flush=True)
        print(f"2 nodes, one killed   {study.on_ray('killed', 2, kill=True):8.1f}", flush=True)
        wanted = study.files("processes-1")
        assert set(wanted) == set(study.names)
        runs = ("processes-2", "ray-1", "ray-2", "killed")
        differ = [run for run in runs if study.files(run) != wanted]
        print(f"files unlike those of one process: {', '.join(differ) or 'none'} of {len(runs)} runs")
        if differ:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
