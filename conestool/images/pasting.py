"""One picture's subject over another picture, in the place and in the size of what a mask shows there."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from conestool.images.segmentation import bounding_square


def paste_subject(
    scene: Image.Image,
    spot: Tensor,
    picture: Image.Image,
    cut: Tensor,
    *,
    scale: float = 1.0,
    sides: tuple[float, float] = (0.0, 1.0),
) -> tuple[Image.Image, Tensor]:
    """The scene with what `cut`, boolean (h, w), leaves of the picture over the `spot`, boolean (h, w).

    Also how much of every cell is the picture's, (h, w), 0 to 1. Both pictures are of one size. The subject is as large
    as the spot times `scale`, within `sides`: the smallest and the largest side, as shares of the scene's height.
    """
    rows, columns = cut.shape
    pixels = scene.height / rows
    (row, column, size), (top, left, own) = bounding_square(spot), bounding_square(cut)
    ratio = min(max(scale * size, sides[0] * rows), sides[1] * rows) / own
    resized = max(2, round(scene.width * ratio)), max(2, round(scene.height * ratio))
    corner = round((column - left * ratio) * pixels), round((row - top * ratio) * pixels)
    mask = Image.fromarray((cut * 255).byte().cpu().numpy()).resize(scene.size, Image.Resampling.BICUBIC)
    mask = mask.resize(resized, Image.Resampling.LANCZOS)
    out, layer = scene.copy(), Image.new("L", scene.size)
    out.paste(picture.resize(resized, Image.Resampling.LANCZOS), corner, mask)
    layer.paste(mask, corner)
    # in floats: means of bytes would be rounded to 0 where a cell is changed a little
    means = layer.convert("F").resize((columns, rows), Image.Resampling.BOX)
    return out, torch.from_numpy(np.asarray(means, dtype=np.float32) / 255)
