"""Base models in the packagings that other programs use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from diffusers import UNet2DConditionModel

from conestool.diffusion.quiet import quiet
from tests.patch.real import shrunk
from tests.tiny import make_pipeline


def make_family(folder: Path, family: str) -> Any:
    """A random pipeline with the blocks of Stable Diffusion 1.x ("sd1") or 2.x ("sd2") and few channels."""
    pipe = make_pipeline(folder, "v_prediction" if family == "sd2" else "epsilon", tiny=False)
    pipe.unet = UNet2DConditionModel(**shrunk(family, 16))
    if family == "sd2":
        pipe.text_encoder.config.hidden_act = "gelu"
    return pipe


@pytest.fixture(scope="session", params=["sd1", "sd2"])
def family_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base model of each family, its U-Net in several shards; tests must not change its files."""
    place: Path = tmp_path_factory.mktemp("families")
    with quiet():
        pipe = make_family(place / "parts", request.param)
        pipe.save_pretrained(place / "base")
        (place / "base" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        pipe.unet.save_pretrained(place / "base" / "unet", max_shard_size="100KB")
    return place / "base"
