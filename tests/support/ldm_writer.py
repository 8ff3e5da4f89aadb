"""The original layouts of Stable Diffusion checkpoints, written down from that code's module names.

CompVis for 1.x; Stability for 2.x (OpenCLIP's text encoder) and XL (sgm: both encoders, label embedding).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm": "ln_",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
    "text_projection.weight": "text_projection",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def save_original(pipe: Any, path: Path) -> Path:
    """Write U-Net, autoencoder (AutoencoderKL) and text encoders as one checkpoint file in the original layout."""
    layers = pipe.unet.config.layers_per_block
    tensors = {f"model.diffusion_model.{unet_key(k, layers)}": v for k, v in pipe.unet.state_dict().items()}
    levels = len(pipe.vae.config.block_out_channels)
    for key, value in pipe.vae.state_dict().items():
        name = vae_key(key, levels)
        tensors[f"first_stage_model.{name}"] = as_convolution(name, value)
    tensors |= text_tensors(pipe)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return path


def text_tensors(pipe: Any) -> dict[str, Tensor]:
    """The text encoders: CLIP's as transformers names it, OpenCLIP's (the one with plain GELU) in its own way."""
    if "text_encoder_2" in pipe.components:
        first = clip_tensors(pipe.text_encoder, "conditioner.embedders.0.transformer.text_model.")
        return first | open_clip_tensors(pipe.text_encoder_2, "conditioner.embedders.1.model.")
    if pipe.text_encoder.config.hidden_act == "gelu":
        return open_clip_tensors(pipe.text_encoder, "cond_stage_model.model.")
    return clip_tensors(pipe.text_encoder, "cond_stage_model.transformer.text_model.")


def clip_tensors(encoder: Any, prefix: str) -> dict[str, Tensor]:
    """A text encoder under the names of transformers."""
    return {prefix + key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}


def open_clip_tensors(encoder: Any, prefix: str) -> dict[str, Tensor]:
    """A text encoder under the names of OpenCLIP: Q, K and V in one matrix, the projection transposed."""
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    fused = {}
    for key in [key for key in state if ".q_proj." in key]:
        parts = [state.pop(key.replace(".q_proj.", f".{name}_proj.")) for name in "qkv"]
        fused[key.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    out = {}
    for key, value in (state | fused).items():
        name = key
        for ours, theirs in OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        out[prefix + name] = value.T if name == "text_projection" else value
    return out


def unet_key(key: str, layers: int) -> str:
    """The name of a U-Net parameter: blocks are numbered through, `layers` and a resampler to a level."""
    for ours, theirs in UNET_TOP.items():
        if key.startswith(ours + "."):
            return theirs + key[len(ours) :]
    block, kind, part, rest = re.match(  # type: ignore[union-attr]
        r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", key
    ).groups()
    if kind == "resnets":
        name = next(name for name in RESNET if rest.startswith(name + "."))
        rest = RESNET[name] + rest[len(name) :]
    if block == "mid_block":
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(part)}.{rest}"
    level = int(block.split(".")[1])
    if block.startswith("down"):
        number = 1 + level * (layers + 1) + (layers if kind == "downsamplers" else int(part))
        rest = rest.replace("conv.", "op.") if kind == "downsamplers" else rest
        return f"input_blocks.{number}.{1 if kind == 'attentions' else 0}.{rest}"
    number = level * (layers + 1) + (layers if kind == "upsamplers" else int(part))
    return f"output_blocks.{number}.{ {'resnets': 0, 'attentions': 1, 'upsamplers': 2}[kind] }.{rest}"


def vae_key(key: str, levels: int) -> str:
    """The name of an autoencoder parameter: the decoder counts its levels from the finest."""
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d+)", lambda match: f"mid.block_{int(match[1]) + 1}", key)
    if "mid_block.attentions.0" in key:
        head, rest = key.split("mid_block.attentions.0.")
        name = next(name for name in VAE_ATTENTION if rest.startswith(name + "."))
        return f"{head}mid.attn_1.{VAE_ATTENTION[name]}{rest[len(name) :]}"
    key = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d+)\.resnets", lambda match: f"up.{levels - 1 - int(match[1])}.block", key)
    return re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda match: f"up.{levels - 1 - int(match[1])}.upsample", key)


def as_convolution(name: str, value: Tensor) -> Tensor:
    """The autoencoder's attention matrices as the 1x1 convolutions that they were."""
    return value[:, :, None, None] if "attn_1" in name and value.dim() == 2 else value
