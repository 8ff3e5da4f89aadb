"""The photos' side of a search: which are held back, how they are cropped, and the words that name the subject."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from conestool._text import fold
from conestool.images.photos import Photo
from conestool.search.config import SearchConfig

_TEMPLATES = ("a photo of {}", "{}", "a picture of {}")


@dataclass(frozen=True, kw_only=True)
class PhotoSplit:
    """Pictures to learn from and pictures for the report; `held_out` counts the photos among the latter (0: crops).

    `captions` are those of the pictures to learn from, "" where there is none; `uncropped` are the photos among these.
    """

    train: tuple[Image.Image, ...]
    validation: tuple[Image.Image, ...]
    held_out: int
    captions: tuple[str, ...]
    uncropped: tuple[Image.Image, ...]


def split_photos(photos: Sequence[Photo], config: SearchConfig) -> PhotoSplit:
    """Hold back photos for the report, one of four or more unless told otherwise, in the order of their hashes.

    With nothing held back, the report sees crops that the search does not. Every photo to learn from is joined by
    `num_crops` crops of it.
    """
    wanted, seed = config.num_validation_images, config.seed
    ordered = sorted(photos, key=lambda photo: photo.sha256)
    count = (len(ordered) >= 4) if wanted is None else min(wanted, len(ordered) - 1)
    validation_photos, train = ordered[:count], ordered[count:]
    pictures = [p for photo in train for p in (photo.image, *crops(photo, config.num_crops, seed))]
    captions = [photo.caption for photo in train for _ in range(1 + config.num_crops)]
    validation = [photo.image for photo in validation_photos] or [
        p for photo in train for p in crops(photo, 2, seed + 1)
    ]
    return PhotoSplit(
        train=tuple(pictures),
        validation=tuple(validation),
        held_out=int(count),
        captions=tuple(captions),
        uncropped=tuple(photo.image for photo in train),
    )


def crops(photo: Photo, count: int, seed: int) -> list[Image.Image]:
    """`count` random crops of 80 to 97 % of a photo's sides (no flips: a subject need not be symmetric)."""
    rng = random.Random(f"{seed} {photo.sha256}")
    return [_crop(photo.image, rng) for _ in range(count)]


def _crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """One random crop that keeps the aspect ratio."""
    scale = rng.uniform(0.8, 0.97)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def instance_prompts(phrase: str) -> list[str]:
    """Prompts for the subject, `phrase` being "sks dog"; several, so that the concept is not tied to one wording."""
    return phrasings(f"a {phrase}")


def phrasings(text: str) -> list[str]:
    """Prompts that show what `text` ("a sks dog") says."""
    return [template.format(text) for template in _TEMPLATES]


def captioned_prompts(prompts: Sequence[str], phrase: str, noun: str, caption: str) -> list[str]:
    """`prompts` for `phrase` ("sks dog", or the noun alone), made prompts for a picture with that caption.

    A caption that names the class noun is the prompt, with `phrase` in the noun's place; any other ("on the beach")
    stands behind each prompt.
    """
    named = re.compile(rf"\b(?:(an?) )?{re.escape(noun)}\b", re.IGNORECASE)
    if not named.search(caption):
        return [f"{prompt} {caption}".rstrip() for prompt in prompts]
    whole = named.sub(lambda found: article(phrase) if found[1] else phrase, caption, count=1)
    return [whole] * len(prompts)


def class_prompts(noun: str) -> list[str]:
    """The same prompts for the class alone."""
    return phrasings(article(noun))


def noun_warnings(settings: Mapping[str, Any], noun: str) -> list[str]:
    """What to warn of if a model that lists what it draws (in its pocket.json) has no such thing; most list nothing."""
    known = [str(each) for key in ("objects", "wearables") for each in settings.get(key, ())]
    words = {fold(text) for each in known for text in (each, each.split()[-1])}
    if not known or fold(noun) in words or fold(noun.split()[-1]) in words:
        return []
    return [
        f"the base model was not made to draw {noun!r}, so there is little to start from; it knows {', '.join(known)}"
    ]


def article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def joined(subjects: Sequence[str]) -> str:
    """One prompt that names them all: "a sks dog, a zwx cat and a hjq car"."""
    named = [article(subject) for subject in subjects]
    return " and ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else named[0]
