"""Small ICC profiles, written by hand from the specification (ICC.1:2001-04): matrices, a grey curve, and ink."""

from __future__ import annotations

import struct

import numpy as np

P3_TO_XYZ = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB_TO_XYZ = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
"""Linear light to XYZ at D50."""
WHITE = (0.9642, 1.0, 0.8249)


def fixed(*values: float) -> bytes:
    """Numbers as s15Fixed16."""
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def xyz(*values: float) -> bytes:
    """An element of type XYZ."""
    return b"XYZ \0\0\0\0" + fixed(*values)


def curve(gamma: float) -> bytes:
    """An element of type curv: a power."""
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def profile(kind: bytes, space: bytes, connection: bytes, elements: dict[bytes, bytes], name: bytes = b"test") -> bytes:
    """A whole profile of version 2."""
    text = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + bytes(1 + 8 + 1 + 2 + 67)
    elements = {b"desc": text, b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz(*WHITE), **elements}
    table, body = struct.pack(">I", len(elements)), b""
    start = 128 + 4 + 12 * len(elements)
    for tag, data in elements.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = start + len(body)
    head = struct.pack(">I4sI", size, b"test", 0x02400000) + kind + space + connection
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(*WHITE)
    return head.ljust(128, b"\0") + table + body


def matrix(to_xyz: np.ndarray, gamma: float, name: bytes) -> bytes:
    """A display's profile: three primaries and one power for all."""
    primaries = {tag: xyz(*to_xyz[:, at]) for at, tag in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(gamma))
    return profile(b"mntr", b"RGB ", b"XYZ ", {**primaries, **curves}, name)


def ink(labs: list[tuple[int, int, int]]) -> bytes:
    """A press's profile with two grid points an ink: `labs` are 16 colours, 8-bit Lab, with K as the last to change."""
    head = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    straight = bytes(range(256))
    return profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": head + straight * 4 + bytes(sum(labs, ())) + straight * 3})


P3 = matrix(P3_TO_XYZ, 2.2, b"Display P3")
GREY_LINEAR = profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve(1.0)})
INK = ink([(255, 128, 128) if not at else (60, 190, 60) if at == 8 else (0, 128, 128) for at in range(16)])
"""Paper is white, full C alone is a violet (Lab 24, 62, -68), everything else black."""
