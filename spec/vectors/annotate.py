"""Prints a .cone file byte by byte with what each run of bytes means, as in spec/cone-1.md.

python spec/vectors/annotate.py [FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

Line = tuple[int, int, str]
PREAMBLE = (
    (9, "signature"),
    (1, "major version"),
    (1, "minor version"),
    (1, "reserved"),
    (4, "H, length of the header: {}"),
    (4, "CRC-32"),
)


def msgpack_lines(data: bytes, at: int, depth: int) -> Iterator[Line]:
    """Lines (start, end, text) of the value at `at`; keys stand on a line with a short value."""
    kind = data[at]
    pad = "  " * depth
    if 0x80 <= kind <= 0x8F or 0x90 <= kind <= 0x9F:
        is_map, count = kind < 0x90, kind & 15
        yield at, at + 1, f"{pad}{'map' if is_map else 'array'} of {count}"
        at += 1
        for item in range(count * 2 if is_map else count):
            inside = depth + 1 + (is_map and item % 2)
            lines = list(msgpack_lines(data, at, inside))
            yield from lines
            at = lines[-1][1]
        return
    end, text = scalar(data, at)
    yield at, end, pad + text


def scalar(data: bytes, at: int) -> tuple[int, str]:
    """End and meaning of a number, string or binary."""
    kind = data[at]
    if kind < 0x80:
        return at + 1, str(kind)
    if 0xA0 <= kind <= 0xBF:
        end = at + 1 + (kind & 31)
        return end, f'"{data[at + 1 : end].decode()}"'
    if kind == 0xC4:
        return at + 2 + data[at + 1], f"binary of {data[at + 1]} bytes"
    raise ValueError(f"byte {kind:#x} is not expected in this example")


def lines(data: bytes) -> Iterator[Line]:
    """Lines of a whole file whose payload is one zstd frame with a raw block."""
    at = 0
    for size, text in PREAMBLE:
        yield at, at + size, text.format(int.from_bytes(data[at : at + size], "little"))
        at += size
    header_end = at + int.from_bytes(data[12:16], "little")
    yield from msgpack_lines(data, at, 0)
    for size, text in (
        (4, "section 1: no raw pieces; zstd magic"),
        (1, "  one segment, content size in one byte, no checksum"),
        (1, "  content size: 3"),
        (3, "  last block, stored, of 3 bytes"),
        (3, "  quotients of gaps 1, 7, 20"),
    ):
        yield header_end, header_end + size, text
        header_end += size


def annotated(data: bytes) -> str:
    """The whole text, 16 bytes a line."""
    out = []
    for start, end, text in lines(data):
        for at in range(start, end, 16):
            part = data[at : min(at + 16, end)].hex(" ").upper()
            out.append(f"{at:04x}  {part:<47}  {text if at == start else ''}".rstrip())
    return "\n".join(out)


if __name__ == "__main__":
    default = Path(__file__).parent / "valid" / "smallest.cone"
    print(annotated(Path(sys.argv[1] if len(sys.argv) > 1 else default).read_bytes()))
