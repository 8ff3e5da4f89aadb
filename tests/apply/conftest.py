"""Base models in the packagings that other programs use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from conestool.models._logging import quiet
from conestool.models.model import Model
from tests.support.real_models import shrunk
from tests.support.tiny_models import make_pipeline


def make_family(folder: Path, family: str) -> Any:
    """A random pipeline with the blocks of Stable Diffusion 1.x ("sd1") or 2.x ("sd2") and few channels."""
    pipe = make_pipeline(folder, "v_prediction" if family == "sd2" else "epsilon", tiny=False)
    pipe.unet = UNet2DConditionModel(**shrunk(family, 16))
    if family == "sd2":
        pipe.text_encoder.config.hidden_act = "gelu"
    return pipe


def make_sdxl(folder: Path) -> Any:
    """A random StableDiffusionXLPipeline with few channels, whose text encoders have different widths."""
    plain = make_pipeline(folder, tiny=False)
    second = CLIPTextConfig(**plain.text_encoder.config.to_dict() | {"hidden_size": 24, "projection_dim": 20})
    second.hidden_act = "gelu"
    small = {"transformer_layers_per_block": (1, 1, 2), "addition_time_embed_dim": 8}
    unet = UNet2DConditionModel(
        **shrunk("sdxl", 40) | small | {"projection_class_embeddings_input_dim": 6 * 8 + second.projection_dim}
    )
    return StableDiffusionXLPipeline(
        vae=plain.vae,
        text_encoder=plain.text_encoder,
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=plain.tokenizer,
        tokenizer_2=plain.tokenizer,
        unet=unet,
        scheduler=plain.scheduler,
        add_watermarker=False,
    )


def save_family(place: Path, family: str) -> Path:
    """A folder with a small base model of the family, its U-Net in several shards."""
    with quiet():
        pipe = make_family(place / "parts", family)
        pipe.save_pretrained(place / "base")
        (place / "base" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        pipe.unet.save_pretrained(place / "base" / "unet", max_shard_size="100KB")
    return place / "base"


@pytest.fixture(scope="session")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small Stable Diffusion 1.x, from a folder; tests must leave it as it is."""
    return Model.from_pretrained(str(save_family(tmp_path_factory.mktemp("sd1"), "sd1")))


@pytest.fixture(scope="session")
def sd2(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small Stable Diffusion 2.x, from a folder; tests must leave it as it is."""
    return Model.from_pretrained(str(save_family(tmp_path_factory.mktemp("sd2"), "sd2")))
