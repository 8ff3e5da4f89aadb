"""What tells base models apart, from spec/cone-1.md alone: weights are bit patterns of 32-bit floats."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import Any

Tensors = dict[str, tuple[list[int], list[int]]]
"""By param name the shape, and the bits of each weight as an unsigned integer."""

NAN = 0x7FC00000


def rounded(bits: int, digits: int, least: int, largest: int) -> int:
    """A binary32 rounded to a format of so many fraction bits, to nearest, ties to even; a NaN stays one.

    `least` is the exponent of its smallest normal number, `largest` that of its largest, both of 2.
    """
    sign, exponent, fraction = bits & 0x80000000, bits >> 23 & 0xFF, bits & 0x7FFFFF
    if exponent == 0xFF:
        return bits
    whole, power = (fraction | 0x800000, exponent - 127) if exponent else (fraction, -126)
    drop = 23 - digits + max(0, least - power)
    up, rest = divmod(whole, 1 << drop)
    up += rest > 1 << drop - 1 or (rest == 1 << drop - 1 and up % 2 == 1)
    value = up << drop
    if value.bit_length() + power - 24 > largest:
        return sign | 0x7F800000
    return sign | int.from_bytes(struct.pack("<f", value * 2.0 ** (power - 23)), "little")


def f16(bits: int) -> int:
    """Rounded to binary16."""
    return rounded(bits, 10, -14, 15)


def bf16(bits: int) -> int:
    """Rounded to bfloat16."""
    return rounded(bits, 7, -126, 127)


ROUNDINGS = {
    "f32": lambda bits: bits,
    "f16": f16,
    "bf16": bf16,
    "bf16(f16)": lambda bits: bf16(f16(bits)),
    "f16(bf16)": lambda bits: f16(bf16(bits)),
}


def is_nan(bits: int) -> bool:
    """Whether these are the bits of a NaN."""
    return bits & 0x7FFFFFFF > 0x7F800000


def digest(prefix: bytes, tensors: Tensors, last: dict[str, bytes]) -> bytes:
    """Sha256 of a prefix, and of name, shape and last field of every tensor."""
    stream = hashlib.sha256(prefix + b"\0")
    for name in sorted(tensors):
        shape, encoded = tensors[name][0], name.encode()
        stream.update(struct.pack("<Q", len(encoded)) + encoded)
        stream.update(struct.pack(f"<{len(shape) + 1}Q", len(shape), *shape) + last.get(name, b""))
    return stream.digest()


def tensor_digest(weights: Iterable[int]) -> bytes:
    """Sha256 of weights, all NaNs alike."""
    values = [NAN if is_nan(bits) else bits for bits in weights]
    return hashlib.sha256(struct.pack(f"<{len(values)}I", *values)).digest()


def describe(tensors: Tensors) -> dict[str, Any]:
    """`structure` and `digests` of a model."""
    roundings = {
        rounding: {name: tensor_digest(map(rounded, weights)) for name, (_, weights) in tensors.items()}
        for rounding, rounded in ROUNDINGS.items()
    }
    return {
        "structure": digest(b"cone-structure-1", tensors, {}),
        "digests": {rounding: digest(b"cone-model-1", tensors, last) for rounding, last in roundings.items()},
    }


def verdict(x: dict[str, Any], y: dict[str, Any]) -> str:
    """How two descriptions compare, each with `structure`, `tensors` and `digests`."""
    if x["structure"] != y["structure"] or x["tensors"] != y["tensors"]:
        return "different"
    if x["digests"]["f32"] == y["digests"]["f32"]:
        return "equal"
    for rounding in list(ROUNDINGS)[1:]:
        for one, other in ((x, y), (y, x)):
            if rounding in one["digests"] and one["digests"][rounding] == other["digests"]["f32"]:
                return f"equal at {rounding}"
    return "different"
