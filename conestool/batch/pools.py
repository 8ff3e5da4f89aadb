"""Where workers run: in this process, in processes of this machine, or as actors on a Ray cluster.

A worker takes one call at a time and answers with a future, which raises LostProcessError if the worker is lost.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from conestool.batch.worker import Tell, Where, Worker, versions
from conestool.errors import LostProcessError, UsageError, first_line


class _Here:
    """A worker in this process; a call is done when it returns, and Ctrl-C stops the search."""

    def __init__(self, where: Where, tell: Tell) -> None:
        self.worker = Worker(where, tell)

    def call(self, method: str, *arguments: Any) -> Future[Any]:
        """Ask for `Worker.hello()` or `Worker.do(payload)`."""
        done: Future[Any] = Future()
        done.set_result(getattr(self.worker, method)(*arguments))
        return done

    def close(self) -> None:
        """End it at once."""


class _Process(_Here):
    """A worker in a process of its own, which ends with this one."""

    def __init__(self, where: Where) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, where), daemon=True)
        self.process.start()
        other.close()
        self.thread = ThreadPoolExecutor(1)

    def call(self, method: str, *arguments: Any) -> Future[Any]:
        return self.thread.submit(self._ask, method, arguments)

    def _ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        try:
            self.pipe.send((method, arguments))
            return self.pipe.recv()
        except (EOFError, OSError) as error:
            self.process.join(5)
            raise LostProcessError(f"a process ended with exit code {self.process.exitcode}") from error

    def close(self) -> None:
        self.process.kill()
        self.thread.shutdown(cancel_futures=True)


def _serve(pipe: Connection, where: Where) -> None:
    """Answer calls until the other side is gone; Ctrl-C is for the driver alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent: Any = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    worker = Worker(where)
    with contextlib.suppress(EOFError, OSError):
        while True:
            method, arguments = pipe.recv()
            pipe.send(getattr(worker, method)(*arguments))


class _Actor(_Process):
    """A worker on the cluster."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self.ray, self.actor, self.thread = ray, actor, ThreadPoolExecutor(1)

    def _ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        try:
            return self.ray.get(getattr(self.actor, method).remote(*arguments))
        except (self.ray.exceptions.RayError, ConnectionError) as error:
            raise LostProcessError(first_line(error)) from error

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.ray.kill(self.actor)
        self.thread.shutdown(wait=False, cancel_futures=True)


Handle = _Here
Pool = Callable[[int], Handle]
"""Starts the worker of that number."""


@contextmanager
def open_pool(where: Where, jobs: int | None, ray: str | None, tell: Tell) -> Iterator[tuple[Pool, int]]:
    """How to start workers, and how many: one here, `jobs` processes, or on Ray as many as there are GPUs or nodes."""
    if ray is not None:
        with _ray_pool(where, jobs, ray) as found:
            yield found
    elif jobs and jobs > 1:
        threads = None if "OMP_NUM_THREADS" in os.environ else max(1, (os.cpu_count() or 1) // jobs)
        yield lambda number: _Process(replace(where, threads=threads, number=number)), jobs
    else:
        yield lambda number: _Here(where, tell), 1


@contextmanager
def _ray_pool(where: Where, jobs: int | None, address: str) -> Iterator[tuple[Pool, int]]:
    """Actors on the cluster at `address`; UsageError if it cannot be reached or its nodes have other versions."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    start = "start it first: ray start --head"
    host, colon, port = address.rpartition(":")
    try:
        import ray  # the extra conestool[ray]

        if colon and port.isdecimal():  # Ray itself would try for long
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except ImportError as error:
        raise UsageError("--ray: Ray is not installed", "pip install 'conestool[ray]'") from error
    except Exception as error:
        hint = "install the versions of the cluster" if "ersion" in str(error) else start
        raise UsageError(f"--ray {address}: {getattr(error, 'strerror', None) or first_line(error)}", hint) from error
    try:
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        if not nodes:
            raise UsageError(f"--ray {address}: no node has a CPU", "add one: ray start --address ...")
        _check_versions(ray, nodes)
        cards, threads = int(ray.cluster_resources().get("GPU", 0)), int(os.environ.get("OMP_NUM_THREADS", "1"))
        wanted: dict[str, Any] = {"num_gpus": 1} if cards else {"num_cpus": threads}
        actor: Any = ray.remote(**wanted)(Worker)
        there = where if cards else replace(where, threads=threads)
        yield lambda number: _Actor(ray, actor.remote(there)), jobs or cards or len(nodes)
    finally:
        ray.shutdown()


def _check_versions(ray: Any, nodes: list[str]) -> None:
    """Refuse nodes whose conestool is another than the driver's, or is not there."""

    def installed() -> dict[str, str]:
        try:
            from conestool.batch.worker import versions
        except ImportError as error:
            return {"conestool": f"none ({error})"}
        return versions()

    ask, pinned = ray.remote(num_cpus=0)(installed), ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    found = ray.get([ask.options(scheduling_strategy=pinned(node, soft=False)).remote() for node in nodes])
    for node, there in zip(nodes, found, strict=True):
        wrong = [f"{name} {there.get(name, 'none')}" for name, own in versions().items() if there.get(name) != own]
        if wrong:
            own = ", ".join(f"{name} {version}" for name, version in versions().items())
            raise UsageError(f"Ray node {node[:8]} has {', '.join(wrong)}", f"install {own} there, as here")
