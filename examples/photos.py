"""Photos of a drawn subject: five scenes, each with the subject a little elsewhere, larger and turned."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from training.pocket import backgrounds

#: Pixels of a side.
SIZE = 256
#: Centre of the subject and its longer side in shares of the photo, and its angle in degrees.
Pose = tuple[tuple[float, float], float, float]
#: Where and how a subject stands in the photo that no search has.
UNSEEN_PLACE, UNSEEN_POSE = "plain", ((0.52, 0.51), 0.70, -2)


def take_photos(
    name: str, places: Sequence[str], poses: Sequence[Pose], draw: Callable[[int], Image.Image]
) -> list[Image.Image]:
    """Return one RGB photo (256, 256) of each pose before its place.

    `draw` returns the subject on a transparent ground for a longer side in pixels. The name fixes every random choice.
    """
    seed = sum(name.encode())
    rng = random.Random(seed)
    canvas = backgrounds.paint(list(places), SIZE, torch.Generator().manual_seed(seed), torch.device("cpu"))
    pictures = []
    for scene, ((x, y), size, angle) in zip(canvas, poses, strict=True):
        picture = Image.fromarray((scene.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
        turn = angle + rng.uniform(-2, 2)
        sprite = draw(round(size * SIZE)).rotate(turn, Image.Resampling.BICUBIC, expand=True)
        picture.paste(sprite, (round(x * SIZE - sprite.width / 2), round(y * SIZE - sprite.height / 2)), sprite)
        pictures.append(picture)
    return pictures


def take_unseen_photo(name: str, draw: Callable[[int], Image.Image]) -> Image.Image:
    """Return one photo more, which lies in no folder of photos to learn from; `draw` as in `take_photos`."""
    [photo] = take_photos(f"{name} once more", [UNSEEN_PLACE], [UNSEEN_POSE], draw)
    return photo


def write_photos(folder: Path, pictures: Sequence[Image.Image]) -> None:
    """Write `1.jpg`, `2.jpg`, ... into a folder."""
    for number, picture in enumerate(pictures, 1):
        write_photo(picture, folder / f"{number}.jpg")


def write_photo(picture: Image.Image, path: Path) -> None:
    """Write one photo, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=92)
