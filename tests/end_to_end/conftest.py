"""A small random base model in CONES_MODEL, photos, and concepts that `find` found on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from conestool.cli.main import run
from tests.support.command_line import Cones
from tests.support.photos import draw_photos

SHORT = ("--num-class-images", "4", "--steps", "4", "--density", "0.02", "--device", "cpu")
FIND = (*SHORT, "--no-sheet", "--captions", "none", "--other-class-weight", "0")


@pytest.fixture
def model(epsilon_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The base model of every command of a test."""
    monkeypatch.setenv("CONES_MODEL", str(epsilon_folder))
    return epsilon_folder


@pytest.fixture(scope="session")
def found(epsilon_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """dog.cone and hat.cone as `find` writes them, found once for all tests."""
    place = tmp_path_factory.mktemp("found")
    with pytest.MonkeyPatch.context() as context:
        context.setenv("CONES_MODEL", str(epsilon_folder))
        context.setenv("CONES_CACHE", str(place / "cache"))
        for name, colour in (("dog", "teal"), ("hat", "red")):
            draw_photos(place / name, colour)
            assert run(["find", str(place / name), "-o", str(place / f"{name}.cone"), "-q", *FIND]) == 0
    return place / "dog.cone", place / "hat.cone"


@pytest.fixture
def here(found: tuple[Path, Path], model: Path, work: Path, cones: Cones) -> Path:
    """The folder of the run, with copies of dog.cone and hat.cone."""
    for file in found:
        (work / file.name).write_bytes(file.read_bytes())
    return work
