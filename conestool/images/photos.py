"""Photos of the subject: read from whatever people have, brought upright, and turned into latents."""

from __future__ import annotations

import codecs
import hashlib
import io
import itertools
import math
import stat
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError, features

from conestool._text import check_prompt, quoted
from conestool.errors import PhotoError, PromptError, first_line

if TYPE_CHECKING:
    from torch import Tensor

    from conestool.models.model import Model

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
SUFFIXES |= {".heic", ".heif", ".hif", ".avif"}
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
PHONES = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}
"""Formats of phones, by the brand that follows `ftyp` in a file's first bytes."""
MISSING = {
    "HEIC": "HEIC, which needs the package pi-heif (pip install pi-heif)",
    "AVIF": "AVIF, which this Pillow does not read (pip install --upgrade Pillow)",
}
NOT_READ = dict.fromkeys(
    (".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"),
    "a raw photo",
)
NOT_READ |= dict.fromkeys((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"), "a film")
NOT_READ |= dict.fromkeys((".ai", ".eps", ".pdf", ".psd", ".svg", ".xcf"), "a drawing program's file")
NOT_READ |= dict.fromkeys((".jp2", ".jxl", ".tga", ".exr"), "a format that is not read")
"""Files that people have beside or instead of photos, and what they are. A raw photo holds a thumbnail as well."""
CAPTION_SUFFIX = ".txt"
MAX_CAPTION_BYTES = 4096
MAX_FILES = 1000
MAX_FILE_BYTES = 1 << 29
MAX_TOTAL_PIXELS = 1 << 28
"""Pixels of all photos together; at the 4 bytes that Pillow takes for one, 1 GiB."""
_LARGE_SIDE = 512
KEPT_PIXELS = 1 << 22
"""Pixels that are kept of one photo (2048 x 2048), more than any supported model sees of it."""
MIN_SIDE = 16
MAX_NOTES = 5
"""Files that are passed over for one reason and named one by one."""
ORIENTATION = 0x0112
REDUCIBLE = ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr")
HIGH_DEPTH = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")

KINDS = "JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP or TIFF"
FEWER = "3 to 5 photos are enough: leave some out"
MEND = "open them in an image program and save them anew, remove them, or pass --skip-broken"
MEND_CAPTION = "save it as one line of UTF-8 (in Notepad: Save as, Encoding), remove it, or pass --captions none"


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
    places = [Path(path) for path in paths]
    files, notes = list_photos(places)
    if len(files) > MAX_FILES:
        raise PhotoError(f"{len(files):,} images are too many, the most is {MAX_FILES:,}", FEWER)
    photos: dict[str, Photo] = {}
    broken: list[PhotoError] = []
    for file in files:
        try:
            photo = read_photo(file)
            photo = replace(photo, caption=_read_caption(file)) if captions else photo
        except PhotoError as error:
            broken.append(error)
            continue
        notes += [f"{photo.name}: {remark}" for remark in photo.remarks]
        if photo.sha256 in photos:
            notes.append(f"{photo.name}: same picture as {photos[photo.sha256].name}, counted once")
        photos.setdefault(photo.sha256, photo)
        _check_total(photos.values())
    if broken and not skip_broken:
        hints = dict.fromkeys(error.hint or MEND for error in broken)
        raise PhotoError("; ".join(map(str, broken)), "; ".join(hints))
    if not photos:
        raise _nothing_found(places, [*notes, *map(str, broken)])
    return list(photos.values()), notes + [f"{text}, skipped" for text in broken]


def _nothing_found(paths: Sequence[Path], why: Sequence[str]) -> PhotoError:
    """The error that there is no photo: what was passed over, and what to give instead."""
    told = "; ".join(text.removesuffix(", skipped") for text in why)
    inside = [place for path in paths for place in _places_with_images(path)]
    if inside:
        hint = f"folders inside are not entered; name the one that is meant: {quoted(inside[0])}"
    else:
        hint = f"give 3 to 5 photos, as {KINDS}"
    return PhotoError("no photo that can be used" + (f": {told}" if told else ""), hint)


def _places_with_images(path: Path) -> list[Path]:
    """The folders inside a folder that hold images, in name order."""
    try:
        inside = sorted(each for each in path.iterdir() if not each.name.startswith(".") and each.is_dir())
    except OSError:
        return []
    return [each for each in inside if _count_images(each)]


def _count_images(folder: Path) -> int:
    """How many of a folder's entries end as images do; at most 1,000 are looked at."""
    try:
        return sum(each.suffix.lower() in SUFFIXES for each in itertools.islice(folder.iterdir(), MAX_FILES))
    except OSError:
        return 0


def _check_total(photos: Iterable[Photo]) -> None:
    """Refuse more photos than fit into the memory that they may take together."""
    *_, latest = photos = list(photos)
    if sum(photo.image.width * photo.image.height for photo in photos) > MAX_TOTAL_PIXELS:
        raise PhotoError(f"{latest.name}: photo {len(photos)}, and more than {MAX_TOTAL_PIXELS:,} pixels in all", FEWER)


def read_photo(path: str | Path) -> Photo:
    """One photo; PhotoError if it is no image, broken, too small, or larger than Pillow opens (178 million pixels)."""
    path = Path(path)
    return _photo_of(*_decode(path), path.name)


def caption_path(photo: Path) -> Path:
    """Where the caption of a photo would be."""
    return photo.with_suffix(CAPTION_SUFFIX)


def _read_caption(photo: Path) -> str:
    """The line in the file of the photo's name with the ending .txt; "" if there is no text.

    UTF-8, or UTF-16 that begins with its mark, as Windows writes it.
    """
    path = caption_path(photo)
    if path == photo or not path.is_file():
        return ""
    with path.open("rb") as file:
        data = file.read(MAX_CAPTION_BYTES + 1)
    wanted = f"one line of UTF-8 text, at most {MAX_CAPTION_BYTES:,} bytes"
    problem = f"{path.name}: no caption for {photo.name}: expected {wanted}"
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
        if len(data) > MAX_CAPTION_BYTES:
            raise PhotoError(problem, MEND_CAPTION)
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) > 1:
            raise PhotoError(f"{problem}, found {len(lines)} lines", MEND_CAPTION)
        return check_prompt(lines[0]) if lines else ""
    except (UnicodeDecodeError, PromptError) as error:
        raise PhotoError(problem, MEND_CAPTION) from error


def as_photo(image: Image.Image | Photo, name: str = "image") -> Photo:
    """A Photo of an image in memory: turned as its EXIF says, on white where transparent, as 8-bit RGB.

    What is a Photo already is returned as it is.
    """
    if isinstance(image, Photo):
        return image
    _check_size(image.size, name)
    return _photo_of(*_to_upright(image), name)


def _photo_of(image: Image.Image, remarks: Sequence[str], name: str) -> Photo:
    """A Photo of upright RGB pixels, with their hash."""
    digest = hashlib.sha256(b"%dx%d\0" % image.size + image.tobytes())
    return Photo(image, digest.hexdigest(), name, tuple(remarks))


def square(image: Image.Image, side: int) -> Image.Image:
    """The centre of `image`, cropped to a square and resized to `side` pixels."""
    return ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)


def to_latents(model: Model, images: Sequence[Image.Image], *, batch: int = 8) -> Tensor:
    """Latents (n, c, h, w) of the images' centre squares, in the model's size; see `encode_whole`."""
    return encode_whole(model, [square(image, model.defaults.size) for image in images], batch=batch)


def encode_whole(model: Model, images: Sequence[Image.Image], *, batch: int = 8) -> Tensor:
    """Latents (n, c, h, w), fp32 on the model's device, of images as they are, all of one size that the model draws.

    Large ones are encoded one by one: together they take more memory than the denoiser does.
    Deterministic, and scaled (and shifted) as the denoiser expects them. NonFiniteError if the autoencoder overflows,
    as some do in float16.
    """
    import numpy as np
    import torch

    from conestool.models.devices import check_finite
    from conestool.models.memory import in_parts

    arrays = np.stack([np.asarray(image) for image in images])  # (n, height, width, 3)
    pixels = torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1
    batch = 1 if min(arrays.shape[1:3]) >= _LARGE_SIDE else batch
    parts, _ = in_parts(
        len(pixels), batch, lambda rows: model.family.encode_images(model.pipe, pixels[rows]), model.device
    )
    latents = torch.cat(parts)
    check_finite(latents, "the autoencoder's answer", model.pipe.vae.dtype)
    return latents.to(model.device)


def list_photos(paths: Iterable[str | Path]) -> tuple[list[Path], list[str]]:
    """The image files that `paths` name, and notes on whatever else a folder holds; subfolders are not entered.

    A path named outright must be a file or a folder, or PhotoError is raised.
    """
    files: list[Path] = []
    notes: list[str] = []
    for path in map(Path, paths):
        kind = _not_a_file(path)
        if kind == "a folder":
            inside, remarks = _list_folder(path)
            files += inside
            notes += remarks
        elif kind:
            raise PhotoError(f"{path}: {kind}", f"give folders, or {KINDS} files")
        else:
            files.append(path)
    return list(dict.fromkeys(files)), notes


def _list_folder(folder: Path) -> tuple[list[Path], list[str]]:
    """The images in `folder` in name order, and notes on the rest; names that start with a dot are passed over."""
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise PhotoError(f"{folder}: cannot be listed: {error.strerror}", "change its permissions") from error
    files: list[Path] = []
    skipped: dict[str, list[str]] = {}
    for path in entries:
        why = _not_a_file(path)
        if why == "a folder" and (count := _count_images(path)):
            why = f"a folder with {count:,} image{'s' * (count != 1)}"
        if not why and path.suffix.lower() not in SUFFIXES:
            why = NOT_READ.get(path.suffix.lower()) or (None if _is_image(path) else "not an image")
        if why:
            skipped.setdefault(why, []).append(path.name)
        else:
            files.append(path)
    captions = {f"{file.stem}{CAPTION_SUFFIX}" for file in files}
    notes: list[str] = []
    for why, names in skipped.items():
        notes += _skip_notes([name for name in names if name not in captions], why)
    return files, notes


def _skip_notes(names: Sequence[str], why: str) -> list[str]:
    """One note per name, or a single one with the number where there are many."""
    if len(names) <= MAX_NOTES:
        return [f"{name}: {why}, skipped" for name in names]
    return [f"{', '.join(names[: MAX_NOTES - 2])} and {len(names) - MAX_NOTES + 2:,} others: {why}, skipped"]


def _not_a_file(path: Path) -> str | None:
    """What lies at `path` if it is no regular file, links followed; None for a file."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, ValueError):  # ValueError for a NUL in the path
        return "no such file or folder"
    except OSError as error:
        return error.strerror
    if stat.S_ISREG(mode):
        return None
    return "a folder" if stat.S_ISDIR(mode) else "neither a file nor a folder"


def _is_image(path: Path) -> bool:
    """Whether a file without an image's suffix is one by its first bytes."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = file.read(12)
            if start.startswith(SIGNATURES) or _phone_format(start):
                Image.open(path, formats=_formats()).close()
                return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # whatever a decoder stumbles over: a file without an image's name need not be one
        return False
    return False


def _phone_format(start: bytes) -> str | None:
    """HEIC or AVIF by a file's first 12 bytes, else None."""
    return PHONES.get(start[8:12]) if start[4:8] == b"ftyp" else None


@cache
def _formats() -> tuple[str, ...]:
    """The formats that are read here: Pillow's, and HEIC by pi-heif."""
    found: tuple[str, ...] = FORMATS
    if features.check("avif"):
        found = (*found, "AVIF")
    try:
        import pi_heif
    except ImportError:
        return found
    pi_heif.register_heif_opener()
    return (*found, "HEIF")


def _why_no_image(path: Path) -> str:
    """What a file is that no decoder takes."""
    with path.open("rb") as file:
        kind = _phone_format(file.read(12))
    if kind and {"HEIC": "HEIF"}.get(kind, kind) not in _formats():
        return MISSING[kind]
    return NOT_READ.get(path.suffix.lower(), "not an image")


def _decode(path: Path) -> tuple[Image.Image, list[str]]:
    """The picture in a file as `_to_upright` gives it, and what a person should know of it.

    A JPEG much larger than what is kept is decoded at a half, a quarter or an eighth of its size.
    """
    name = path.name
    try:
        if kind := _not_a_file(path):
            raise PhotoError(f"{name}: {kind}")
        if kind := NOT_READ.get(path.suffix.lower()):
            raise PhotoError(f"{name}: {kind}", "export it as JPEG, and give that")
        if not 0 < (size := path.stat().st_size) <= MAX_FILE_BYTES:
            raise PhotoError(f"{name}: {f'more than {MAX_FILE_BYTES >> 20} MiB' if size else 'an empty file'}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_formats()) as image:
                _check_size(image.size, name)
                image.draft(None, _kept_size(image.size))
                return _to_upright(image)
    except PhotoError:
        raise
    except UnidentifiedImageError as error:
        raise PhotoError(f"{name}: {_why_no_image(path)}") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise PhotoError(f"{name}: too large, the most is {most} million pixels") from error
    except MemoryError as error:
        raise PhotoError(f"{name}: needs more memory than there is") from error
    except Exception as error:  # decoders stumble over hostile bytes with every type there is
        system = getattr(error, "strerror", None)  # the reason without the path
        why = f"cannot be read: {system}" if system else f"broken image: {first_line(error)}"
        raise PhotoError(f"{name}: {why}") from error


def _check_size(size: tuple[int, int], name: str) -> None:
    """Refuse pictures with a side below 16 pixels."""
    if min(size) < MIN_SIDE:
        raise PhotoError(f"{name}: {size[0]}x{size[1]} pixels are too few, expected at least {MIN_SIDE}x{MIN_SIDE}")


def _kept_size(size: tuple[int, int]) -> tuple[int, int]:
    """`size`, or the largest of the same shape with at most KEPT_PIXELS."""
    scale = min(1.0, math.sqrt(KEPT_PIXELS / (size[0] * size[1])))
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def _to_upright(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """8-bit sRGB without metadata, turned as EXIF says, reduced to what is kept; and remarks on damaged metadata."""
    image.load()
    profile = image.info.get("icc_profile")
    remarks: list[str] = []
    factor = max(1, math.isqrt(image.width * image.height // KEPT_PIXELS))
    reduced = image.reduce(factor) if image.mode in REDUCIBLE else image
    try:
        small = _to_rgb(reduced, profile)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        if not profile:
            raise
        small, remarks = _to_rgb(reduced, None), ["its colour profile cannot be used, its colours are taken for sRGB"]
    small = small if reduced is not image else small.reduce(factor)
    small = small.resize(_kept_size(image.size), Image.Resampling.LANCZOS)
    small.info = {}
    try:
        small.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
        turned = ImageOps.exif_transpose(small)
    except Exception:  # metadata alone: the picture itself is whole
        return small, [*remarks, "its EXIF is damaged, taken as it is without turning it"]
    turned.info = {}
    return turned, remarks


def _to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """8-bit sRGB of an image with that colour profile; transparency lies on white."""
    if image.mode in HIGH_DEPTH:
        return _to_srgb(_eight_bit(image), profile)
    if not image.has_transparency_data:
        return _to_srgb(image, profile)
    alpha = image.convert("RGBA").getchannel("A")
    colours = _to_srgb(image.convert("L" if image.mode in ("L", "LA", "La") else "RGB"), profile).convert("RGBA")
    colours.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), colours).convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An opaque image in sRGB, relative to white, black on black; one without a profile is sRGB already.

    PyCMSError for a profile that is damaged, or of another kind of image.
    """
    if image.mode == "LAB":
        own = ImageCms.createProfile("LAB")
    elif profile is None:
        return image if image.mode == "RGB" else image.convert("RGB")
    else:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
        if "sRGB" in (own.profile_description or ""):
            return image if image.mode == "RGB" else image.convert("RGB")
    if image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode == "L" and own.xcolor_space.strip() == "RGB":
        image = image.convert("RGB")
    out = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(own),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if out is None:
        raise ImageCms.PyCMSError("no image")
    return out


def _eight_bit(image: Image.Image) -> Image.Image:
    """A grey image of more than 8 bits as 8-bit grey; what is no number becomes black.

    White is 65535, but 1.0 in floats that are never above it.
    """
    import numpy as np

    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0)
    white = 1.0 if image.mode == "F" and values.max() <= 1 else 65535.0
    return Image.fromarray(np.clip(values * (255.0 / white), 0, 255).astype(np.uint8))
