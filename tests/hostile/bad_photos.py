"""Hostile photo folders: made from nothing, each with what must come of it; used by the tests and the campaign."""

from __future__ import annotations

import os
import random
import socket
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

MIB = 1 << 20
Maker = Callable[[Path], object]


def chunk(kind: bytes, body: bytes) -> bytes:
    """One PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def zeros(count: int) -> bytes:
    """A zlib stream of `count` zero bytes, about a thousandth as long."""
    packer, block = zlib.compressobj(9), bytes(MIB)
    parts = [packer.compress(block) for _ in range(count // MIB)]
    return b"".join([*parts, packer.compress(bytes(count % MIB)), packer.flush()])


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, data: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG of the given header, image data (black where none is given) and further chunks."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    data = data or zeros((width * channels * depth // 8 + 1) * height)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), extra, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg(size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    """A JPEG of noise."""
    out = BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(out, "JPEG", **options)
    return out.getvalue()


def claim_jpeg(width: int, height: int) -> bytes:
    """A small JPEG whose frame header claims another size."""
    data = bytearray(jpeg())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def claim_webp() -> bytes:
    """A small lossless WebP whose header claims 16,383 x 16,383."""
    out = BytesIO()
    Image.new("RGB", (32, 32)).save(out, "WEBP", lossless=True)
    data = bytearray(out.getvalue())
    place = data.index(b"VP8L") + 9
    data[place : place + 4] = (16382 | 16382 << 14).to_bytes(4, "little")
    return bytes(data)


def claim_gif() -> bytes:
    """A small GIF whose screen and frame claim 65,535 x 65,535."""
    out = BytesIO()
    Image.new("P", (32, 32)).save(out, "GIF")
    return out.getvalue().replace(struct.pack("<HH", 32, 32), struct.pack("<HH", 65535, 65535))


def sparse_png(path: Path) -> None:
    """3 GiB of nothing behind the claim of a 2 GiB chunk; takes no room on the disk."""
    with path.open("wb") as file:
        file.write(png(20, 20)[:33] + struct.pack(">I", 0x7FFFFFFF) + b"prVt")
        file.truncate(3 << 30)


def text_png(kind: bytes, head: bytes, size: int, count: int = 1) -> bytes:
    """A PNG whose `count` compressed chunks of `kind` expand to `size` bytes each."""
    return png(20, 20, extra=chunk(kind, head + zeros(size)) * count)


def file_of(name: str, make: Callable[[], bytes]) -> Maker:
    """A folder with one file."""
    return lambda folder: (folder / name).write_bytes(make())


LARGE, TEXT = "too large, the most is", "broken image: "
BOMBS: dict[str, tuple[Maker, str]] = {
    "png claims 60000x60000": (file_of("a.png", lambda: png(60_000, 60_000, data=zeros(MIB))), LARGE),
    "jpeg claims 65500x65500": (file_of("a.jpg", lambda: claim_jpeg(65_500, 65_500)), LARGE),
    "webp claims 16383x16383": (file_of("a.webp", claim_webp), TEXT),
    "gif claims 65535x65535": (file_of("a.gif", claim_gif), LARGE),
    "iCCP of 64 MiB": (file_of("a.png", lambda: text_png(b"iCCP", b"x\0\0", 64 * MIB)), TEXT),
    "zTXt of 64 MiB": (file_of("a.png", lambda: text_png(b"zTXt", b"x\0\0", 64 * MIB)), TEXT),
    "iTXt of 64 MiB": (file_of("a.png", lambda: text_png(b"iTXt", b"x\0\1\0\0\0", 64 * MIB)), TEXT),
    "200 zTXt of 1 MB": (file_of("a.png", lambda: text_png(b"zTXt", b"x\0\0", MIB - 1, 200)), TEXT),
    "sparse png of 3 GiB": (lambda folder: sparse_png(folder / "a.png"), "more than 512 MiB"),
}
"""By name: what makes the folder, and words that the error must hold."""


def odd_folder(folder: Path) -> dict[str, str]:
    """Fill `folder` with what is no file, and return the note that each name must get."""
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "nowhere.png").symlink_to("gone.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    server, home = socket.socket(socket.AF_UNIX), Path.cwd()
    try:
        os.chdir(folder)  # a socket's path may have 107 bytes
        server.bind("socket.jpg")
    finally:
        os.chdir(home)
        server.close()
    return {
        "pipe.jpg": "neither a file nor a folder",
        "folder.jpg": "a folder",
        "circle.png": "Too many levels of symbolic links",
        "nowhere.png": "no such file or folder",
        "zero.png": "neither a file nor a folder",
        "socket.jpg": "neither a file nor a folder",
    }


def corrupt_exif(seed: int) -> bytes:
    """A whole JPEG whose EXIF block holds random damage behind its signature."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8769] = 6, "maker", {0x9286: b"comment"}
    data = bytearray(exif.tobytes())
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 12)):
        data[rng.randrange(6, len(data))] = rng.randrange(256)
    return jpeg(exif=bytes(data))


def mutate(data: bytes, seed: int) -> bytes:
    """`data` cut short, with bytes changed, or with a piece repeated."""
    rng, out = random.Random(seed), bytearray(data)
    for _ in range(rng.randint(0, 8)):
        out[rng.randrange(len(out))] = rng.randrange(256)
    if rng.random() < 0.3:
        del out[rng.randrange(len(out)) :]
    if rng.random() < 0.2:
        start = rng.randrange(len(out) + 1)
        out[start:start] = out[start : start + rng.randrange(64)]
    return bytes(out)
