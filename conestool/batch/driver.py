"""The driver of a batch: what is left to do, who does it, and what is written down of it."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from typing import Any

from conestool.batch.jobs import SUFFIXES, Job, Payload, Result, assign_identifiers, job_key
from conestool.batch.pools import Handle, Pool
from conestool.batch.store import Store
from conestool.batch.worker import Hello
from conestool.errors import ConesError, DeviceError, LostProcessError, OutputExistsError, UsageError

_DONE, _FAILED = "done", "failed"
_MEMORY = "its memory may have run out"


@dataclass
class Outcome:
    """How many jobs were `done` now, `skipped` because they were before, and the reason of each that failed."""

    done: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass
class Batch:
    """Jobs of one `task` whose results go into `store`; `part` (k, n) is every n-th of them.

    `prepare` reads a job's files; its second argument is the identifier. A job whose worker is lost is given to another
    one, `attempts` times in all; `retry` takes up what failed in an earlier run. `progress` is told (done, total, names
    in work), and `record` each line of the ledger.
    """

    task: str
    jobs: Sequence[Job]
    prepare: Callable[[Job, str | None], Payload]
    store: Store
    progress: Callable[[int, int, str], None]
    record: Callable[[Mapping[str, Any]], None]
    attempts: int = 3
    retry: bool = False
    overwrite: bool = False
    part: tuple[int, int] = (1, 1)
    outcome: Outcome = field(init=False, default_factory=Outcome)
    _hello: Hello = field(init=False, default_factory=lambda: Hello({}))
    _names: dict[str, str] = field(init=False, default_factory=dict)
    _running: dict[Future[Any], tuple[Handle, Job | None, str]] = field(init=False, default_factory=dict)
    _lost: Counter[str] = field(init=False, default_factory=Counter)

    def run(self, pool: Pool, workers: int) -> Outcome:
        """Do what is left. OutputExistsError, before any work, for files that were made of something else."""
        started = {number: pool(number) for number in range(workers)}
        idle: list[Handle] = []
        try:
            self._running = {worker.call("hello"): (worker, None, "") for worker in started.values()}
            first = next(iter(wait(self._running, return_when=FIRST_COMPLETED).done))
            self._hear(self._running[first][0], first, None, "")
            queue = _Queue(self._left())
            total = len(queue)
            while len(queue) or self._in_work():
                while idle and (job := queue.take(idle[-1])):
                    self._submit(idle, job)
                self.progress(total - len(queue) - len(self._in_work()), total, ", ".join(self._in_work()))
                for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                    worker, job, key = self._running.pop(future)
                    if self._hear(worker, future, job, key):
                        idle.append(worker)
                        continue
                    if job and self._lost[job.name] < self.attempts:
                        queue.put_back(job)
                    number = next(number for number, each in started.items() if each is worker)
                    started[number] = pool(number)
                    self._running[started[number].call("hello")] = (started[number], None, "")
            self.progress(total, total, "")
        finally:
            for worker in started.values():
                worker.close()
        return self.outcome

    def _in_work(self) -> list[str]:
        """The names of the jobs in work."""
        return [job.name for _, job, _ in self._running.values() if job]

    def _left(self) -> list[Job]:
        """The jobs that the ledger does not have, or not with these files, options and base model."""
        last: dict[str, tuple[float, str, str, str]] = {}
        kept: dict[str, str] = {}
        for each in self.store.records():
            name, at = each["name"], each.get("time", 0.0)
            if at >= last.get(name, (0.0,))[0]:
                last[name] = at, each["state"], each["key"], str(each.get("reason"))
                kept[name] = each.get("identifier", "")
        if self.task == "find":
            self._names = assign_identifiers(self.jobs, self._hello.words, kept)
        left: list[Job] = []
        changed: list[str] = []
        for job in self.jobs[self.part[0] - 1 :: self.part[1]]:
            _, state, key, reason = last.get(job.name, (0.0, "", "", ""))
            same = bool(state) and self._prepared(job)[1] == key
            there = state == _DONE and self.store.read(job.name + SUFFIXES[self.task]) is not None
            if same and there:
                self.outcome.skipped += 1
            elif same and state == _FAILED and not self.retry:
                self.outcome.failed[job.name] = f"{reason} (--retry tries it again)"
            else:
                left.append(job)
                changed += [job.name] if there and not self.overwrite else []
        if changed:
            names = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
            hint = "choose another folder, or replace them with --overwrite"
            raise OutputExistsError(f"{names}: done with other files, options or base model", hint)
        return left

    def _prepared(self, job: Job) -> tuple[Payload | Result, str]:
        """A job as it travels with its key; if its files cannot be read, the reason and no key."""
        try:
            payload = self.prepare(job, self._names.get(job.name))
            return payload, job_key(payload, self._hello.digests)
        except (ConesError, OSError) as error:
            return Result(reason=str(error), hint=getattr(error, "hint", None)), ""

    def _submit(self, idle: list[Handle], job: Job) -> None:
        """Give a job to the last of the idle workers, if its files can be read."""
        payload, key = self._prepared(job)
        if isinstance(payload, Result):
            self._write(job, key, payload)
        else:
            worker = idle.pop()
            self._running[worker.call("do", payload)] = (worker, job, key)

    def _hear(self, worker: Handle, future: Future[Any], job: Job | None, key: str) -> bool:
        """Take note of what a worker says of itself or of a job; False if it is lost."""
        try:
            answer = future.result()
        except LostProcessError as error:
            worker.close()
            name = job.name if job else ""
            self._lost[name] += 1
            if job and self._lost[name] >= self.attempts:
                self._write(
                    job, key, Result(reason=f"its worker was lost {self.attempts} times: {error}", hint=_MEMORY)
                )
            if not job and (not self._hello.digests or self._lost[name] > 2 * self.attempts):
                raise DeviceError(f"a worker ended while it loaded the model: {error}", _MEMORY) from error
            return False
        if job:
            self._write(job, key, answer)
        elif isinstance(answer, Result):
            raise DeviceError(f"a worker cannot load the base model: {answer.reason}", answer.hint)
        elif self._hello.digests not in ({}, answer.digests):
            raise UsageError("the workers have different base models", "give all of them the same files")
        else:
            self._hello = answer
        return True

    def _write(self, job: Job, key: str, result: Result) -> None:
        """Write a result, then its line in the ledger; what cannot be written ends the batch."""
        file = job.name + SUFFIXES[self.task]
        if result.reason is None:
            try:
                self.store.write(file, result.data, self.overwrite)
            except OutputExistsError as error:
                if self.store.read(file) != result.data:  # else a driver was killed before it could say so
                    result = replace(result, reason=str(error), hint=error.hint)
        line: dict[str, Any] = {"name": job.name, "state": _FAILED if result.reason else _DONE, "key": key}
        if result.reason:
            self.outcome.failed[job.name] = result.reason
            line |= {"reason": result.reason, "hint": result.hint}
        else:
            self.outcome.done += 1
            line |= {"file": file, **result.facts}
        if job.name in self._names:
            line["identifier"] = self._names[job.name]
        line |= {"seconds": result.seconds, "time": round(time.time(), 3)}
        self.store.append(line)
        self.record(line)


class _Queue:
    """Jobs that wait, so that a worker gets one of the group it had before, else of a group that nobody is at."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self.groups: dict[str, deque[Job]] = defaultdict(deque)
        self.last: dict[Handle, str] = {}
        self.count = 0
        for job in jobs:
            self.put_back(job)

    def __len__(self) -> int:
        return self.count

    def take(self, worker: Handle) -> Job | None:
        """The next job for that worker, None if there is none."""
        if not self.count:
            return None
        own, taken = self.last.get(worker), set(self.last.values())
        if own not in self.groups:
            own = next((group for group in self.groups if group not in taken), next(iter(self.groups)))
        self.last[worker], job = own, self.groups[own].popleft()
        if not self.groups[own]:
            del self.groups[own]
        self.count -= 1
        return job

    def put_back(self, job: Job) -> None:
        """Add a job, as the last one of its group."""
        self.groups[job.group].append(job)
        self.count += 1
