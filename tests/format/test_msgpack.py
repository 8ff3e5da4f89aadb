"""Canonical msgpack: one encoding for one value."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conestool.errors import FormatError
from conestool.format.msgpack import pack, unpack

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)
MAPS = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), VALUES, max_size=5)


@given(MAPS)
def test_there_and_back(value: dict[str, Any]) -> None:
    """What was packed is unpacked."""
    assert unpack(pack(value)) == value


def test_example() -> None:
    """Sorted keys and shortest forms, by hand."""
    value = {"b": [0, 127, 128, -1, 256], "a": 0.5, "é": b"\1"}
    expected = "83 a1 61 cb 3f e0 00 00 00 00 00 00 a1 62 95 00 7f cc 80 ff cd 01 00 a2 c3 a9 c4 01 01"
    assert pack(value) == bytes.fromhex(expected)


@pytest.mark.parametrize(
    "value",
    [{"x": float("nan")}, {"x": float("-inf")}, {1: 2}, {"x": {3}}, {"x": "\ud800"}, {"x": 2**64}, {"x": object()}],
)
def test_refuses_to_pack(value: Any) -> None:
    """What a header cannot hold is refused on writing."""
    with pytest.raises(ValueError):
        pack(value)


@given(st.binary(max_size=60))
def test_any_bytes_are_canonical_or_an_error(data: bytes) -> None:
    """Whatever is accepted would be written the same."""
    try:
        value = unpack(data)
    except FormatError:
        return
    assert pack(value) == data


def test_deep_nesting_is_no_crash() -> None:
    """A mebibyte of nested arrays is an error like any other."""
    with pytest.raises(FormatError):
        unpack(b"\x81\xa1x" + b"\x91" * 2**20)
