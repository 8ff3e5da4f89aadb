"""From a file to upright 8-bit RGB pixels, in bounded memory whatever the file holds or claims.

Only the decoder ever holds a picture whole, at 4 bytes a pixel for most formats. Everything after it works on strips
and on what is kept: at most 4,194,304 pixels (2048 x 2048), more than any supported model sees of a photo.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from conestool.diffusion.costs import check_cost, check_metadata
from conestool.diffusion.folders import FORMATS, open_file, reason
from conestool.errors import PhotoError

__all__ = ["KEPT_PIXELS", "check_size", "decode", "to_upright"]

MAX_PIXELS = {"WEBP": 64_000_000}
"""By format, where its decoder holds a picture several times (WebP's: 16 bytes a pixel, so 1 GB)."""

MOST_PIXELS = 178_000_000
"""For the others; just below the number that Pillow itself takes for an attack. Decoders take up to 4 bytes a pixel."""

KEPT_PIXELS = 1 << 22
STRIP_PIXELS = 1 << 20
MIN_SIDE, MAX_SIDE = 16, 65_535
ORIENTATION = 0x0112
HIGH_DEPTH = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
Remarks = list[str]


def decode(path: Path) -> tuple[Image.Image, Remarks]:
    """The picture in a file as `to_upright` gives it, and what a person should know of it.

    PhotoError if it is no image, broken, too small or too large. A JPEG much larger than what is kept is decoded at a
    half, a quarter or an eighth of its size.
    """
    name = path.name
    try:
        with open_file(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_cost(file, name)
            with Image.open(file, formats=FORMATS) as image:
                check_metadata(image, name)
                check_size(image.size, name, MAX_PIXELS.get(image.format or "", MOST_PIXELS))
                image.draft(None, kept_size(image.size))
                return to_upright(image)
    except PhotoError:
        raise
    except UnidentifiedImageError as error:
        raise PhotoError(f"{name}: not an image") from error
    except Image.DecompressionBombError as error:
        raise PhotoError(too_many_pixels(name)) from error
    except MemoryError as error:
        raise PhotoError(f"{name}: needs more memory than there is") from error
    except Exception as error:  # decoders stumble over hostile bytes with every type there is
        raise PhotoError(f"{name}: broken image: {reason(error)}") from error


def check_size(size: tuple[int, int], name: str, most: int = MOST_PIXELS) -> None:
    """Refuse pictures with a side below 16 pixels or above 65,535, and those of more than `most` pixels."""
    if min(size) < MIN_SIDE:
        raise PhotoError(f"{name}: {size[0]}x{size[1]} pixels are too few, expected at least {MIN_SIDE}x{MIN_SIDE}")
    if max(size) > MAX_SIDE or size[0] * size[1] > most:
        raise PhotoError(too_many_pixels(name, most))


def too_many_pixels(name: str, most: int = MOST_PIXELS) -> str:
    """What is wrong with a picture that is too large."""
    return f"{name}: too large, the most is {most // 1_000_000} million pixels and {MAX_SIDE:,} a side"


def kept_size(size: tuple[int, int]) -> tuple[int, int]:
    """`size`, or the largest of the same shape with at most KEPT_PIXELS."""
    scale = min(1.0, math.sqrt(KEPT_PIXELS / (size[0] * size[1])))
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def to_upright(image: Image.Image) -> tuple[Image.Image, Remarks]:
    """8-bit RGB without metadata, turned as EXIF says, reduced to what is kept; and a remark if EXIF is damaged."""
    small = reduced(image)
    try:
        small.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
        turned = ImageOps.exif_transpose(small)
    except Exception:  # metadata alone: the picture itself is whole
        return small, ["its EXIF is damaged, taken as it is without turning it"]
    turned.info = {}
    return turned, []


def reduced(image: Image.Image) -> Image.Image:
    """8-bit RGB of at most KEPT_PIXELS, not turned yet; strip by strip, first by a whole factor, then exactly."""
    size, (width, height) = kept_size(image.size), image.size
    image.load()
    if image.size != (width, height):  # decoders may find out late
        width, height = image.size
    factor = max(1, math.isqrt(width * height // KEPT_PIXELS))
    rows = max(1, STRIP_PIXELS // (width * factor)) * factor
    white = white_level(image)
    out = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for top in range(0, height, rows):
        strip = to_rgb(image.crop((0, top, width, min(height, top + rows))), white)
        out.paste(strip.reduce(factor), (0, top // factor))
    return out if out.size == size else out.resize(size, Image.Resampling.LANCZOS)


def to_rgb(image: Image.Image, white: float) -> Image.Image:
    """8-bit RGB: `white` and above is 255 in modes of more than 8 bits, transparency lies on white."""
    if image.mode in HIGH_DEPTH:
        image = eight_bit(image, white)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def white_level(image: Image.Image) -> float:
    """What counts as white in a picture of more than 8 bits: 65535, but 1.0 in floats that are never above it."""
    return 1.0 if image.mode == "F" and not image.getextrema()[1] > 1 else 65535.0  # type: ignore[operator]


def eight_bit(image: Image.Image, white: float) -> Image.Image:
    """A grey image of more than 8 bits as 8-bit grey; what is no number becomes black."""
    import numpy as np

    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0)
    return Image.fromarray(np.clip(values * (255.0 / white), 0, 255).astype(np.uint8))
