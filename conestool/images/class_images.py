"""Class images: what the base model itself draws for a prompt, against which a concept must not drift."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

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
    batch: int = GROUP_SIZE,
    progress: Progress | None = None,
) -> list[Image.Image]:
    """`n` pictures of `prompt` by the base model, kept as PNG under the model's hash, prompt, seed and settings.

    Of several prompts the pictures show one after the other, and begin again. Pictures are drawn in whole groups of
    eight, so that the k-th is the same however many are asked for and however many were there already; the k-th has
    seed `seed * 1,000,003 + k`. `batch` of a group are drawn at once; fewer take less memory. Reports progress as
    (done, n).
    """
    prior_dir = _prior_dir(model, prompt, seed)
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    images: list[Image.Image] = []
    for first in range(0, n, GROUP_SIZE):
        group = range(first, first + GROUP_SIZE)
        drawn = _read_group(prior_dir, group)
        if drawn is None:
            seeds = [seed * 1_000_003 + index for index in group]
            drawn = sample(model, [texts[index % len(texts)] for index in group], seeds, batch=batch)
            _write_group(prior_dir, group, drawn)
        images += drawn
        if progress:
            progress(min(len(images), n), n)
    return images[:n]


def count_missing(model: Model, prompt: str | Sequence[str], n: int, seed: int = 0) -> int:
    """How many pictures `class_images` would have to draw for `n` of them."""
    prior_dir = _prior_dir(model, prompt, seed)
    groups = (range(first, first + GROUP_SIZE) for first in range(0, n, GROUP_SIZE))
    return sum(GROUP_SIZE for group in groups if _read_group(prior_dir, group) is None)


def _prior_dir(model: Model, prompt: str | Sequence[str], seed: int) -> Path:
    """The cache folder of pictures, named by a hex digest of everything that decides them."""
    info, usual = model.info, model.defaults
    scheduler = [type(model.pipe.scheduler).__name__, dict(model.pipe.scheduler.config)]
    drawing = [usual.steps, usual.guidance, usual.size, scheduler, str(model.dtype)]
    key = json.dumps([info.structure, info.digests, prompt, seed, *drawing], sort_keys=True, default=str)
    return cache_dir() / "prior" / hashlib.sha256(key.encode()).hexdigest()[:32]


def _read_group(prior_dir: Path, group: Sequence[int]) -> list[Image.Image] | None:
    """The cached pictures of a group, or None unless every one is there and whole."""
    images = []
    try:
        for index in group:
            with Image.open(prior_dir / f"{index:05}.png", formats=("PNG",)) as image:
                images.append(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        return None
    return images


def _write_group(prior_dir: Path, group: Sequence[int], images: Sequence[Image.Image]) -> None:
    """Keep the pictures of a group; a cache that cannot be written is passed over."""
    for index, image in zip(group, images, strict=True):
        data = io.BytesIO()
        image.save(data, "PNG")
        if not write_cache_file(prior_dir / f"{index:05}.png", data.getvalue()):
            return
