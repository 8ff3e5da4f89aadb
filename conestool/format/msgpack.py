"""The one msgpack encoding of a header: keys sorted, no duplicates, shortest forms, no ext types, no NaN."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any

import msgpack

from conestool.errors import FormatError
from conestool.format.limits import MAX_DEPTH

_TYPES = {type(None), bool, int, float, str, bytes, list, dict}
"""What a header may hold; the decoder makes one more of its own accord, a timestamp."""


def pack(value: Any) -> bytes:
    """Canonical msgpack of nil, bool, int, float, str, bytes, lists and maps; ValueError for anything else."""
    data: bytes = msgpack.packb(_ordered(value), use_bin_type=True, strict_types=True)
    return data


def _ordered(value: Any, depth: int = MAX_DEPTH) -> Any:
    """`value` with sorted keys; ValueError for what a header cannot hold."""
    if depth < 0:
        raise ValueError(f"arrays and maps nested deeper than {MAX_DEPTH}")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key is not a string")
        return {key: _ordered(value[key], depth - 1) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_ordered(item, depth - 1) for item in value]
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError("a number is not finite")
        return float(value)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise ValueError("a whole number of more than 64 bits")
    if value is None or isinstance(value, bool | int | str | bytes):
        return value
    raise ValueError(f"a value of type {type(value).__name__}")


def unpack(data: bytes | memoryview) -> dict[str, Any]:
    """The map that `data` encodes; FormatError unless `data` is exactly what `pack` would write.

    A header has room for a million values, so they are looked at level by level, and none is given to Python alone.
    """
    try:
        with _no_collection():
            value = msgpack.unpackb(data, raw=False, strict_map_key=True, ext_hook=_refuse_ext)
            _check(value)
        again = msgpack.packb(value, use_bin_type=True)
        if again != data:
            msgpack.unpackb(data, raw=False, object_pairs_hook=_refuse_twice)
            raise FormatError("msgpack is not canonical (shortest forms)")
    except FormatError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise FormatError(f"not valid msgpack ({str(error) or type(error).__name__})") from error
    if not isinstance(value, dict):
        raise FormatError("not a map")
    return value


@contextmanager
def _no_collection() -> Iterator[None]:
    """Within it Python looks for no garbage: a million new lists would make it look again and again, and find none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check(value: Any) -> None:
    """Refuse deep nesting, keys that are no strings or out of order, timestamps and numbers that are not finite."""
    level = [value]
    for _ in range(MAX_DEPTH):
        maps = [place for place in level if type(place) is dict]
        if not {str}.issuperset({type(key) for place in maps for key in place}):
            raise FormatError("not valid msgpack (a key is not a string)")
        if any(len(place) > 1 and list(place) != sorted(place) for place in maps):
            raise FormatError("msgpack is not canonical (keys in order)")
        inner = [item for place in level for item in (place.values() if type(place) is dict else place)]
        kinds = set(map(type, inner))
        if not kinds <= _TYPES:
            raise FormatError("not valid msgpack (a timestamp, which is an ext type)")
        if float in kinds and not all(isfinite(item) for item in inner if type(item) is float):
            raise FormatError("a number is not finite")
        level = [item for item in inner if item and type(item) in (dict, list)]
    if level:
        raise FormatError(f"not valid msgpack (arrays and maps nested deeper than {MAX_DEPTH})")


def _refuse_twice(items: list[tuple[Any, Any]]) -> dict[str, Any]:
    """A map; FormatError if a key occurs twice."""
    out = dict(items)
    if len(out) != len(items):
        raise FormatError("a key occurs twice in a map")
    return out


def _refuse_ext(code: int, data: bytes) -> Any:
    """No ext types."""
    raise FormatError(f"ext type {code}")
