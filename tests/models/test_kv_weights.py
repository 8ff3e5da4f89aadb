"""K/V weights: all of them, under the same names however the denoiser is wrapped, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import nn

from conestool.errors import UsageError
from conestool.models.kv_weights import kv_weights
from tests.support.tiny_models import make_unet


@pytest.fixture
def unet() -> UNet2DConditionModel:
    """A small U-Net."""
    return make_unet(0, cross=16)


def test_finds_k_and_v_of_self_and_cross_attention(unet: UNet2DConditionModel) -> None:
    """Four matrices per transformer block, as scalars in (out, in) matrices, in name order."""
    weights = kv_weights(unet)
    blocks = {name.rsplit(".attn", 1)[0] for name in weights}
    assert len(weights) == 4 * len(blocks) == 28
    assert list(weights) == sorted(weights)
    assert all(weight.dim() == 2 for weight in weights.values())
    assert all(weights[name] is dict(unet.named_parameters())[name] for name in weights)


def test_the_text_alone_passes_through_those_of_cross_attention(unet: UNet2DConditionModel) -> None:
    """Half of them, all in `attn2`; a denoiser whose attention never sees the text has none to offer."""
    weights, cross = kv_weights(unet), kv_weights(unet, "cross")
    assert list(cross) == [name for name in weights if ".attn2." in name] and 2 * len(cross) == len(weights)
    shape: dict[str, Any] = {"sample_size": 8, "block_out_channels": (8, 8), "norm_num_groups": 4}
    kinds = {"down_block_types": ("AttnDownBlock2D",) * 2, "up_block_types": ("AttnUpBlock2D",) * 2}
    with pytest.raises(UsageError, match="of the text alone"):
        kv_weights(UNet2DModel(**shape, **kinds), "cross")


def test_compiled_and_lora_wrapped_denoisers_have_the_same_names(unet: UNet2DConditionModel) -> None:
    """Neither torch.compile's nor peft's additions to a name count, and LoRA's own matrices are not K/V weights."""
    names = list(kv_weights(unet))
    compiled: Any = torch.compile(unet)
    assert list(kv_weights(compiled)) == names
    for module in unet.modules():
        if hasattr(module, "to_k"):
            wrapped = nn.Module()
            wrapped.base_layer, wrapped.lora_A = module.to_k, nn.Linear(2, 2)
            module.to_k = wrapped
    assert list(kv_weights(unet)) == names


def test_refuses_what_cannot_be_zeroed_scalar_by_scalar(unet: UNet2DConditionModel) -> None:
    """Fused, offloaded and quantised weights, each with what to do, and a denoiser without attention."""
    with pytest.raises(UsageError, match="offloaded"):
        kv_weights(make_unet(0, cross=16).to("meta"))
    with pytest.raises(UsageError, match="float64"):
        kv_weights(make_unet(0, cross=16).double())
    shape: dict[str, Any] = {"sample_size": 8, "block_out_channels": (8, 8), "norm_num_groups": 4}
    kinds = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    with pytest.raises(UsageError, match="no K/V projections"):
        kv_weights(UNet2DModel(**shape, **kinds, add_attention=False))
    unet.fuse_qkv_projections()
    with pytest.raises(UsageError, match="fuses K and V"):
        kv_weights(unet)
