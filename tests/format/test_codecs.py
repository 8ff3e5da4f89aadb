"""The three codecs: the worked examples of the specification, and every set there and back."""

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
from conestool.format import bitmap, gaps, grid
from conestool.format.entries import BITMAP, GAPS, GRID, Entry, check, grid_allowed
from conestool.format.indices import decode, encode, frame, unframe

sys.path.insert(0, str(Path(__file__).parents[2] / "spec" / "vectors"))
import reference

sys.path.pop(0)


def array(values: Any) -> Indices:
    """Positions as the package holds them."""
    return np.array(values, dtype=np.int64)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[list[int], Indices]:
    """A shape and a non-empty index set inside it, of any density and clustering."""
    shape = draw(st.lists(st.integers(1, 40), min_size=0, max_size=3))
    n = prod(shape)
    if draw(st.booleans()):
        chosen = draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=min(n, 60)))
        return shape, array(sorted(chosen))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    p = rng.random(n) ** draw(st.sampled_from([0.2, 1, 8, 30])) * draw(st.sampled_from([0.01, 0.3, 1.0]))
    chosen = np.flatnonzero(rng.random(n) < p)
    return shape, chosen if len(chosen) else array([n - 1])


def test_bitmap_example() -> None:
    """The example of the specification."""
    coded = bitmap.encode(array([0, 3, 4, 11]), 13)
    assert coded.tobytes() == bytes.fromhex("98 10")
    assert bitmap.decode(coded, 13, 4).tolist() == [0, 3, 4, 11]


def test_gaps_example() -> None:
    """The first example of the specification."""
    raw, coded = gaps.encode(array([5, 6, 900]), 1000)
    assert (raw.tobytes(), coded.tobytes()) == (bytes.fromhex("A0 00 A0 20"), bytes.fromhex("00 00 37"))
    assert gaps.decode(raw, coded, 1000, 3).tolist() == [5, 6, 900]


def test_gaps_example_with_long_quotients() -> None:
    """The second example: quotients of 255 and 510."""
    values = [*range(38), 293, 804]
    raw, coded = gaps.encode(array(values), 1000)
    assert (raw.tobytes(), coded.tobytes()) == (b"", bytes(38) + bytes.fromhex("FF 00 FF FF 00"))
    assert gaps.decode(raw, coded, 1000, 40).tolist() == values


def test_grid_example() -> None:
    """The example of the specification."""
    values = array([1, 8, 9, 10, 13, 25, 26, 28])
    sides = grid.Grid(np.array([0, 1, 0, 1], np.uint8), np.array([0] * 6 + [1, 1], np.uint8), 2, 2, (4, 8))
    raw, coded = grid.encode(values, [4, 8], sides)
    assert raw.tobytes() == bytes.fromhex("02 02 01 00 07 00 9E 5A")
    assert coded.tobytes() == bytes.fromhex("00 01 00 01 00 00 00 00 00 00 01 01")
    assert grid.decode(raw, coded, [4, 8], 8).tolist() == values.tolist()


def test_rice_parameter_is_the_best_for_geometric_gaps() -> None:
    """No other parameter codes the expected gaps in 1 % fewer bits."""
    for density in (0.001, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7):
        q = 1 - density
        bits = [m + 1 / (1 - q ** (2**m)) for m in range(20)]
        count = round(density * 1_000_000)
        chosen = int(grid.rice(array([1_000_000]), array([count]))[0])
        assert bits[chosen] < min(bits) * 1.01


@given(tensors())
def test_any_set_there_and_back(case: tuple[list[int], Indices]) -> None:
    """The codec that is chosen gives the set back, and its entry passes the check of the header."""
    shape, values = case
    pieces = encode(values, shape)
    entry = Entry(0, pieces.codec, len(values), len(pieces.raw), len(pieces.coded))
    check(entry, shape)
    assert np.array_equal(decode(entry, pieces.raw, pieces.coded, shape), values)


@given(tensors())
def test_gaps_are_those_of_the_slow_writer(case: tuple[list[int], Indices]) -> None:
    """Codec 1 writes the bytes that the bit-by-bit reference writes."""
    shape, values = case
    raw, coded = gaps.encode(values, prod(shape))
    assert (raw.tobytes(), coded.tobytes()) == reference.gaps(values.tolist(), prod(shape))
    entry = Entry(0, GAPS, len(values), len(raw), len(coded))
    check(entry, shape)
    assert np.array_equal(decode(entry, raw, coded, shape), values)


@given(tensors(), st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_grid_is_that_of_the_slow_writer(case: tuple[list[int], Indices], a: int, b: int, random: Any) -> None:
    """Codec 2 with any classes writes the bytes that the bit-by-bit reference writes, and reads them."""
    shape, values = case
    if not grid_allowed(shape, len(values)):
        return
    height, breadth = shape[0], prod(shape[1:])
    rows = [random.randrange(a) for _ in range(height)]
    columns = [random.randrange(b) for _ in range(breadth)]
    classes = np.array(rows, np.uint8), np.array(columns, np.uint8)
    sides = grid.Grid(*classes, max(rows) + 1, max(columns) + 1, (height, breadth))
    raw, coded = grid.encode(values, shape, sides)
    assert (raw.tobytes(), coded.tobytes()) == reference.grid(values.tolist(), shape, rows, columns)
    assert np.array_equal(grid.decode(raw, coded, shape, len(values)), values)


@given(tensors())
def test_bitmap_is_that_of_the_slow_writer(case: tuple[list[int], Indices]) -> None:
    """Codec 0 writes the bytes that the bit-by-bit reference writes."""
    shape, values = case
    coded = bitmap.encode(values, prod(shape))
    assert coded.tobytes() == reference.bitmap(values.tolist(), prod(shape))[1]
    assert np.array_equal(bitmap.decode(coded, prod(shape), len(values)), values)


@given(st.integers(0, 2), st.integers(1, 50), st.binary(max_size=40), st.binary(max_size=60))
def test_any_bytes_are_a_set_or_an_error(codec: int, k: int, raw: bytes, coded: bytes) -> None:
    """A decoder gives a sorted set of k positions inside the tensor, or FormatError."""
    shape = [6, 9]
    entry = Entry(0, codec, k, len(raw), len(coded))
    try:
        check(entry, shape)
        values = decode(entry, np.frombuffer(raw, np.uint8), np.frombuffer(coded, np.uint8), shape)
    except FormatError:
        return
    assert len(values) == k
    assert values[0] >= 0 and values[-1] < 54
    assert all(x < y for x, y in pairwise(values.tolist()))


def test_far_apart() -> None:
    """Two weights of a tensor of 2**30."""
    shape, values = [32768, 32768], array([0, 2**30 - 1])
    pieces = encode(values, shape)
    entry = Entry(0, pieces.codec, 2, len(pieces.raw), len(pieces.coded))
    assert decode(entry, pieces.raw, pieces.coded, shape).tolist() == [0, 2**30 - 1]


@pytest.mark.parametrize("density", [0.001, 0.01, 0.05, 0.1])
def test_uniform_sets_are_within_five_percent_of_the_bound(density: float) -> None:
    """Requirement 3 of the format, on a quarter of the widths of Stable Diffusion 1.5."""
    rng = np.random.default_rng(0)
    shapes = [[width, inputs] for width in (320, 640, 1280) for inputs in (width, 768)] * 2
    coded, size, bound = b"", 0, 0.0
    for shape in shapes:
        n = prod(shape)
        k = round(density * n)
        pieces = encode(np.sort(rng.choice(n, k, replace=False)), shape)
        coded, size = coded + pieces.coded.tobytes(), size + len(pieces.raw)
        bound += (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2) / 8
    assert 0.99 < (size + len(frame(coded))) / bound < 1.05


def test_clustered_sets_take_less() -> None:
    """Where rows and columns differ in density, the grid codec is chosen and beats the uniform bound."""
    rng = np.random.default_rng(0)
    shape, n = [640, 768], 640 * 768
    density = np.outer(rng.lognormal(size=640), rng.lognormal(size=768))
    values = np.flatnonzero(rng.random(shape) < np.minimum(0.95, density * 0.02))
    pieces = encode(values, shape)
    k = len(values)
    bound = (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2) / 8
    assert pieces.codec == GRID
    assert len(pieces.raw) + len(frame(pieces.coded.tobytes())) < 0.9 * bound


def test_dense_sets_take_the_bitmap() -> None:
    """Most weights, or all."""
    rng = np.random.default_rng(0)
    assert encode(np.flatnonzero(rng.random(5000) < 0.9), [5000]).codec == BITMAP
    assert encode(np.arange(100_000), [100_000]).codec == BITMAP


def test_frame_refuses_another_size() -> None:
    """The declared size decides, before anything is decompressed."""
    with pytest.raises(FormatError, match="zstd frame of 67108864 bytes, expected 8"):
        unframe(frame(bytes(2**26)), 8)
