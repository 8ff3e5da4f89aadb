"""Index sets: the worked examples of the specification, and every set there and back."""

from __future__ import annotations

import sys
from itertools import pairwise
from math import lgamma, log, prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conestool.concept import Indices
from conestool.errors import FormatError
from conestool.format import gaps
from conestool.format.limits import Row, check_row, raw_length

sys.path.insert(0, str(Path(__file__).parents[2] / "spec" / "vectors"))
import reference  # type: ignore[import-not-found]

sys.path.pop(0)


def array(values: Any) -> Indices:
    """Positions as the package holds them."""
    return np.array(values, dtype=np.int32)


@st.composite
def sets(draw: st.DrawFn) -> tuple[int, Indices]:
    """The size of a tensor and a non-empty index set inside it, of any density and clustering."""
    n = draw(st.integers(1, 4000) | st.integers(2**31 - 100, 2**31 - 1))
    if n > 4000 or draw(st.booleans()):
        chosen = draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=min(n, 60)))
        return n, array(sorted(chosen))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    p = rng.random(n) ** draw(st.sampled_from([0.2, 1, 8, 30])) * draw(st.sampled_from([0.01, 0.3, 1.0]))
    found = np.flatnonzero(rng.random(n) < p)
    return n, array(found if len(found) else [n - 1])


@pytest.mark.parametrize(
    ("values", "raw", "coded"),
    [
        ([5, 6, 900], "A0 00 A0 20", "00 00 37"),
        ([*range(38), 293, 804], "", "00" * 38 + "FF 00 FF FF 00"),
    ],
)
def test_examples(values: list[int], raw: str, coded: str) -> None:
    """Those of the specification, in a tensor of 1,000 weights."""
    pieces = gaps.encode(array(values), 1000)
    assert [piece.tobytes() for piece in pieces] == [bytes.fromhex(raw), bytes.fromhex(coded)]
    assert gaps.decode(*pieces, 1000, len(values)).tolist() == values


@given(sets(), st.sampled_from([1, 7, 8, 64, 2**18]))
def test_any_set_there_and_back(case: tuple[int, Indices], portion: int) -> None:
    """As the bit-by-bit reference writes it, whatever is unpacked at once; and its row passes the header's check."""
    n, values = case
    raw, coded = gaps.encode(values, n)
    assert (raw.tobytes(), coded.tobytes()) == reference.gaps(values.tolist(), n)
    check_row(Row(0, len(values), len(coded)), n)
    assert len(raw) == raw_length(n, len(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gaps, "_PORTION", portion)
        found = gaps.decode(raw, coded, n, len(values))
    assert found.dtype == np.int32 and np.array_equal(found, values)


@given(st.integers(1, 50), st.data())
def test_any_bytes_are_a_set_or_an_error(k: int, data: st.DataObject) -> None:
    """A decoder gives a sorted set of k positions inside the tensor, or FormatError."""
    n = data.draw(st.sampled_from([54, 1000, 2**31 - 1]))
    raw = data.draw(st.binary(min_size=raw_length(n, k), max_size=raw_length(n, k)))
    coded = data.draw(st.binary(min_size=k, max_size=k + 9))
    try:
        check_row(Row(0, k, len(coded)), n)
        values = gaps.decode(np.frombuffer(raw, np.uint8), np.frombuffer(coded, np.uint8), n, k).tolist()
    except FormatError:
        return
    assert len(values) == k and values[0] >= 0 and values[-1] < n
    assert all(x < y for x, y in pairwise(values))


@pytest.mark.parametrize("density", [0.001, 0.01, 0.05, 0.1])
def test_uniform_sets_are_within_five_percent_of_the_bound(density: float) -> None:
    """On a quarter of the widths of Stable Diffusion 1.5; a dense set takes less than a bit a weight."""
    rng = np.random.default_rng(0)
    shapes = [[width, inputs] for width in (320, 640, 1280) for inputs in (width, 768)] * 2
    coded, size, bound = b"", 0, 0.0
    for shape in shapes:
        n = prod(shape)
        k = round(density * n)
        planes, quotients = gaps.encode(array(np.sort(rng.choice(n, k, replace=False))), n)
        coded, size = coded + quotients.tobytes(), size + len(planes)
        bound += (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2) / 8
    assert 0.99 < (size + len(gaps.compress(coded))) / bound < 1.05
    most, every = (gaps.encode(array(np.flatnonzero(rng.random(100_000) < p)), 100_000)[1] for p in (0.9, 1.0))
    assert len(gaps.compress(most.tobytes())) < 100_000 / 8 and len(gaps.compress(every.tobytes())) < 100
