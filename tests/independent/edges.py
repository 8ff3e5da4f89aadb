"""Files at the edges of the rules that chance doesn't reach, and whether the specification lets a reader take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zstandard

from tests.independent.forging import Header, join, mend, pack, parts, relabelled
from tests.independent.values import nested
from tests.independent.writer import START, gaps

VALID = Path(__file__).parents[2] / "spec/vectors/valid"
MAGIC = bytes.fromhex("28B52FFD")
BLOCK = bytes.fromhex("190000010714")
"""The block of smallest.cone: last, stored, 3 bytes."""
EMPTY = bytes.fromhex("010000")
"""A block without content: last, stored, 0 bytes."""
Edge = tuple[str, bytes, bool]
Change = Callable[[Header], object]


def base(header: Header) -> Header:
    """The first base model."""
    result: Header = header["bases"][0]
    return result


def concept(header: Header) -> Header:
    """The first concept."""
    result: Header = header["concepts"][0]
    return result


def changed(change: Change, sections: list[bytes] | None = None, file: str = "smallest.cone") -> bytes:
    """A vector with another header, and perhaps other sections."""
    data = (VALID / file).read_bytes()
    header, before = parts(data)
    change(header)
    return mend(join(header if sections is None else relabelled(header, sections), sections or before, data))


def made(shape: list[int], row: list[int], section: bytes) -> bytes:
    """A file of one tensor, given its row after the number, and its section."""

    def change(header: Header) -> None:
        base(header)["tensors"] = [["a", shape]]
        concept(header)["tensors"] = [[0, *row]]

    return changed(change, [section])


def put(place: Callable[[Header], Header], key: str, value: Any) -> Change:
    """Set a key of the first base model or concept."""
    return lambda header: place(header).update({key: value})


def headers() -> Iterator[tuple[str, Change, bool]]:
    """Changes of the smallest file's header."""
    of_base: list[tuple[str, Any, bool]] = [
        ("dtype", "int8", True),
        ("id", "", True),
        ("family", "", True),
        ("digests", {"f32": bytes(32), "later": bytes(32)}, True),
        ("digests", {"f32": bytes(32), "later": bytes(31)}, False),
        ("digests", {"f32": bytes(32), "f16": None}, False),
        ("later", None, True),
        ("later", -0.0, True),
        ("later", nested(14), True),
        ("later", nested(15), False),
    ]
    for key, value, fine in of_base:
        yield (
            f"base {key} {str(value)[:40]}",
            put(base, key, value),
            fine,
        )
    of_concept: list[tuple[str, Any, bool]] = [
        ("name", "a²", True),
        ("name", "aⅧ", True),
        ("name", "a\u0301", True),
        ("name", "a\u0301\u0323b", True),
        ("name", "a\u20dd 1", True),
        ("name", "\u0301", False),
        ("name", "a \u0301a", False),
        ("name", "1\u0301", False),
        ("name", "a1\u0301", False),
        ("name", "हिन्दी", True),
        ("name", "a\u200db", False),
        ("name", "e" + "\u0301" * 63, True),
        ("name", "e" + "\u0301" * 64, False),
        ("name", "a\u2019s", False),
        ("class_noun", "e\u0301", True),
        ("class_noun", "\u200ba", True),
        ("class_noun", "a\u3000", False),
        ("class_noun", "a\u3000b", True),
        ("class_noun", "a\x85b", False),
        ("identifier", "\U0010ffff" * 64, True),
        ("identifier", "\u180ea", True),
        ("identifier", "a\u2029", False),
        ("origin", {"seed": -(2**63), "held_out": -1, "photos": []}, True),
        ("origin", {"seed": 2**64 - 1, "later": None}, True),
        ("origin", {"seed": True}, False),
        ("origin", {"photos": ["A" * 64]}, False),
        ("origin", {"losses": {"later": "text", "random_after": 1}}, True),
        ("origin", {"losses": {"random_after": None}}, False),
        ("origin", {"versions": {"tool": 1}}, False),
        ("origin", {"parameters": {"any": [None, True, b"", {"": 0.5}]}}, True),
    ]
    for key, value, fine in of_concept:
        yield (
            f"concept {key} {str(value)[:40]!a}",
            put(concept, key, value),
            fine,
        )
    yield "an unknown key of a section", lambda h: concept(h)["sections"][0].update({"later": None}), True
    yield "critical with a number", lambda h: h.update({"critical": [0]}), False
    yield "critical with an empty name", lambda h: h.update({"critical": [""]}), False
    yield "a last tensor of 8 dimensions", lambda h: base(h)["tensors"].append(["v", [1] * 7 + [2**31 - 1]]), True
    yield "a last tensor of 9 dimensions", lambda h: base(h)["tensors"].append(["v", [1] * 9]), False


def frames() -> Iterator[tuple[str, bytes, bool]]:
    """Frames for the three bytes of the smallest file."""
    yield "unused bit of the descriptor", b"\x30\x03" + BLOCK, True
    yield "reserved bit of the descriptor", b"\x28\x03" + BLOCK, False
    yield "dictionary 0 in a byte", b"\x21\0\x03" + BLOCK, True
    yield "dictionary 0 in four bytes", b"\x23\0\0\0\0\x03" + BLOCK, True
    yield "dictionary 256", b"\x22\0\1\x03" + BLOCK, False
    yield "size in four bytes", b"\xa0\x03\0\0\0" + BLOCK, True
    yield "size in eight bytes", b"\xe0\x03" + bytes(7) + BLOCK, True
    yield "size above 2^32", b"\xe0\x03\0\0\0\1\0\0\0" + BLOCK, False
    yield "size in two bytes, so 256 more", b"\x60\x03\0" + BLOCK, False
    yield "window of 1 KiB", b"\x80\0\x03\0\0\0" + BLOCK, True
    yield "window of 128 MiB", b"\x80\x88\x03\0\0\0" + BLOCK, True
    yield "window of 144 MiB", b"\x80\x89\x03\0\0\0" + BLOCK, False
    yield "window of 256 MiB", b"\x80\x90\x03\0\0\0" + BLOCK, False
    yield "window of 3.75 TiB", b"\x80\xff\x03\0\0\0" + BLOCK, False
    yield "empty blocks first", b"\x20\x03" + bytes(3) * 3 + BLOCK, True
    yield "reserved type of block", b"\x20\x03" + b"\x1f\0\0\1\7\x14", False
    yield "last block not marked", b"\x20\x03" + b"\x18\0\0\1\7\x14", False
    yield "checksum cut", b"\x24\x03" + BLOCK + b"\0\0\0", False


def edges() -> Iterator[Edge]:
    """Every edge: what it is, the file, and whether it is valid."""
    for about, change, fine in headers():
        yield about, changed(change), fine
    for about, frame, fine in frames():
        yield about, changed(lambda header: None, [MAGIC + frame]), fine
    smallest = (VALID / "smallest.cone").read_bytes()
    for size in (9, 10, 16, 19):
        yield f"first {size} bytes", smallest[:size], False
        yield f"first {size} bytes of version 2", (smallest[:9] + b"\2" + smallest[10:])[:size], False
    yield "minor version 255", mend(join(*parts(smallest), START[:10] + b"\xff\0")), True
    yield from packed(smallest)
    yield from wide()
    yield from grids()


def empty_frames() -> Iterator[Edge]:
    """Frames without content: a grid of 4 x 4 weights in one class, {0, 9}, m = 2, bits `0000 1 001`."""
    piece = bytes([1, 1, 2, 0b00001001])
    data = made([4, 4], [2, 2, len(piece), 0], piece + MAGIC + b"\x20\0" + EMPTY)
    for about, rest, fine in (
        ("empty frame", b"\x20\0" + EMPTY, True),
        ("empty frame in two blocks", b"\x20\0" + bytes(3) + EMPTY, True),
        ("empty frame, a byte repeated no times", b"\x20\0\x03\0\0\0", True),
        ("empty frame with its checksum", b"\x24\0" + EMPTY + bytes.fromhex("99E9D851"), True),
        ("empty frame with a wrong checksum", b"\x24\0" + EMPTY + bytes.fromhex("98E9D851"), False),
        ("empty frame with content", b"\x20\0" + BLOCK, False),
        ("empty frame with a reserved block", b"\x20\0\x07\0\0", False),
        ("empty frame without blocks", b"\x20\0", False),
        ("empty frame cut in its block", b"\x20\0\1\0", False),
        ("empty frame and a byte", b"\x20\0" + EMPTY + b"\0", False),
        ("empty frame in a thousand blocks", b"\x20\0" + bytes(3000) + EMPTY, True),
        ("empty frame in a thousand blocks and a byte", b"\x20\0" + bytes(3000) + EMPTY + b"\0", False),
        ("empty frame in a thousand blocks, the last one not marked", b"\x20\0" + bytes(3000), False),
        ("empty frame with a window", b"\x80\0" + bytes(4) + EMPTY, True),
        ("empty frame with a window of 144 MiB", b"\x80\x89" + bytes(4) + EMPTY, False),
        ("empty frame with a window and content", b"\x80\0" + bytes(4) + BLOCK, False),
        ("empty frame with a repeated byte", b"\x80\x88" + bytes(4) + b"\3\0\x10\0", False),
        *((f"empty frame of {size} bytes", frame_of(size), True) for size in (1023, 1024, 1025, 2048)),
        *((f"empty frame of {size} bytes and one", frame_of(size) + b"\0", False) for size in (1023, 1024, 2048)),
    ):
        header, _ = parts(data)
        sections = [piece + MAGIC + rest]
        yield about, join(relabelled(header, sections), sections, START), fine


def frame_of(size: int) -> bytes:
    """An empty frame of so many bytes, without its first four."""
    start = next(start for start in (b"\x20\0", b"\x21\0\0", b"\x22\0\0\0") if (size - 4 - len(start)) % 3 == 0)
    return start + bytes(size - 7 - len(start)) + EMPTY


def packed(smallest: bytes) -> Iterator[Edge]:
    """Values in msgpack under a key of their own, which a decoder might take too lightly."""
    header, sections = parts(smallest)
    start = b"\x83" + pack(header)[1:] + pack("x-a")
    for code, fine in (
        ("d0e0", False),
        ("d0df", True),
        ("d1ff80", False),
        ("d1ff7f", True),
        ("d300000000ffffffff", False),
        ("d38000000000000000", True),
        ("cc7f", False),
        ("cdff", False),
        ("ce0000ffff", False),
        ("cf00000000ffffffff", False),
        ("ca3f800000", False),
        ("cb7ff0000000000000", False),
        ("cb8000000000000000", True),
        ("cb0000000000000001", True),
        ("c400", True),
        ("c50000", False),
        ("c1", False),
        ("d9036162" + "63", False),
        ("d920" + "61" * 32, True),
        ("dc0000", False),
        ("dc0010" + "c0" * 16, True),
        ("ddffffffff", False),
        ("dfffffffff", False),
        ("dbffffffff", False),
        ("a2c080", False),
        ("a6eda0bdedb880", False),
        ("a4f48fbfbf", True),
        ("a4f4908080", False),
        ("a3efbfbf", True),
        ("82a161c0a161c0", False),
        ("82a162c0a161c0", False),
        ("82a161c0a3c3a9" + "62c0", True),
        ("81c0c0", False),
        ("91" * 15 + "c0", True),
        ("91" * 14 + "81a0c0", True),
        ("91" * 15 + "91c0", False),
    ):
        yield f"msgpack {code}", join(start + bytes.fromhex(code), sections, smallest), fine


def wide() -> Iterator[Edge]:
    """Numbers that need more than 32 bits on the way."""
    n = 2**31 - 1
    for indices in ([0, n - 1], [n - 2, n - 1], [n - 1]):
        raw, coded = gaps(indices, n)
        frame = MAGIC + b"\x20" + bytes([len(coded)]) + (len(coded) << 3 | 1).to_bytes(3, "little") + coded
        yield f"gaps up to {indices}", made([n], [1, len(indices), len(raw), len(coded)], raw + frame), True
    raw, coded = gaps([0, n - 1], n)
    for last in (64, 254):
        worse = coded[:-1] + bytes([last])
        frame = MAGIC + b"\x20" + bytes([len(worse)]) + (len(worse) << 3 | 1).to_bytes(3, "little") + worse
        yield f"gaps with a last quotient of {last}", made([n], [1, 2, len(raw), len(worse)], raw + frame), False


def grids() -> Iterator[Edge]:
    """A grid of {0, 1, 2, 3} with a class for every row and column; then as many bytes of zeros as may be, and one."""
    table = bytes([32, 32, 1, 1, 1, 1]) + bytes(1020)
    frame = zstandard.ZstdCompressor().compress(bytes(range(32)) * 2)
    for size, fine in ((1027, True), (1028, False), (4099 + 5 * 4, False), (4099 + 5 * 4 + 1, False)):
        piece = (table + b"\xf0").ljust(size, b"\0")
        yield f"grid of 32 x 32 classes in {size} bytes", made([32, 32], [2, 4, size, 64], piece + frame), fine
