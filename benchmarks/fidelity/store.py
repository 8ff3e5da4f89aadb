"""Results on disk: one JSON file and one mask per cell, in a folder per base model, so that weights never mix."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from conestool._atomic import write_atomic

CELL_FOLDER = "cells"
"""Below the output folder; holds a folder per base model."""


@dataclass(frozen=True)
class Store:
    """The folder of one base model's results."""

    folder: Path

    def path(self, key: str, ending: str) -> Path:
        """Where the file of a cell lies; every part of its key is made a file name."""
        *parts, last = (re.sub(r"[^\w.,=+-]", "_", part) for part in key.split("/"))
        return self.folder.joinpath(*parts, f"{last}.{ending}")

    def has(self, key: str) -> bool:
        """Whether the cell is there."""
        return self.path(key, "json").is_file()

    def save(self, key: str, record: dict[str, Any]) -> None:
        """Write a cell's record, whole or not at all."""
        self.write(self.path(key, "json"), json.dumps(record | {"key": key}, indent=1).encode())

    def load(self, key: str) -> dict[str, Any]:
        """A cell's record."""
        record: dict[str, Any] = json.loads(self.path(key, "json").read_text(encoding="utf-8"))
        return record

    def records(self) -> Iterator[dict[str, Any]]:
        """All records, in the order of their paths."""
        for path in sorted(self.folder.rglob("*.json")):
            yield json.loads(path.read_text(encoding="utf-8"))

    def save_mask(self, key: str, shut: Tensor) -> None:
        """Keep a set of weights, a bit for each."""
        data = io.BytesIO()
        np.savez_compressed(data, bits=np.packbits(shut.cpu().numpy()), count=shut.numel())
        self.write(self.path(key, "npz"), data.getvalue())

    def load_mask(self, key: str) -> Tensor:
        """The set of weights of a cell, boolean."""
        with np.load(self.path(key, "npz")) as file:
            return torch.from_numpy(np.unpackbits(file["bits"], count=int(file["count"])).astype(bool))

    def save_pictures(self, key: str, images: list[Image.Image]) -> None:
        """Keep pictures side by side in one PNG."""
        strip = Image.new("RGB", (sum(image.width for image in images), images[0].height))
        for index, image in enumerate(images):
            strip.paste(image, (index * image.width, 0))
        data = io.BytesIO()
        strip.save(data, "PNG")
        self.write(self.path(key, "png"), data.getvalue())

    def load_pictures(self, key: str) -> list[Image.Image]:
        """The pictures of a cell, squares again; none where none were drawn."""
        path = self.path(key, "png")
        if not path.is_file():
            return []
        strip = Image.open(path).convert("RGB")
        side = strip.height
        return [strip.crop((left, 0, left + side, side)) for left in range(0, strip.width, side)]

    def write(self, path: Path, data: bytes) -> None:
        """Write a file, making its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data, overwrite=True)
