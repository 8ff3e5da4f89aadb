"""Contact sheets: every picture whole and where its labels say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageColor

from conestool.errors import UsageError
from conestool.rendering import grid
from conestool.rendering.grid import PAPER

COLOURS = ["red", "lime", "blue", "yellow", "cyan", "magenta"]


def tiles(size: tuple[int, int] = (64, 64)) -> list[list[Image.Image]]:
    """Two rows of three plain pictures."""
    made = [Image.new("RGB", size, colour) for colour in COLOURS]
    return [made[:3], made[3:]]


def areas(sheet: Image.Image) -> dict[str, tuple[int, int, int, int]]:
    """Where each plain colour is on the sheet."""
    pixels = np.asarray(sheet)
    found = {}
    for colour in COLOURS:
        y, x = np.nonzero((pixels == ImageColor.getrgb(colour)).all(2))
        found[colour] = (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)
    return found


def test_pictures_lie_in_rows_and_columns_enlarged_by_a_whole_factor() -> None:
    """64 pixels become 256, without gaps inside and in reading order."""
    boxes = areas(grid(tiles(), ["one", "two"], ["a", "b", "c"]))
    assert all((right - left, bottom - top) == (256, 256) for left, top, right, bottom in boxes.values())
    assert boxes["red"][0] < boxes["lime"][0] < boxes["blue"][0] and boxes["red"][1] == boxes["blue"][1]
    assert boxes["yellow"][0] == boxes["red"][0] and boxes["yellow"][1] > boxes["red"][3]


def test_labels_take_space_only_when_there_are_any() -> None:
    """Row labels above rows, column labels on top; long ones wrap and grow the sheet, never its width."""
    bare, headed = grid(tiles()), grid(tiles(), columns=["a", "b", "c"])
    long = grid(tiles(), rows=["a dog in a hat " * 30, "x" * 500])
    assert headed.height > bare.height and long.height > headed.height
    assert bare.width == headed.width == long.width


def ink(sheet: Image.Image, box: tuple[int, int, int, int]) -> int:
    """How many pixels in a part of the sheet are not paper."""
    part = sheet.crop(box)
    return sum(ImageChops.difference(part, Image.new("RGB", part.size, PAPER)).convert("L").histogram()[40:])


def test_labels_are_written_where_they_belong() -> None:
    """Ink above the first row for columns, between rows for rows, none in the margins."""
    sheet = grid(tiles(), ["first", "second"], ["left", "middle", "right"])
    boxes = areas(sheet)
    for colour in ("red", "lime", "blue"):
        left, top, right, _ = boxes[colour]
        assert ink(sheet, (left, 0, right, top)) > 20
    assert ink(sheet, (0, boxes["red"][3], sheet.width, boxes["yellow"][1])) > 20
    assert ink(sheet, (0, 0, boxes["red"][0] - 1, sheet.height)) == 0


def test_empty_cells_uneven_rows_and_large_pictures() -> None:
    """None and missing cells stay paper; smaller pictures sit in the middle; at 512 pixels nothing is resampled."""
    small, red = Image.new("RGB", (32, 64), "lime"), Image.new("RGB", (64, 64), "red")
    sheet = grid([[red, None, small], [red]])
    assert sheet.width > 3 * 256
    assert {colour for _, colour in sheet.getcolors(1 << 20) or []} == {PAPER, (255, 0, 0), (0, 255, 0)}
    noise = Image.effect_noise((512, 512), 80).convert("RGB")
    sheet = grid([[noise]])
    left = (sheet.width - 512) // 2
    assert sheet.crop((left, left, left + 512, left + 512)).tobytes() == noise.tobytes()
    with pytest.raises(UsageError):
        grid([[None]])
