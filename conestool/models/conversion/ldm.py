"""The key layout of the original Stable Diffusion checkpoints, which A1111, ComfyUI and InvokeAI read.

Facts: CompVis/latent-diffusion `openaimodel.py` and `model.py` (U-Net, autoencoder), OpenAI's CLIP as transformers has
it, and mlfoundations/open_clip. The U-Net's blocks are numbered through, so its names follow from its configuration: in
`input_blocks` one number per layer and one per downsampler, in `output_blocks` one per layer, where the upsampler of a
level is the last member of its last layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from conestool.errors import UsageError

_Config = Mapping[str, Any]
_State = dict[str, Tensor]

_HAS_ATTENTION = {
    "DownBlock2D": False,
    "CrossAttnDownBlock2D": True,
    "UpBlock2D": False,
    "CrossAttnUpBlock2D": True,
    "UNetMidBlock2DCrossAttn": True,
}
"""The blocks that the layout knows, and whether they have attention layers."""
_FIXED_NAMES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET_NAMES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_RULES = (
    (r"\bdown_blocks\.(\d+)\.resnets\.", r"down.\1.block."),
    (r"\bdown_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"\bup_blocks\.(\d+)\.resnets\.", r"up.\1.block."),
    (r"\bup_blocks\.(\d+)\.upsamplers\.0\.", r"up.\1.upsample."),
    (r"\bmid_block\.resnets\.0\.", "mid.block_1."),
    (r"\bmid_block\.resnets\.1\.", "mid.block_2."),
    (r"\bmid_block\.attentions\.0\.group_norm\.", "mid.attn_1.norm."),
    (r"\bmid_block\.attentions\.0\.(?:to_)?([qkv])(?:uery|ey|alue)?\.", r"mid.attn_1.\1."),
    (r"\bmid_block\.attentions\.0\.(?:to_out\.0|proj_attn)\.", "mid.attn_1.proj_out."),
    (r"\bconv_shortcut\.", "nin_shortcut."),
    (r"\bconv_norm_out\.", "norm_out."),
)
_OPEN_CLIP_RULES = (
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
)
_QKV_PARAM = re.compile(r"\.self_attn\.([qkv])_proj\.(weight|bias)$")


def unet_state_dict(state: Mapping[str, Tensor], config: _Config) -> _State:
    """A U-Net's tensors under their original names."""
    names = unet_names(config)
    return {unet_name(key, names): value for key, value in state.items()}


def unet_names(config: _Config) -> dict[str, str]:
    """The original name of every module of a U-Net, by its name in diffusers; UsageError if the layout has no such."""
    kinds = [*config["down_block_types"], config["mid_block_type"], *config["up_block_types"]]
    strange = [str(kind) for kind in kinds if kind not in _HAS_ATTENTION]
    if strange or config.get("class_embed_type") or config.get("addition_embed_type") not in (None, "text_time"):
        what = strange[0] if strange else f"embedding {config.get('class_embed_type') or config['addition_embed_type']}"
        raise UsageError(f"the original checkpoint layout has no place for the U-Net's {what}")
    levels = len(config["down_block_types"])
    layers = config["layers_per_block"]
    counts = [layers] * levels if isinstance(layers, int) else list(layers)
    down = _down_names(config["down_block_types"], counts)
    return _FIXED_NAMES | down | _up_names(config["up_block_types"], counts[::-1])


def _down_names(kinds: list[str], counts: list[int]) -> dict[str, str]:
    """The modules of the descending blocks, `counts[i]` layers each and a downsampler on all but the last."""
    names, number = {}, 1
    for level, (kind, count) in enumerate(zip(kinds, counts, strict=True)):
        for layer in range(count):
            names[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{number}.0"
            if _HAS_ATTENTION[kind]:
                names[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{number}.1"
            number += 1
        if level < len(kinds) - 1:
            names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    return names


def _up_names(kinds: list[str], counts: list[int]) -> dict[str, str]:
    """The modules of the ascending blocks, `counts[i] + 1` layers each and an upsampler on all but the last."""
    names, number = {}, 0
    for level, (kind, count) in enumerate(zip(kinds, counts, strict=True)):
        for layer in range(count + 1):
            names[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{number}.0"
            if _HAS_ATTENTION[kind]:
                names[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{number}.1"
            number += 1
        if level < len(kinds) - 1:
            place = 2 if _HAS_ATTENTION[kind] else 1
            names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{place}.conv"
    return names


def unet_name(key: str, names: Mapping[str, str]) -> str:
    """The original name of one tensor of a U-Net whose modules are called `names`."""
    parts = key.split(".")
    heads = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
    head = next((head for head in heads if head in names), None)
    rest = parts[len(head.split(".")) :] if head else []
    if head and ".resnets." in head:
        rest = [_RESNET_NAMES.get(rest[0], ""), *rest[1:]]
    if not head or "" in rest:
        raise UsageError(f"the original checkpoint layout has no place for the U-Net's {key}")
    return ".".join([names[head], *rest])


def vae_state_dict(state: Mapping[str, Tensor], config: _Config) -> _State:
    """The tensors of an AutoencoderKL: its decoder counts levels from the finest, its attention is 1x1 convolutions.

    Files of earlier diffusers call the attention's parts query, key, value and proj_attn.
    """
    last = len(config["block_out_channels"]) - 1
    out = {}
    for key, value in state.items():
        name = re.sub(r"\bup_blocks\.(\d+)", lambda found: f"up_blocks.{last - int(found[1])}", key)
        name = _apply_rules(name, _VAE_RULES)
        out[name] = value[:, :, None, None] if ".attn_1." in name and value.dim() == 2 else value
    return out


def clip_state_dict(state: Mapping[str, Tensor]) -> _State:
    """The tensors of a CLIP text model as older versions name them, below `text_model.` all but the projection."""
    plain = {key.removeprefix("text_model."): value for key, value in state.items()}
    return {key if key.startswith("text_projection.") else f"text_model.{key}": value for key, value in plain.items()}


def open_clip_state_dict(state: Mapping[str, Tensor]) -> _State:
    """The tensors of a CLIP text model as open_clip names them: Q, K and V stacked, the projection transposed."""
    plain = {key.removeprefix("text_model."): value for key, value in state.items()}
    out = {}
    for key, value in plain.items():
        found = _QKV_PARAM.search(key)
        if found and found[1] == "q":
            three = [plain[f"{key[: found.start()]}.self_attn.{each}_proj.{found[2]}"] for each in "qkv"]
            out[_apply_rules(key[: found.start()], _OPEN_CLIP_RULES) + f".attn.in_proj_{found[2]}"] = torch.cat(three)
        elif key == "text_projection.weight":
            out["text_projection"] = value.t().contiguous()
        elif not found and not key.endswith("position_ids"):
            out[_apply_rules(key, _OPEN_CLIP_RULES)] = value
    return out


def _apply_rules(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    """`key` after all replacements."""
    for pattern, text in rules:
        key = re.sub(pattern, text, key)
    return key
