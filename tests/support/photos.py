"""Photos drawn in a moment."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image


def draw_photos(folder: Path, colour: str, count: int = 3) -> Path:
    """A folder of small pictures, no two of one size and none of them square."""
    folder.mkdir()
    for number in range(count):
        image = Image.new("RGB", (60 + number, 40), "white")
        image.paste(colour, (12, 8 + number, 40, 30))
        image.save(folder / f"{number}.png")
    return folder


def noisy_photos() -> list[Image.Image]:
    """Four pictures of noise."""
    generator = torch.Generator().manual_seed(0)
    pixels = [torch.randint(256, (40, 36, 3), generator=generator, dtype=torch.uint8).numpy() for _ in range(4)]
    return [Image.fromarray(each) for each in pixels]


def save_noisy_photos(folder: Path) -> Path:
    """A folder with them."""
    folder.mkdir()
    for number, photo in enumerate(noisy_photos()):
        photo.save(folder / f"{number}.png")
    return folder


def pixels(png: bytes) -> bytes:
    """A picture without its records."""
    with Image.open(io.BytesIO(png)) as image:
        return image.tobytes()
