"""Contact sheets: many small pictures in one PNG, to be looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw


def write_sheet(
    path: Path, images: NDArray[np.uint8], captions: list[str] | None = None, columns: int = 12, zoom: int = 2
) -> None:
    """Write (N, H, W, 3) pictures in rows of ``columns``, each with its caption below."""
    count, height, width, _ = images.shape
    text = 26 if captions else 0
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * (width * zoom + 4), rows * (height * zoom + 4 + text)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        x, y = (i % columns) * (width * zoom + 4), (i // columns) * (height * zoom + 4 + text)
        sheet.paste(Image.fromarray(image).resize((width * zoom, height * zoom), Image.Resampling.LANCZOS), (x, y))
        if captions:
            per_line = width * zoom // 6
            lines = [captions[i][k : k + per_line] for k in range(0, len(captions[i]), per_line)]
            draw.text((x, y + height * zoom), "\n".join(lines[:2]), fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def to_uint8(images: object) -> NDArray[np.uint8]:
    """Turn a (N, 3, H, W) tensor in [-1, 1] into (N, H, W, 3) bytes."""
    array = images.detach().float().cpu().numpy()  # type: ignore[attr-defined]
    return np.asarray(((array.transpose(0, 2, 3, 1) + 1) * 127.5).clip(0, 255), np.uint8)
