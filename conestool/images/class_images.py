"""Class images: what the base model itself draws for a prompt, against which a concept must not drift."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from conestool.images.photos import read_photos
from conestool.models.cache import cache_dir, write_cache_file
from conestool.models.model import Model
from conestool.models.sampling import Progress, sample

GROUP_SIZE = 8


def class_images(
    model: Model,
    prompt: str | Sequence[str],
    n: int,
    seed: int = 0,
    *,
    folder: str | Path | None = None,
    cache: bool = True,
    steps: int | None = None,
    guidance: float | None = None,
    batch: int = GROUP_SIZE,
    progress: Progress | None = None,
) -> list[Image.Image]:
    """`n` pictures of `prompt` by the base model, kept as PNG under the model's hash, prompt, seed and settings.

    Of several prompts the pictures show one after the other, and begin again. Pictures are drawn in whole groups of
    eight, so that the k-th is the same however many are asked for and however many were there already; the k-th has
    seed `seed * 1,000,003 + k`. With `folder` its pictures are taken instead, in name order, at most `n`. `batch` of a
    group are drawn at once; fewer take less memory. Reports progress as (done, n).
    """
    if folder is not None:
        return [photo.image for photo in read_photos([folder])[0][:n]]
    steps = model.defaults.steps if steps is None else steps
    guidance = model.defaults.guidance if guidance is None else guidance
    prior_dir = cache_dir() / "prior" / prior_key(model, prompt, seed, steps, guidance)
    images: list[Image.Image] = []
    for first in range(0, n, GROUP_SIZE):
        group = range(first, first + GROUP_SIZE)
        drawn = _read_group(prior_dir, group) if cache else None
        if drawn is None:
            seeds = [seed * 1_000_003 + index for index in group]
            texts = [prompt] if isinstance(prompt, str) else list(prompt)
            wanted = [texts[index % len(texts)] for index in group]
            drawn = sample(model, wanted, seeds, steps=steps, guidance=guidance, batch=batch)
            if cache:
                _write_group(prior_dir, group, drawn)
        images += drawn
        if progress:
            progress(min(len(images), n), n)
    return images[:n]


def count_missing(model: Model, prompt: str | Sequence[str], n: int, seed: int = 0) -> int:
    """How many pictures `class_images` would have to draw for `n` of them, at the model's own settings."""
    prior_dir = cache_dir() / "prior" / prior_key(model, prompt, seed, model.defaults.steps, model.defaults.guidance)
    groups = (range(first, first + GROUP_SIZE) for first in range(0, n, GROUP_SIZE))
    return sum(GROUP_SIZE for group in groups if _read_group(prior_dir, group) is None)


def prior_key(model: Model, prompt: str | Sequence[str], seed: int, steps: int, guidance: float) -> str:
    """Name of the cache folder: hex digest of everything that decides the pictures."""
    size = model.defaults.size
    scheduler = [type(model.pipe.scheduler).__name__, dict(model.pipe.scheduler.config)]
    key = [model.info.structure, model.info.digests, prompt, seed, steps, guidance, size, scheduler, str(model.dtype)]
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _read_group(prior_dir: Path, group: Sequence[int]) -> list[Image.Image] | None:
    """The cached pictures of a group, or None unless every one is there and whole."""
    try:
        return [_read_png(prior_dir / f"{index:05}.png") for index in group]
    except (OSError, SyntaxError, ValueError):
        return None


def _read_png(path: Path) -> Image.Image:
    """One picture of the cache."""
    with Image.open(path, formats=("PNG",)) as image:
        return image.convert("RGB")


def _write_group(prior_dir: Path, group: Sequence[int], images: Sequence[Image.Image]) -> None:
    """Keep the pictures of a group; a cache that cannot be written is passed over."""
    for index, image in zip(group, images, strict=True):
        data = io.BytesIO()
        image.save(data, "PNG")
        if not write_cache_file(prior_dir / f"{index:05}.png", data.getvalue()):
            return
