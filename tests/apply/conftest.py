"""Base models in the packagings that other programs use."""

from __future__ import annotations

from pathlib import Path

import pytest

from conestool.models._logging import quiet
from conestool.models.model import Model
from tests.support.model_files import FAMILIES
from tests.support.tiny_models import save


def save_sharded(place: Path, family: str) -> Path:
    """A folder with a small base model of the family, its U-Net in several shards."""
    pipe = FAMILIES[family](place / "parts")
    save(pipe, place / "base")
    (place / "base" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with quiet():
        pipe.unet.save_pretrained(place / "base" / "unet", max_shard_size="40KB")
    return place / "base"


@pytest.fixture
def model(epsilon_folder: Path) -> Model:
    """A fresh copy in memory of the small base model."""
    return Model.from_pretrained(str(epsilon_folder))


@pytest.fixture(scope="session")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small Stable Diffusion 1.x, from a folder; tests must leave it as it is."""
    return Model.from_pretrained(str(save_sharded(tmp_path_factory.mktemp("sd1"), "sd1")))


@pytest.fixture(scope="session")
def sd2(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small Stable Diffusion 2.x, from a folder; tests must leave it as it is."""
    return Model.from_pretrained(str(save_sharded(tmp_path_factory.mktemp("sd2"), "sd2")))
