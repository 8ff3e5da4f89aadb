"""The layer map: where in every K and V matrix a concept's neurons lie, as one picture."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from conestool import _layers
from conestool._text import clean
from conestool.cli import _format, _output
from conestool.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from conestool.concept import Concept, Cone, Indices

CELL = (200, 30)
"""Width and height in pixels of one matrix."""
GAP, MARGIN, HEAD, NAMES, NUMBERS = 10, 20, 104, 150, 80
STRIP = 4
"""Thickness in pixels of the profiles: the shares of the columns below a matrix, and of its rows to the right."""
INK, FAINT, PAPER, EMPTY = (32, 34, 40), (128, 132, 140), (255, 255, 255), (242, 243, 246)
LABEL = 160
"""Characters of a text that are drawn."""
LARGEST = 100_000_000
"""Pixels of a picture: enough for 39 concepts on SDXL."""
DARK = np.array([122, 4, 3], dtype=np.float32)
WARM = np.array([251, 128, 34], dtype=np.float32)


def map_png(cone: Cone) -> bytes:
    """The layer map of all concepts of `cone`, one below the other, as PNG; UsageError if it would be too large."""
    from conestool.rendering.grid import stack

    sizes = [size_of_map(group(concept.base.tensors)) for concept in cone.concepts]
    if max(wide for wide, _ in sizes) * sum(high for _, high in sizes) > LARGEST:
        raise UsageError(
            f"--plot: more than {LARGEST // 1_000_000} million pixels", "extract one concept, and plot its file"
        )
    out = BytesIO()
    stack([draw_map(concept) for concept in cone.concepts], PAPER).save(out, "PNG", optimize=True)
    return out.getvalue()


def draw_map(concept: Concept) -> Image:
    """One row per attention layer; K on the left, V on the right, each a heat map of the share of weights zeroed."""
    from PIL import Image, ImageDraw

    layers = group(concept.base.tensors)
    image = Image.new("RGB", size_of_map(layers), PAPER)
    draw = ImageDraw.Draw(image)
    heading(draw, concept)
    shares = {param: heat(concept.indices.get(param), shape) for param, shape in concept.base.tensors.items()}
    brightest = max((float(share.max()) for share in shares.values()), default=0.0) or 1.0
    for row, (name, params) in enumerate(layers.items()):
        top = HEAD + 24 + row * (CELL[1] + GAP)
        draw.text((MARGIN, top + 8), clean(name, LABEL), fill=INK, font=font(13))
        for column, param in enumerate(params):
            left = MARGIN + NAMES + column * (CELL[0] + NUMBERS + GAP)
            if row == 0:
                draw.text((left, HEAD + 2), clean(title(param), LABEL), fill=FAINT, font=font(13))
            paste_matrix(image, (left, top), shares[param], brightest)
            zeroed = _output.percent(len(concept.indices.get(param, ())) / prod(concept.base.tensors[param]))
            draw.text((left + CELL[0] + STRIP + 8, top + 8), zeroed, fill=FAINT, font=font(12))
    return image


def paste_matrix(image: Image, place: tuple[int, int], share: NDArray[np.float32], brightest: float) -> None:
    """One heat map with its profiles, each of them relative to its own brightest place."""
    left, top = place
    image.paste(paint(share / brightest), place)
    rows, columns = share.mean(1, keepdims=True), share.mean(0, keepdims=True)
    image.paste(paint(rows / (rows.max() or 1), (STRIP, CELL[1])), (left + CELL[0] + 2, top))
    image.paste(paint(columns / (columns.max() or 1), (CELL[0], STRIP)), (left, top + CELL[1] + 2))


def size_of_map(layers: Mapping[str, list[str]]) -> tuple[int, int]:
    """Width and height in pixels of the map of one concept."""
    columns = max(map(len, layers.values()), default=0)
    return (
        2 * MARGIN + NAMES + columns * (CELL[0] + NUMBERS + GAP),
        HEAD + 24 + len(layers) * (CELL[1] + GAP) + MARGIN,
    )


def heading(draw: ImageDraw, concept: Concept) -> None:
    """Name, prompt, number of neurons and base model above the map, and where in it they crowd."""
    first = f"{clean(concept.name, LABEL)}: {clean(concept.phrase, LABEL)}"
    density = _output.percent(concept.density)
    second = f"{concept.neurons:,} concept neurons, {density} of the K/V weights of {clean(concept.base.id, LABEL)}"
    draw.text((MARGIN, MARGIN - 4), first, fill=INK, font=font(18))
    lie = _format.where(concept.info)
    crowd = crowding(concept)
    fullest = ", ".join(
        f"{line} {_output.percent(crowd[line])} (random {_output.percent(crowd[f'random {line}'])})"
        for line in ("rows", "columns")
    )
    lines = (second, f"they lie in {clean(lie, LABEL)}", f"in the fullest tenth of each matrix's {fullest}")
    for number, text in enumerate(lines):
        draw.text((MARGIN, MARGIN + 20 + 20 * number), text, fill=FAINT, font=font(13))


def group(tensors: Mapping[str, Any]) -> dict[str, list[str]]:
    """Param names per layer as shown, in the order of the network, K before V."""
    out: dict[str, list[str]] = {}
    joint = _layers.is_joint(tensors)
    for param in sorted(tensors, key=_layers.natural):
        out.setdefault(_layers.label(_layers.layer_name(param), joint), []).append(param)
    return out


def title(param: str) -> str:
    """What a column of matrices is."""
    return f"{_layers.projection(param)} (rows x columns)"


def heat(values: Indices | None, shape: list[int]) -> NDArray[np.float32]:
    """Share of zeroed weights in a grid over a matrix of `shape`, (at most CELL height, at most CELL width), 0 to 1."""
    rows, columns = (shape[0], prod(shape[1:])) if shape else (1, 1)
    grid = (min(rows, CELL[1]), min(columns, CELL[0]))
    if values is None or not len(values):
        return np.zeros(grid, dtype=np.float32)
    line, place = np.divmod(values.astype(np.int64), columns)
    row, column = line * grid[0] // rows, place * grid[1] // columns
    found = np.bincount(row * grid[1] + column, minlength=grid[0] * grid[1]).reshape(grid)
    heights, widths = (
        np.diff(-(-np.arange(cells + 1) * side // cells)) for cells, side in zip(grid, (rows, columns), strict=True)
    )
    share: NDArray[np.float32] = (found / np.outer(heights, widths)).astype(np.float32)
    return share


def paint(share: NDArray[np.float32], size: tuple[int, int] = CELL) -> Image:
    """Shares 0 to 1 of the brightest as colours, of `size`; the root, so that sparse places show too."""
    from PIL import Image

    level = np.sqrt(share)[..., None]
    colour = np.where(level < 0.5, blend(np.array(EMPTY), WARM, 2 * level), blend(WARM, DARK, 2 * level - 1))
    return Image.fromarray(colour.astype(np.uint8), "RGB").resize(size, Image.Resampling.NEAREST)


def blend(one: NDArray[Any], other: NDArray[Any], level: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours between `one` (level 0) and `other` (level 1)."""
    return np.asarray(one + (other - one) * np.clip(level, 0, 1), dtype=np.float32)


def font(points: int) -> Any:
    """Pillow's own font, so that the picture is the same on every machine."""
    from PIL import ImageFont

    return ImageFont.load_default(points)


FULLEST = 0.1
"""The share of a tensor's rows, or columns, that count as crowded: those with the most neurons."""


def crowding(concept: Concept, seed: int = 0) -> dict[str, float]:
    """Share of the neurons in the fullest tenth of the rows, and of the columns, of each tensor.

    Rows are a projection's outputs, columns its inputs. `random rows` and `random columns` are the same for as many
    random positions in every tensor: with few neurons the fullest tenth holds more than a tenth of any set.
    """
    rng = np.random.default_rng(seed)
    totals = dict.fromkeys(("rows", "columns", "random rows", "random columns"), 0)
    for param, values in concept.indices.items():
        shape = concept.base.tensors[param] or [1]
        rows, columns = shape[0], prod(shape[1:])
        drawn = rng.integers(rows * columns, size=len(values))
        for name, places in (("", values), ("random ", drawn)):
            totals[f"{name}rows"] += fullest(places // columns, rows)
            totals[f"{name}columns"] += fullest(places % columns, columns)
    return {key: count / max(1, concept.neurons) for key, count in totals.items()}


def fullest(lines: Any, count: int) -> int:
    """How many of `lines`, numbers below `count`, fall on the fullest tenth of all lines, at least on one."""
    found = np.sort(np.unique(lines, return_counts=True)[1])[::-1]  # without room for the empty lines of a giant
    return int(found[: max(1, round(FULLEST * count))].sum())
