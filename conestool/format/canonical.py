"""The one msgpack encoding of a header: keys sorted, no duplicates, shortest forms, no ext types, no NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgpack

from conestool.errors import FormatError
from conestool.format.limits import DEPTH

__all__ = ["pack", "unpack"]


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
        if not math.isfinite(value):
            raise ValueError("a number is not finite")
        return float(value)
    if value is None or isinstance(value, bool | int | str | bytes):
        return value
    raise ValueError(f"a value of type {type(value).__name__}")


def unpack(data: bytes) -> dict[str, Any]:
    """The map that `data` encodes; FormatError unless `data` is exactly what `pack` would write."""
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, object_pairs_hook=pairs, ext_hook=refuse)
        again = pack(value)
    except FormatError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise FormatError(f"not valid msgpack ({str(error) or type(error).__name__})") from error
    if not isinstance(value, dict):
        raise FormatError("not a map")
    if again != data:
        raise FormatError("msgpack is not canonical (keys in order, shortest forms)")
    return value


def pairs(items: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A map, refused if a key occurs twice."""
    out = dict(items)
    if len(out) != len(items):
        raise FormatError("a key occurs twice in a map")
    return out


def refuse(code: int, data: bytes) -> Any:
    """No ext types."""
    raise FormatError(f"ext type {code}")
