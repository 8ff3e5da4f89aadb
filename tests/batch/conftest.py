"""Subjects of noise for a small random base model, and their files as one process finds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conestool.cli.main import run

__all__ = ["NAMES", "QUICK", "photo"]

_QUICK = "--steps 2 --density 0.02 --num-class-images 4 --captions none --other-class-weight 0"
QUICK = tuple(_QUICK.split())
NAMES = ("cat-1", "dog-1", "dog-2")


def photo(path: Path, seed: int) -> None:
    """A photo of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="session")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three folders with photos; tests must not change it."""
    folder = tmp_path_factory.mktemp("batch") / "subjects"
    for row, name in enumerate(NAMES):
        for column in range(2):
            photo(folder / name / f"{column}.png", 10 * row + column)
    return folder


@pytest.fixture(scope="session")
def found(subjects: Path, epsilon_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the three, by one process; tests/batch/test_batch.py says that `cones find` makes the same."""
    folder = tmp_path_factory.mktemp("found")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONES_CACHE", str(folder / "cache"))
        words = ["batch", subjects, "-o", folder / "out", "--model", epsilon_folder, *QUICK]
        assert run([str(word) for word in words]) == 0
    return {name: (folder / "out" / f"{name}.cone").read_bytes() for name in NAMES}
