"""Contact sheets: pictures in labelled rows and columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from conestool._text import clean
from conestool.errors import UsageError

PAPER = (250, 249, 246)
INK = (32, 33, 36)
FAINT = (110, 112, 118)
LABEL = 300
"""Characters of a label that are drawn."""
LEAST = 256
"""Side to which smaller pictures are enlarged, at least."""


@dataclass(frozen=True)
class Layout:
    """Measures of a sheet in pixels: the cell, the gap between cells, the margin, and the two fonts."""

    cell: tuple[int, int]
    gap: int
    margin: int
    head: ImageFont.FreeTypeFont | ImageFont.ImageFont
    body: ImageFont.FreeTypeFont | ImageFont.ImageFont
    columns: int

    @property
    def width(self) -> int:
        """Width of the whole sheet."""
        return 2 * self.margin + self.columns * self.cell[0] + (self.columns - 1) * self.gap

    @property
    def inner(self) -> int:
        """Width between the margins."""
        return self.width - 2 * self.margin


def grid(
    images: Sequence[Sequence[Image.Image | None]], rows: Sequence[str] = (), columns: Sequence[str] = ()
) -> Image.Image:
    """One picture of many: `rows` labels above each row (such as its prompt), `columns` labels above each column.

    Cells have the size of the largest picture, and pictures below 256 pixels are enlarged by a whole factor. Labels (in
    Latin script, Pillow's own font) grow with the cells, wrap and are cut after 300 characters; where there are none
    they take no space. None leaves a cell empty; rows may be of different length.
    """
    rows, columns = ([clean(label, LABEL) for label in labels] for labels in (rows, columns))
    shown = [image for row in images for image in row if image is not None]
    if not shown:
        raise UsageError("a contact sheet needs at least one picture")
    layout = measure(shown, max(len(row) for row in images))
    head = label_height(columns, [layout.cell[0]] * len(columns), layout.head)
    between = 2 * layout.gap if rows else layout.gap
    row_heads = [label_height(rows[i : i + 1], [layout.inner], layout.body) for i in range(len(images))]
    height = 2 * layout.margin + head + sum(row_heads) + len(images) * (layout.cell[1] + between) - between
    sheet = Image.new("RGB", (layout.width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, label in enumerate(columns[: layout.columns]):
        centre = layout.margin + index * (layout.cell[0] + layout.gap) + layout.cell[0] // 2
        write(draw, (centre, layout.margin), label, layout.cell[0], layout.head, INK, "ma")
    y = layout.margin + head
    for index, row in enumerate(images):
        for label in rows[index : index + 1]:
            write(draw, (layout.margin, y), label, layout.inner, layout.body, FAINT, "la")
        y += row_heads[index]
        paste_row(sheet, row, y, layout)
        y += layout.cell[1] + between
    return sheet


def stack(images: Sequence[Image.Image], paper: tuple[int, int, int] = PAPER) -> Image.Image:
    """Pictures of any width, one below the other."""
    whole = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), paper)
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    return whole


def measure(shown: Sequence[Image.Image], columns: int) -> Layout:
    """The layout for pictures of these sizes in so many columns."""
    width, height = max(image.width for image in shown), max(image.height for image in shown)
    factor = max(1, math.ceil(LEAST / max(width, height)))
    cell = (width * factor, height * factor)
    unit = max(cell) / 16
    fonts = [ImageFont.load_default(max(11, round(size * unit))) for size in (1.15, 1.05)]
    return Layout(cell, max(6, round(0.5 * unit)), max(10, round(1.2 * unit)), fonts[0], fonts[1], columns)


def paste_row(sheet: Image.Image, row: Sequence[Image.Image | None], y: int, layout: Layout) -> None:
    """Put the pictures of one row in the middle of their cells."""
    for index, image in enumerate(row):
        if image is None:
            continue
        factor = min(layout.cell[0] // image.width, layout.cell[1] // image.height)
        large = image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)
        x = layout.margin + index * (layout.cell[0] + layout.gap)
        sheet.paste(large, (x + (layout.cell[0] - large.width) // 2, y + (layout.cell[1] - large.height) // 2))


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    label: str,
    width: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colour: tuple[int, int, int],
    anchor: str,
) -> None:
    """Draw a label, wrapped to `width`, from `place` downwards."""
    for number, line in enumerate(wrap(label, width, font)):
        draw.text((place[0], place[1] + number * line_height(font)), line, font=font, fill=colour, anchor=anchor)


def label_height(
    labels: Sequence[str], widths: Sequence[int], font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> int:
    """Height of the tallest of `labels` once wrapped, with the space below it; 0 if there are none."""
    lines = max((len(wrap(label, width, font)) for label, width in zip(labels, widths, strict=False)), default=0)
    return lines * line_height(font) + (line_height(font) // 3 if lines else 0)


def line_height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    """Distance between two lines."""
    return math.ceil((font.getbbox("Ag")[3]) * 1.25)


def wrap(label: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines of `label` that fit into `width`; a single word that does not is cut into pieces."""
    lines: list[str] = []
    for word in label.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        while font.getlength(word) > width and len(word) > 1:
            fits = max(1, next(n for n in range(len(word), 0, -1) if n == 1 or font.getlength(word[:n]) <= width))
            lines.append(word[:fits])
            word = word[fits:]
        lines.append(word)
    return lines
