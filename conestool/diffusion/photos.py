"""Photos of the subject: read from whatever people have, brought upright, and turned into latents."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps, UnidentifiedImageError

from conestool.errors import PhotoError

if TYPE_CHECKING:
    from torch import Tensor

    from conestool.diffusion.models import Model

__all__ = ["Photo", "as_photo", "expand_paths", "read_photo", "read_photos", "square", "to_latents"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
MAX_PIXELS = 200_000_000
MIN_SIDE = 16
HIGH_DEPTH = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


@dataclass(frozen=True)
class Photo:
    """One photo: upright RGB pixels, their sha256 (with the size), and the file's name for messages alone."""

    image: Image.Image
    sha256: str
    name: str


def read_photos(paths: Iterable[str | Path], *, skip_broken: bool = False) -> tuple[list[Photo], list[str]]:
    """Photos in `paths` (files and folders), in name order, and notes on what was passed over.

    In a folder, files that are no images are passed over; a file named outright must be one. Equal pictures count
    once. Broken images raise a PhotoError that names each, unless `skip_broken`; so does finding no photo at all.
    """
    files, notes = expand_paths(paths)
    photos: dict[str, Photo] = {}
    broken: list[str] = []
    for file in files:
        try:
            photo = read_photo(file)
        except PhotoError as error:
            broken.append(str(error))
            continue
        if photo.sha256 in photos:
            notes.append(f"{photo.name}: same picture as {photos[photo.sha256].name}, counted once")
        photos.setdefault(photo.sha256, photo)
    if broken and not skip_broken:
        raise PhotoError("; ".join(broken), "mend or remove them, or pass --skip-broken")
    if not photos:
        raise PhotoError(
            "no photo that can be used" + (f": {'; '.join(broken)}" if broken else ""), "give 3 to 5 photos"
        )
    return list(photos.values()), notes + [f"{text}, skipped" for text in broken]


def expand_paths(paths: Iterable[str | Path]) -> tuple[list[Path], list[str]]:
    """The image files that `paths` name, and a note for each other file in a folder; PhotoError if one is not there."""
    files: list[Path] = []
    notes: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted((item for item in path.iterdir() if item.is_file()), key=lambda item: item.name)
            seen = [item for item in inside if not item.name.startswith(".")]
            files += [item for item in seen if looks_like_image(item)]
            notes += [f"{item.name}: not an image, skipped" for item in seen if not looks_like_image(item)]
        elif path.exists():
            files.append(path)
        else:
            raise PhotoError(f"{path}: no such file or folder")
    return list(dict.fromkeys(files)), notes


def looks_like_image(path: Path) -> bool:
    """Whether a file in a folder is meant as an image: by its ending, or by its first bytes."""
    if path.suffix.lower() in ENDINGS:
        return True
    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS):
            return True
    except (OSError, Image.DecompressionBombError, ValueError, SyntaxError):
        return False


def read_photo(path: str | Path) -> Photo:
    """One photo; PhotoError if it is no image, broken, too small or too large."""
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                check_size(image.size, path.name)
                image.load()
                return as_photo(image, path.name)
    except UnidentifiedImageError as error:
        raise PhotoError(f"{path.name}: not an image") from error
    except Image.DecompressionBombError as error:
        raise PhotoError(f"{path.name}: more than {MAX_PIXELS // 1_000_000} million pixels") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise PhotoError(f"{path.name}: broken image: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """The text of an exception without the path that an OSError carries."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]


def check_size(size: tuple[int, int], name: str) -> None:
    """Refuse pictures with a side below 16 pixels, and those too large to be photos."""
    if min(size) < MIN_SIDE:
        raise PhotoError(f"{name}: {size[0]}x{size[1]} pixels are too few, expected at least {MIN_SIDE}x{MIN_SIDE}")
    if size[0] * size[1] > MAX_PIXELS:
        raise PhotoError(f"{name}: more than {MAX_PIXELS // 1_000_000} million pixels")


def as_photo(image: Image.Image, name: str = "image") -> Photo:
    """A Photo of an image in memory: turned as its EXIF says, on white where transparent, as 8-bit RGB."""
    check_size(image.size, name)
    upright = to_rgb(ImageOps.exif_transpose(image))
    digest = hashlib.sha256(b"%dx%d\0" % upright.size + upright.tobytes())
    return Photo(upright, digest.hexdigest(), name)


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB without metadata: the first frame, 16 bits scaled to 8, transparency on white."""
    if image.mode in HIGH_DEPTH:
        image = eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    rgb = image.convert("RGB")
    rgb.info = {}
    return rgb.copy()


def eight_bit(image: Image.Image) -> Image.Image:
    """A 16-bit (or wider) grey image as 8-bit grey: 65535 becomes 255, and so does 1.0 in floats up to 1."""
    import numpy as np

    values = np.asarray(image, dtype=np.float64)
    top = 65535.0 if image.mode != "F" or values.max() > 1 else 1.0
    return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8))


def square(image: Image.Image, side: int) -> Image.Image:
    """The centre of `image`, cropped to a square and resized to `side` pixels."""
    return ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)


def to_latents(model: Model, images: Sequence[Image.Image], *, size: int | None = None, batch: int = 8) -> Tensor:
    """Latents (n, c, h, w) of the images' centre squares, fp32 on the model's device.

    Deterministic, and scaled (and shifted) as the denoiser expects them.
    """
    import numpy as np
    import torch

    side = size or model.defaults.size
    arrays = np.stack([np.asarray(square(image, side)) for image in images])  # (n, side, side, 3)
    pixels = torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1
    starts = range(0, len(pixels), batch)
    parts = [model.family.latents(model.pipe, pixels[start : start + batch]) for start in starts]
    return torch.cat(parts).to(model.device)
