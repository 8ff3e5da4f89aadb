"""The invalid vectors whose fault is in a section of floats."""

from __future__ import annotations

import struct
from collections.abc import Callable

import reference as ref
from good import build, good


def write(refuse: Callable[..., None]) -> None:
    """Every vector for rules 43 to 45, on concepts of 3 and 20 indices in two tensors, and of none."""
    right = [ref.floats(0.5, [1, 2, -127]), ref.floats(0.25, [-1] * 20)]
    data = b"".join(right)
    refuse("deltas-short.cone", 43, "a byte less than there are floats", file(data[:-1]))
    refuse("deltas-long.cone", 43, "a byte more than there are floats", file(data + b"\0"))
    refuse("deltas-nothing.cone", 43, "a section of floats without bytes", file(b""))
    refuse("deltas-one.cone", 43, "floats of the first tensor alone", file(right[0]))
    refuse("deltas-scales.cone", 43, "scales, and no floats", file(data[:4] + data[:4]))
    refuse("deltas-empty.cone", 43, "a section of floats for a concept without neurons", file(b"", 1))
    refuse("deltas-needless.cone", 43, "a byte of floats for a concept without neurons", file(b"\0", 1))
    scales = {
        "nan": (bytes.fromhex("0000C07F"), "a scale that is NaN"),
        "infinite": (bytes.fromhex("0000807F"), "an infinite scale"),
        "negative": (struct.pack("<f", -0.5), "a scale below 0"),
        "minus-zero": (struct.pack("<f", -0.0), "a scale of minus zero"),
        "large": (bytes.fromhex("01000044"), "the number above 512 as a scale"),
    }
    for name, (scale, about) in scales.items():
        refuse(f"deltas-scale-{name}.cone", 44, about, file(right[0] + scale + right[1][4:]))
    refuse("deltas-128.cone", 45, "a float of -128 times its scale", file(data[:-1] + b"\x80"))
    refuse("deltas-128-zero.cone", 45, "-128 times a scale of 0", file(bytes(6) + b"\x80" + right[1]))


def file(floats: bytes, number: int = 0) -> bytes:
    """The good file with a section of floats for one of its concepts."""
    header = good()
    concept = header["concepts"][number]
    concept["sections"].append(ref.section(floats, "deltas"))
    concept["data"] += floats
    return build(header)
