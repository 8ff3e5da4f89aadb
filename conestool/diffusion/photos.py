"""Photos of the subject: read from whatever people have, brought upright, and turned into latents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from conestool.diffusion.decoding import check_size, decode, to_upright
from conestool.diffusion.folders import CAPTION, expand_paths
from conestool.errors import PhotoError, PromptError
from conestool.text import check_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from conestool.diffusion.models import Model

__all__ = ["Photo", "as_photo", "read_photo", "read_photos", "square", "to_latents"]

MAX_FILES = 1000
MAX_HELD = 1 << 28
"""Pixels of all photos together; at the 4 bytes that Pillow takes for one, 1 GiB."""

LONGEST = 4096
"""Bytes of a caption."""

FEWER = "3 to 5 photos are enough: leave some out"
MEND = "open them in an image program and save them anew, remove them, or pass --skip-broken"


@dataclass(frozen=True)
class Photo:
    """One photo as the search sees it: upright RGB pixels, their sha256 (with the size), and a name for messages.

    Photos of more than 4,194,304 pixels are reduced to that before anything else. `remarks` are what a person should
    know of the file; `caption` says what it shows besides the subject ("on the beach"), or "".
    """

    image: Image.Image
    sha256: str
    name: str
    remarks: tuple[str, ...] = ()
    caption: str = ""


def read_photos(
    paths: Iterable[str | Path], *, skip_broken: bool = False, captions: bool = False
) -> tuple[list[Photo], list[str]]:
    """Photos in `paths` (files and folders), in name order, and notes on what was passed over.

    With `captions` the text beside a photo (dog.txt beside dog.jpg) is its caption, as other trainers have it.

    In a folder, what is no image is passed over; a file named outright must be one. Equal pictures count once. Broken
    images raise a PhotoError that names each, unless `skip_broken`; so does finding no photo at all, more than 1,000
    files, or more than 2^28 pixels in all.
    """
    files, notes = expand_paths(paths)
    if len(files) > MAX_FILES:
        raise PhotoError(f"{len(files):,} images are too many, the most is {MAX_FILES:,}", FEWER)
    photos: dict[str, Photo] = {}
    broken: list[str] = []
    for file in files:
        try:
            photo = read_photo(file)
            photo = replace(photo, caption=read_caption(file)) if captions else photo
        except PhotoError as error:
            broken.append(str(error))
            continue
        notes += [f"{photo.name}: {remark}" for remark in photo.remarks]
        if photo.sha256 in photos:
            notes.append(f"{photo.name}: same picture as {photos[photo.sha256].name}, counted once")
        photos.setdefault(photo.sha256, photo)
        check_held(photos.values())
    if broken and not skip_broken:
        raise PhotoError("; ".join(broken), MEND)
    if not photos:
        raise PhotoError(
            "no photo that can be used" + (f": {'; '.join(broken)}" if broken else ""),
            "give 3 to 5 photos, as JPEG, PNG or WebP",
        )
    return list(photos.values()), notes + [f"{text}, skipped" for text in broken]


def check_held(photos: Iterable[Photo]) -> None:
    """Refuse more photos than fit into the memory that they may take together."""
    *_, latest = photos = list(photos)
    if sum(photo.image.width * photo.image.height for photo in photos) > MAX_HELD:
        raise PhotoError(f"{latest.name}: photo {len(photos)}, and more than {MAX_HELD:,} pixels in all", FEWER)


def read_photo(path: str | Path) -> Photo:
    """One photo; PhotoError if it is no image, broken, too small or too large."""
    path = Path(path)
    return photo_of(*decode(path), path.name)


def read_caption(photo: Path) -> str:
    """The text in the file of the photo's name with the ending .txt, on one line; "" if there is no text."""
    path = photo.with_suffix(CAPTION)
    if path == photo or not path.is_file():
        return ""
    with path.open("rb") as file:
        data = file.read(LONGEST + 1)
    try:
        text = "" if len(data) > LONGEST else data.decode("utf-8-sig")
        return check_prompt(text) if data.strip() else ""
    except (UnicodeDecodeError, PromptError) as error:
        raise PhotoError(
            f"{path.name}: no caption for {photo.name}: expected one line of UTF-8 text, at most {LONGEST:,} bytes",
            "mend it, or pass --captions none",
        ) from error


def as_photo(image: Image.Image, name: str = "image") -> Photo:
    """A Photo of an image in memory: turned as its EXIF says, on white where transparent, as 8-bit RGB."""
    check_size(image.size, name)
    return photo_of(*to_upright(image), name)


def photo_of(image: Image.Image, remarks: Sequence[str], name: str) -> Photo:
    """A Photo of upright RGB pixels, with their hash."""
    digest = hashlib.sha256(b"%dx%d\0" % image.size + image.tobytes())
    return Photo(image, digest.hexdigest(), name, tuple(remarks))


def square(image: Image.Image, side: int) -> Image.Image:
    """The centre of `image`, cropped to a square and resized to `side` pixels."""
    return ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)


def to_latents(model: Model, images: Sequence[Image.Image], *, size: int | None = None, batch: int = 8) -> Tensor:
    """Latents (n, c, h, w) of the images' centre squares, fp32 on the model's device.

    Deterministic, and scaled (and shifted) as the denoiser expects them. NumbersError if the autoencoder overflows, as
    some do in float16.
    """
    import numpy as np
    import torch

    from conestool.diffusion.finite import check_finite

    side = size or model.defaults.size
    arrays = np.stack([np.asarray(square(image, side)) for image in images])  # (n, side, side, 3)
    pixels = torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1
    starts = range(0, len(pixels), batch)
    parts = [model.family.latents(model.pipe, pixels[start : start + batch]) for start in starts]
    latents = torch.cat(parts)
    check_finite(latents, "the autoencoder's answer", model.pipe.vae.dtype)
    return latents.to(model.device)
