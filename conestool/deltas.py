"""The floats of a concept, one for each of its neurons: the bytes of a section `deltas` and back; see spec/cone-1.md.

Of each tensor a scale, then one signed byte per index, in the index's order: the float is their product. numpy is
imported where floats are needed, so that headers are checked without it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from conestool.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

__all__ = ["LARGEST", "SECTION", "decode", "encode", "fault", "length"]

SECTION = "deltas"
"""The type of the section."""
SCALE = struct.Struct("<f")
STEPS = 127
"""Multiples of the scale go from minus this to plus this."""
MOST = 512.0
"""The largest scale, so that every float fits float16 and those of all concepts of a file add up to a finite one."""
LARGEST = STEPS * MOST
"""The largest float, 65,024."""
CUT = 0xFFFFFF80
"""The bits of a scale that an encoder uses."""
NEVER = b"\x80"
"""The byte -128, which no encoder writes."""


def length(counts: Iterable[int]) -> int:
    """Bytes of the section for so many indices per tensor."""
    return sum(SCALE.size + count for count in counts)


def fault(data: bytes, counts: Sequence[int]) -> str:
    """What is wrong with a section for so many indices per tensor (each at least 1); empty if nothing is."""
    if not counts or len(data) != length(counts):
        return f"{len(data)} bytes of {SECTION}, expected {length(counts)} for {len(counts)} tensors"
    at = 0
    for count in counts:
        (scale,) = SCALE.unpack_from(data, at)
        if not (0 <= scale <= MOST and math.copysign(1, scale) > 0):
            return f"scale {scale:g} of {SECTION}, expected 0 to {MOST:g}"
        if NEVER in data[at + SCALE.size : at + SCALE.size + count]:
            return f"a float of {SECTION} is -128 times its scale, expected -{STEPS} to {STEPS}"
        at += SCALE.size + count
    return ""


def encode(values: Iterable[Floats]) -> bytes:
    """The section of the floats of each tensor, (k,) each, at least one; rounded to the nearest multiple of the scale.

    Our choice: the scale is a 127th of the tensor's largest magnitude, cut to 17 bits, so that products are exact and
    what was encoded once is encoded to the same bytes again. UsageError for floats that are not finite, or are above
    LARGEST.
    """
    import numpy as np

    parts = []
    for floats in values:
        wide = np.asarray(floats, np.float64)
        largest = float(np.abs(wide).max())
        if not largest <= LARGEST:
            text = f"a float of {largest:g} at a concept neuron, expected at most {LARGEST:g} in magnitude"
            raise UsageError(text, "train with a smaller rate, or leave floats out")
        scale = (np.float32(largest / STEPS).view(np.uint32) & np.uint32(CUT)).view(np.float32)
        steps = np.rint(wide / float(scale)) if scale else np.zeros_like(wide)
        parts.append(SCALE.pack(scale) + steps.clip(-STEPS, STEPS).astype(np.int8).tobytes())
    return b"".join(parts)


def decode(data: bytes, counts: Sequence[int]) -> list[Floats]:
    """The floats of each tensor, (k,), fp32, read-only, of a section without fault."""
    import numpy as np

    out, at = [], 0
    for count in counts:
        (scale,) = SCALE.unpack_from(data, at)
        steps = np.frombuffer(data, np.int8, count, at + SCALE.size)
        floats = steps.astype(np.float32) * np.float32(scale)
        floats.flags.writeable = False
        out.append(floats)
        at += SCALE.size + count
    return out
