"""`cones batch --ray` on a real cluster of three nodes on this machine, two of which have a CPU."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.batch.conftest import NAMES, QUICK
from tests.support.command_line import COMMAND, ROOT, Cones, environment

pytest.importorskip("ray", reason="needs conestool[ray]: pip install -c constraints.txt -e '.[dev]'")
pytestmark = pytest.mark.skipif(
    os.environ.get("CONES_TEST_RAY") != "1", reason="starts three Ray nodes, which takes minutes: CONES_TEST_RAY=1"
)

WAIT = 250.0


@dataclass
class Cluster:
    """A Ray cluster whose nodes are processes of ours."""

    folder: Path
    cache: Path
    port: int = 0
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Where a driver finds it."""
        return f"127.0.0.1:{self.port}"

    def env(self, **more: str) -> dict[str, str]:
        """The environment of nodes and drivers."""
        own = {"PYTHONPATH": str(ROOT), "CONES_CACHE": str(self.cache), "RAY_USAGE_STATS_ENABLED": "0"}
        own["RAY_raylet_start_wait_time_s"] = str(int(WAIT))  # a busy machine starts it slowly
        return environment(**(own | more))

    def add(self, *arguments: str, **more: str) -> None:
        """Start a node and wait until it is there."""
        log = self.folder / f"node-{len(self.nodes)}.log"
        words = [
            "start",
            *arguments,
            "--object-store-memory",
            "80000000",
            "--disable-usage-stats",
            "--include-log-monitor=false",
            "--block",
        ]
        with log.open("wb") as out:
            command = [sys.executable, "-m", "ray.scripts.scripts", *words]
            node = subprocess.Popen(command, env=self.env(**more), stdout=out, stderr=out, start_new_session=True)
        self.nodes.append(node)
        end = time.monotonic() + WAIT
        while b"Ray runtime started" not in log.read_bytes():
            assert node.poll() is None and time.monotonic() < end, log.read_text(errors="replace")
            time.sleep(0.1)

    def kill(self, number: int) -> None:
        """End a node and all that runs on it, as when a machine is switched off."""
        os.killpg(self.nodes[number].pid, signal.SIGKILL)
        self.nodes[number].wait()

    def start(self, out: Path, *words: str | Path, **more: str) -> subprocess.Popen[str]:
        """A driver of the subjects `words`."""
        command = [*COMMAND, "batch", *map(str, words), "-o", str(out), "--ray", self.address, *QUICK]
        return subprocess.Popen(command, env=self.env(**more), stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head without CPUs and two nodes with one each."""
    made = Cluster(Path(tmp_path_factory.mktemp("r")), tmp_path_factory.mktemp("cache"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        made.port = free.getsockname()[1]
    sockets = Path(f"/tmp/cones-ray-{os.getpid()}")  # noqa: S108  (paths of sockets must be short)
    try:
        head = ("--head", "--num-cpus", "0", "--port", str(made.port), "--include-dashboard=false")
        made.add(*head, "--temp-dir", str(sockets))
        for _ in range(2):
            made.add("--address", made.address, "--num-cpus", "1")
        yield made
    finally:
        for number in reversed(range(len(made.nodes))):
            if made.nodes[number].poll() is None:
                made.kill(number)
        shutil.rmtree(sockets, ignore_errors=True)


def files(folder: Path) -> dict[str, bytes]:
    """The concepts in a folder."""
    return {path.stem: path.read_bytes() for path in folder.glob("*.cone")}


def wait_for(driver: subprocess.Popen[str], folder: Path) -> None:
    """Until there is a first file."""
    end = time.monotonic() + WAIT
    while not files(folder):
        assert driver.poll() is None and time.monotonic() < end, driver.communicate()
        time.sleep(0.02)


@pytest.mark.timeout(600)
def test_a_driver_and_a_node_may_die(
    cluster: Cluster, found: dict[str, bytes], subjects: Path, epsilon_folder: Path, tmp_path: Path
) -> None:
    """The next driver does what is left, also while one of two nodes is lost; the files are those of one process."""
    out, model = tmp_path / "out", {"CONES_MODEL": str(epsilon_folder)}
    first = cluster.start(out, subjects, **model)
    wait_for(first, out)
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    done = set(files(out))
    assert done < set(NAMES)
    (out / f"{sorted(done)[0]}.cone").unlink()  # so that there is more than one left to do
    second = cluster.start(out, subjects, **model)
    end = time.monotonic() + WAIT
    while len(files(out)) < len(done) and time.monotonic() < end:
        time.sleep(0.02)
    cluster.kill(2)
    said = second.communicate(timeout=WAIT)[1]
    assert second.returncode == 0, said
    assert files(out) == found


@pytest.mark.timeout(600)
def test_nodes_of_other_versions_are_refused(cluster: Cluster, subjects: Path, tmp_path: Path) -> None:
    """Before work begins, with what to install; a lost address too."""
    other = tmp_path / "other"
    (other / "conestool" / "batch").mkdir(parents=True)
    (other / "conestool" / "__init__.py").write_text("")
    (other / "conestool" / "batch" / "__init__.py").write_text("")
    (other / "conestool" / "batch" / "worker.py").write_text(
        "versions = lambda: {'conestool': '0.0.9', 'python': '3.8'}"
    )
    cluster.add("--address", cluster.address, "--num-cpus", "1", PYTHONPATH=str(other))
    driver = cluster.start(tmp_path / "out", subjects)
    said = driver.communicate(timeout=2 * WAIT)[1]
    assert driver.returncode == 2 and "has conestool 0.0.9, python 3.8" in said and "install conestool 0.1.0" in said
    assert files(tmp_path / "out") == {}


def test_an_address_without_a_cluster_is_refused(subjects: Path, cones: Cones) -> None:
    """At once, with what to do."""
    done = cones("batch", subjects, "-o", "out", "--ray", "127.0.0.1:1", *QUICK)
    assert done.code == 2 and "--ray 127.0.0.1:1: Connection refused" in done.err and "ray start --head" in done.err
