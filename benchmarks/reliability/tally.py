"""What a campaign counts: mutants by kind and rule, the slowest, the largest, and every finding."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conestool._atomic import write_atomic

ROOT = Path(__file__).parents[2]
CODE = (
    "conestool/format",
    "conestool/concept.py",
    "spec/reference",
    "tests/hostile",
    "spec/vectors/valid",
)
"""What decides about the verdict on a mutant."""
SLOWEST = 10


@dataclass
class Tally:
    """Counts of one or more chunks of mutants; `slowest` holds milliseconds of CPU, number and kind."""

    made: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    slowest: list[tuple[float, int, str]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    peak_rss_mb: float = 0.0
    reader_seconds: float = 0.0
    cpu_seconds: float = 0.0

    def add(self, number: int, kind: str, rule: int, seconds: float) -> None:
        """Count a mutant."""
        self.made[kind] += 1
        self.accepted[kind] += not rule
        self.rules[f"R{rule}" if rule else "accepted"] += 1
        self.reader_seconds += seconds
        self.slowest = sorted([*self.slowest, (round(1e3 * seconds, 3), number, kind)], reverse=True)[:SLOWEST]

    def merge(self, other: Tally) -> None:
        """Count what another one counted."""
        for mine, theirs in ((self.made, other.made), (self.accepted, other.accepted), (self.rules, other.rules)):
            mine.update(theirs)
        slowest = [(float(ms), int(number), str(kind)) for ms, number, kind in [*self.slowest, *other.slowest]]
        self.slowest = sorted(slowest, reverse=True)[:SLOWEST]
        self.findings += other.findings
        self.peak_rss_mb = max(self.peak_rss_mb, other.peak_rss_mb)
        self.reader_seconds += other.reader_seconds
        self.cpu_seconds += other.cpu_seconds


@dataclass
class State:
    """A campaign as it is kept in a file: its seed, the code it judges, which chunks are done, and the tally."""

    seed: str
    count: int
    chunk: int
    code: str
    done: list[int] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    @classmethod
    def load(cls, path: Path) -> State:
        """From the file."""
        data = json.loads(path.read_text(encoding="utf-8"))
        tally = {**data.pop("tally")}
        counters: dict[str, Any] = {key: Counter(tally.pop(key)) for key in ("made", "accepted", "rules")}
        return cls(
            **{key: data[key] for key in ("seed", "count", "chunk", "code", "done")}, tally=Tally(**tally, **counters)
        )

    def save(self, path: Path) -> None:
        """To the file, atomically."""
        data = {**vars(self), "mutants": sum(self.tally.made.values()), "tally": vars(self.tally)}
        write_atomic(path, json.dumps(data, indent=1).encode(), overwrite=True)

    def open(self) -> list[int]:
        """The chunks that are still to do."""
        done = set(self.done)
        return [chunk for chunk in range(self.count // self.chunk) if chunk not in done]

    def numbers(self, chunk: int) -> range:
        """The mutants of a chunk."""
        return range(chunk * self.chunk, (chunk + 1) * self.chunk)


def code() -> str:
    """A digest of the readers, the mutations and the files they start from."""
    digest = hashlib.sha256()
    for place in CODE:
        path = ROOT / place
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix in (".py", ".cone"):
                digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
