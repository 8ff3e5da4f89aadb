"""Reading takes memory and time in proportion to what a file may hold; see also benchmarks/reliability/bombs.py."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from conestool.errors import FormatError
from conestool.format import loads
from conestool.format.schema import HeaderMap
from tests.support.forging import join, pack, parts

VECTORS = Path(__file__).parents[2] / "spec/vectors"
MIB = 2**20


def peak(path: Path) -> tuple[float, int]:
    """CPU time, in that of ten million additions, and bytes of memory that reading a file takes in its own process.

    The least of five times and of four, in turn: other work only ever adds to them.
    """
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    times, size = done.stdout.split()
    return float(times), int(size)


SCRIPT = """
import sys, time, resource
from pathlib import Path
import numpy, zstandard
from conestool.errors import FormatError
from conestool.format import load
vectors = Path("spec/vectors/valid/smallest.cone")
load(vectors)
def most():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start
def read():
    try:
        load(sys.argv[1])
    except FormatError:
        pass
before = most()
reading, adding = [seconds(read)], []
size = most() - before
for _ in range(4):
    adding.append(seconds(lambda: sum(range(10_000_000))))
    reading.append(seconds(read))
print(min(reading) / min(adding), size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_as_many_indices_as_may_be_take_little_more_than_themselves() -> None:
    """256 MiB are the indices of this file of 622 bytes, and 64 MiB its quotients."""
    _, size = peak(VECTORS / "valid/limit-indices.cone")
    assert 256 * MIB < size < 0.6 * 1024 * MIB


def with_header(value: Any) -> bytes:
    """The smallest file with one unknown key more."""
    data = (VECTORS / "valid/smallest.cone").read_bytes()
    header, sections = parts(data)
    return join({**header, "x": value}, sections, data)


@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("item", "most"), [({}, 1.5), ([], 2), ({"a": None}, 2), ([[[[]]]], 4), (0.5, 0.5)])
def test_a_header_of_a_mebibyte_opens_at_once(item: Any, most: float, tmp_path: Path) -> None:
    """Whatever it is full of; ten million additions take a fifth of a second where these limits were 0.1 to 0.8 s."""
    path = tmp_path / "full.cone"
    path.write_bytes(with_header([item] * ((MIB - 2000) // len(pack(item)))))
    times, size = peak(path)
    assert times < most
    assert size < 256 * MIB


@pytest.mark.parametrize("file", ["frame-bomb", "neurons-many", "neurons-split", "rows-many"])
def test_a_bomb_is_refused_before_it_is_unfolded(file: str) -> None:
    """What is allocated stays below what the file would take."""
    data = (VECTORS / f"invalid/{file}.cone").read_bytes()
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            loads(data)
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "place",
    [("bases",), ("concepts",), ("critical",)]
    + [("bases", 0, "tensors")]
    + [("concepts", 0, key) for key in ("tensors", "sections")],
)
def test_a_list_of_faults_is_left_at_the_first(place: tuple[Any, ...]) -> None:
    """A thousand wrong items give one report, since a million would take seconds and gigabytes."""
    header, _ = parts((VECTORS / "valid/two-bases.cone").read_bytes())
    *way, key = place
    at: Any = header
    for step in way:
        at = at[step]
    at[key] = [None] * 1000
    with pytest.raises(ValidationError) as caught:
        HeaderMap.model_validate(header)
    assert caught.value.error_count() == 1
