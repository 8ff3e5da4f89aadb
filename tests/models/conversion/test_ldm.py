"""The original key layout, held against diffusers' own reader of it and against names in published checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import single_file_utils as reader
from torch import Tensor

from benchmarks.configurations import UNETS
from conestool.errors import UsageError
from conestool.models.conversion.ldm import (
    clip_state_dict,
    open_clip_state_dict,
    unet_names,
    unet_state_dict,
    vae_state_dict,
)
from tests.support.tiny_models import make_text_encoder, make_tokenizer, make_vae

KNOWN = {
    "sd1": {
        "output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.5.2.conv.bias": (1280,),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "input_blocks.10.0.emb_layers.1.weight": (1280, 1280),
        "middle_block.1.transformer_blocks.0.attn2.to_v.weight": (1280, 768),
        "out.2.weight": (4, 320, 3, 3),
    },
    "sd2": {
        "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
        "output_blocks.8.2.conv.weight": (640, 640, 3, 3),
        "input_blocks.1.1.proj_in.weight": (320, 320),
    },
    "sdxl": {
        "label_emb.0.0.weight": (1280, 2816),
        "input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight": (640, 2048),
        "input_blocks.8.1.transformer_blocks.9.attn2.to_v.weight": (1280, 2048),
        "output_blocks.2.2.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.8.0.skip_connection.weight": (320, 640, 1, 1),
    },
}
"""Names and shapes in v1-5-pruned, v2-1_768 and sd_xl_base_1.0."""


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state as it lies in a checkpoint."""
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize("family", UNETS)
def test_every_unet_tensor_has_its_original_name(family: str) -> None:
    """At the real configurations, diffusers reads each tensor back under the name that it came from."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[family])
    state = unet.state_dict()
    original = unet_state_dict(state, unet.config)
    back = reader.convert_ldm_unet_checkpoint(prefixed("model.diffusion_model.", original), unet.config)
    assert back.keys() == state.keys()
    assert all(back[key] is value for key, value in state.items())
    for name, shape in KNOWN[family].items():
        assert tuple(original[name].shape) == shape, name


def test_levels_may_have_different_numbers_of_layers() -> None:
    """Blocks are counted, not computed from one number: two layers, then one, then three."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS["sd1"] | {"layers_per_block": (2, 1, 3, 1)})
    names = unet_names(unet.config)
    assert names["down_blocks.1.resnets.0"] == "input_blocks.4.0"
    assert names["down_blocks.2.attentions.0"] == "input_blocks.6.1"
    assert names["up_blocks.0.upsamplers.0.conv"] == "output_blocks.1.1.conv"
    assert names["up_blocks.1.upsamplers.0.conv"] == "output_blocks.5.2.conv"
    original = unet_state_dict(unet.state_dict(), unet.config)
    assert len(original) == len(unet.state_dict())


CONFIG = {"mid_block_type": "UNetMidBlock2DCrossAttn", "class_embed_type": None, **UNETS["sd1"]}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"down_block_types": ("AttnDownBlock2D",) * 4}, "AttnDownBlock2D"),
        ({"mid_block_type": "UNetMidBlock2D"}, "UNetMidBlock2D"),
        ({"class_embed_type": "timestep"}, "timestep"),
        ({"addition_embed_type": "image"}, "image"),
    ],
)
def test_refuses_blocks_without_a_place(change: dict[str, Any], word: str) -> None:
    """What the layout cannot hold is named."""
    with pytest.raises(UsageError, match=word):
        unet_names(CONFIG | change)


@pytest.mark.parametrize("key", ["time_embedding.cond_proj.weight", "down_blocks.0.resnets.0.extra.weight", "weight"])
def test_refuses_a_tensor_without_a_place(key: str) -> None:
    """A parameter that no original module has is not dropped in silence."""
    with pytest.raises(UsageError, match=key):
        unet_state_dict({key: torch.zeros(1)}, CONFIG)


@pytest.mark.parametrize("deprecated", [False, True])
def test_the_autoencoder_is_read_back(deprecated: bool) -> None:
    """Equal tensors after diffusers' conversion, also from a file with the attention's former names."""
    vae = make_vae(0, tiny=False)
    state, stored = vae.state_dict(), vae.state_dict()
    if deprecated:
        new = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
        for ours, former in new.items():
            stored = {key.replace(ours, former): value for key, value in stored.items()}
        assert stored.keys() != state.keys()
    original = vae_state_dict(stored, vae.config)
    assert original["decoder.mid.attn_1.q.weight"].dim() == 4
    assert original["decoder.up.2.block.0.norm1.weight"].equal(state["decoder.up_blocks.0.resnets.0.norm1.weight"])
    back = reader.convert_ldm_vae_checkpoint(prefixed("first_stage_model.", original), vae.config)
    assert back.keys() == state.keys()
    assert all(back[key].equal(value) for key, value in state.items())


@pytest.mark.parametrize("projection", [False, True])
def test_text_encoders_are_read_back(projection: bool, tmp_path: Path) -> None:
    """OpenCLIP: stacked Q, K and V come apart again, the projection returns transposed. CLIP keeps its names."""
    encoder = make_text_encoder(0, make_tokenizer(tmp_path))
    plain = encoder.state_dict()
    state = {f"text_model.{key}": value for key, value in plain.items()}
    assert clip_state_dict(plain).keys() == clip_state_dict(state).keys() == state.keys()
    if projection:
        state["text_projection.weight"] = torch.randn(16, 16)
    original = open_clip_state_dict(state)
    assert original["transformer.resblocks.1.attn.in_proj_weight"].shape == (48, 16)
    prefix = "conditioner.embedders.1.model." if projection else "cond_stage_model.model."
    back = reader.convert_open_clip_checkpoint(encoder, prefixed(prefix, original), prefix=prefix)
    assert back.keys() == state.keys() and all(back[key].equal(value) for key, value in state.items())
