"""Where a picture shows what its prompt names: on pocket, which knows its things, and on masks whose place is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conestool.images.photos import square, to_latents
from conestool.images.segmentation import bounding_square, diffedit_difference, otsu_threshold
from conestool.models.model import Model

EXAMPLES = Path(__file__).parents[2] / "examples" / "openmoji"


@pytest.fixture(scope="module")
def pocket() -> Model:
    """The model that draws."""
    return Model.from_pretrained("pocket")


def subject_cells(photo: Image.Image, cells: int) -> torch.Tensor:
    """Of a photo with a plain background the cells that are mostly something else, (cells, cells)."""
    pixels = np.asarray(photo, dtype=np.float32)
    other = (np.abs(pixels - pixels[2, 2]).max(2) > 60).astype(np.float32)
    return torch.from_numpy(np.asarray(Image.fromarray(other).resize((cells, cells), Image.Resampling.BOX)) > 0.5)


@pytest.mark.parametrize(("noun", "photo"), [("dog", 2), ("rabbit", 2), ("bear", 2), ("house", 4)])
def test_pocket_says_where_a_subject_is(pocket: Model, noun: str, photo: int) -> None:
    """In photos of designs and colours that it never saw: what it finds and what is there have most in common."""
    image = square(Image.open(EXAMPLES / noun / f"{photo}.jpg").convert("RGB"), 64)
    instead = [["a photo of a boat", "a photo of a cup"]]
    found = diffedit_difference(pocket, to_latents(pocket, [image]), [f"a photo of a {noun}"], instead)[0].cpu() > 1
    truth = subject_cells(image, found.shape[0])
    assert (found & truth).sum() / (found | truth).sum() > 0.5


def test_of_two_things_the_one_asked_for_is_found(pocket: Model) -> None:
    """Two photos side by side: the dog's half for "dog", the house's for "house"; the same seed gives the same."""
    image = Image.new("RGB", (64, 64))
    for left, (noun, photo) in ((0, ("dog", 5)), (32, ("house", 5))):
        image.paste(Image.open(EXAMPLES / noun / f"{photo}.jpg").convert("RGB").resize((32, 32)), (left, 16))
    prompt = "a photo of a dog and a house"
    instead = [["a photo of a cup and a house"], ["a photo of a dog and a cup"]]
    latents = to_latents(pocket, [image, image])
    dog, house = diffedit_difference(pocket, latents, [prompt, prompt], instead) > 1
    assert bounding_square(dog)[1] < len(dog) / 2 < bounding_square(house)[1]
    assert torch.equal(diffedit_difference(pocket, latents, [prompt, prompt], instead, batch=1)[0] > 1, dog)


def test_the_threshold_and_the_extent_of_a_mask() -> None:
    """The largest of many small values; of a square its middle and side; one cell, and none, taken for the whole."""
    assert otsu_threshold(torch.tensor([5.0, 1.0, 1.1, 0.9, 5.2, 1.0])) == pytest.approx(1.1)
    assert otsu_threshold(torch.ones(4)) == 1.0
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[1:5, 3:7] = True
    row, column, side = bounding_square(mask)
    assert (row, column) == (3.0, 5.0) and side == pytest.approx(4, abs=0.2)
    assert bounding_square(torch.eye(8, dtype=torch.bool) & (torch.arange(8) == 2)) == (2.5, 2.5, 1.0)
    assert bounding_square(torch.zeros(8, 8, dtype=torch.bool))[:2] == (4.0, 4.0)
