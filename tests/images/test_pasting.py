"""One picture's subject in the place of another picture's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from conestool.images.pasting import paste_subject


def square(rows: slice, columns: slice, shape: tuple[int, int] = (8, 16)) -> torch.Tensor:
    """A mask that is set there."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


def test_a_subject_takes_the_place_and_the_size_of_the_spot() -> None:
    """In a wide picture, whose other parts stay as they are."""
    scene, picture = Image.new("RGB", (128, 64), "white"), Image.new("RGB", (128, 64), "red")
    cut, spot = square(slice(1, 7), slice(1, 7)), square(slice(2, 5), slice(11, 14))
    out, share = paste_subject(scene, spot, picture, cut)
    assert torch.equal(share > 0.5, spot) and share.shape == spot.shape
    pixels = np.asarray(out)
    assert (pixels[22:34, 94:106, 1] < 20).all() and (pixels[:, :76] == 255).all()
    assert (np.asarray(scene) == 255).all()


def test_a_subject_is_scaled_and_kept_within_sides() -> None:
    """About its middle; what reaches beyond the picture is cut off."""
    scene, picture = Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64), "red")
    whole, corner = square(slice(0, 4), slice(0, 4), (8, 8)), square(slice(0, 4), slice(0, 4), (8, 8))
    areas = [
        float(paste_subject(scene, corner, picture, whole, scale=scale, sides=sides)[1].sum())
        for scale, sides in ((1.0, (0.0, 1.0)), (0.5, (0.0, 1.0)), (0.5, (0.5, 1.0)), (1.0, (0.0, 0.25)))
    ]
    assert areas == pytest.approx([16, 4, 16, 4], rel=0.1)
    _, moved = paste_subject(scene, square(slice(6, 8), slice(6, 8), (8, 8)), picture, whole, scale=2.0)
    assert moved[4:, 4:].sum() == moved.sum() > 0
