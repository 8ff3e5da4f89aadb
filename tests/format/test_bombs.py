"""Small files that ask for much are refused for little; benchmarks/reliability/bombs.py measures the largest."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from conestool.errors import FormatError
from conestool.format import loads
from conestool.format.maps import HeaderMap
from tests.independent.forging import parts

VECTORS = Path(__file__).parents[2] / "spec/vectors"
MIB = 2**20


@pytest.mark.parametrize(
    ("file", "most"), [("bitmap-flood", 160 * MIB), ("grid-flat", 4 * MIB), ("bomb", 4 * MIB), ("coded-many", 4 * MIB)]
)
def test_a_bomb_is_refused_before_it_is_unfolded(file: str, most: int) -> None:
    """What is allocated stays below what the file would take: 4 GiB, 4 GiB, 64 MiB and 512 MiB."""
    data = (VECTORS / f"invalid/{file}.cone").read_bytes()
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            loads(data)
        assert tracemalloc.get_traced_memory()[1] < most
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
