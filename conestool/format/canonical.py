"""The one msgpack encoding of a header: keys sorted, no duplicates, shortest forms, no ext types, no NaN."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import msgpack

from conestool.errors import FormatError
from conestool.format.limits import DEPTH

__all__ = ["pack", "unpack"]

TYPES = {type(None), bool, int, float, str, bytes, list, dict}
"""What a header may hold; the decoder makes one more of its own accord, a timestamp."""


def pack(value: Any) -> bytes:
    """Canonical msgpack of nil, bool, int, float, str, bytes, lists and maps; ValueError for anything else."""
    data: bytes = msgpack.packb(ordered(value), use_bin_type=True, strict_types=True)
    return data


def ordered(value: Any, depth: int = DEPTH) -> Any:
    """`value` with sorted keys; ValueError for what a header cannot hold."""
    if depth < 0:
        raise ValueError(f"arrays and maps nested deeper than {DEPTH}")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key is not a string")
        return {key: ordered(value[key], depth - 1) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [ordered(item, depth - 1) for item in value]
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError("a number is not finite")
        return float(value)
    if value is None or isinstance(value, bool | int | str | bytes):
        return value
    raise ValueError(f"a value of type {type(value).__name__}")


def unpack(data: bytes) -> dict[str, Any]:
    """The map that `data` encodes; FormatError unless `data` is exactly what `pack` would write."""
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, object_pairs_hook=pairs, ext_hook=refuse)
        check(value)
        again = msgpack.packb(value, use_bin_type=True)
    except FormatError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise FormatError(f"not valid msgpack ({str(error) or type(error).__name__})") from error
    if not isinstance(value, dict):
        raise FormatError("not a map")
    if again != data:
        raise FormatError("msgpack is not canonical (shortest forms)")
    return value


def pairs(items: list[tuple[Any, Any]]) -> dict[str, Any]:
    """A map, refused unless its keys are in strictly rising order."""
    out = dict(items)
    if len(items) < 2:
        return out
    if len(out) != len(items):
        raise FormatError("a key occurs twice in a map")
    if list(out) != sorted(out):
        raise FormatError("msgpack is not canonical (keys in order)")
    return out


def check(value: Any) -> None:
    """Refuse deep nesting, keys that are no strings, timestamps and numbers that are not finite.

    Level by level, since a header has room for a million values.
    """
    level = [value]
    for _ in range(DEPTH):
        keys = [key for place in level if type(place) is dict for key in place]
        if not {str}.issuperset(map(type, keys)):
            raise FormatError("not valid msgpack (a key is not a string)")
        inner = [item for place in level for item in (place.values() if type(place) is dict else place)]
        if not TYPES.issuperset(map(type, inner)):
            raise FormatError("not valid msgpack (a timestamp, which is an ext type)")
        if not all(isfinite(item) for item in inner if type(item) is float):
            raise FormatError("a number is not finite")
        level = [item for item in inner if type(item) in (dict, list)]
    if any(level):
        raise FormatError(f"not valid msgpack (arrays and maps nested deeper than {DEPTH})")


def refuse(code: int, data: bytes) -> Any:
    """No ext types."""
    raise FormatError(f"ext type {code}")
