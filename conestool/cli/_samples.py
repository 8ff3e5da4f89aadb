"""The sheet that `find` draws beside its file: the photos, the base model, and the concept in scenes and strengths."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conestool.cli import _output
from conestool.cli._output import after

if TYPE_CHECKING:
    from PIL.Image import Image

    from conestool.concept import Cone
    from conestool.images.photos import Photo
    from conestool.models.model import Model

__all__ = ["draw_samples", "samples_path"]

SCENES = ("a photo of {}", "{} on the beach", "{} in the snow")
STRENGTHS = (0.25, 0.5, 0.75)


def samples_path(output: Path) -> Path:
    """Where the sheet of `dog.cone` goes: dog-samples.png beside it."""
    return output.with_name(f"{output.stem}-samples.png")


def draw_samples(base: Model, cone: Cone, photos: Sequence[Photo]) -> bytes:
    """The sheet as PNG: photos, then three scenes by the base model and by the concept, then the concept weakened."""
    from conestool.rendering import grid, render
    from conestool.search.subject import article

    (concept,) = cone.concepts
    scenes = [[scene.format(article(words)) for scene in SCENES] for words in (concept.class_noun, concept.phrase)]
    rows = [[fitted(photo.image, base.defaults.size) for photo in photos[: len(SCENES)]]]
    with _output.progress("samples", 2 * len(SCENES) + len(STRENGTHS)) as tick:
        drawn = render(base, scenes[0], progress=after(tick, 0))
        drawn += render(base, scenes[1], cone, literal=True, progress=after(tick, len(SCENES)))
        for strength in STRENGTHS:
            done = len(drawn)
            drawn += render(base, scenes[1][0], cone, literal=True, strength=strength, progress=after(tick, done))
    rows += [[each.image for each in drawn[start : start + 3]] for start in range(0, len(drawn), 3)]
    labels = [
        "photos",
        f"base model: {', '.join(scenes[0])}",
        f"{concept.name}: {', '.join(scenes[1])}",
        f"{scenes[1][0]}: strength {', '.join(f'{strength:g}' for strength in STRENGTHS)}",
    ]
    out = io.BytesIO()
    grid(rows, labels).save(out, "PNG")
    return out.getvalue()


def fitted(image: Image, side: int) -> Image:
    """The middle square of a photo, as large as the pictures beside it."""
    from PIL import ImageOps

    return ImageOps.fit(image, (side, side))
