"""A small checkpoint of every family, with the real configuration shrunk, in every packaging and dtype."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModelWithProjection

from tests import tiny

__all__ = ["FAMILIES", "change_denoiser", "recast"]

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


def sd1(parts: Path, seed: int = 0) -> Any:
    """Stable Diffusion 1.x: CLIP, convolutions around the attention, predicts noise."""
    return tiny.make_pipeline(parts, seed=seed, tiny=False)


def sd2(parts: Path, seed: int = 0) -> Any:
    """Stable Diffusion 2.x: OpenCLIP, linear layers around the attention, heads of one size, predicts velocity."""
    tokenizer = tiny.make_tokenizer(parts / "tokenizer")
    return StableDiffusionPipeline(
        vae=tiny.make_vae(seed, tiny=False),
        text_encoder=tiny.make_text_encoder(seed + 1, tokenizer, hidden_act="gelu"),
        tokenizer=tokenizer,
        unet=tiny.make_unet(seed + 2, cross=16, attention_head_dim=(2, 4), use_linear_projection=True),
        scheduler=DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(parts: Path, seed: int = 0) -> Any:
    """Stable Diffusion XL base: two text encoders, attention from the second level on, deeper in the third."""
    first, second = tiny.make_tokenizer(parts / "tokenizer"), tiny.make_tokenizer(parts / "tokenizer_2")
    second.pad_token = "!"
    open_clip = {"hidden_size": 24, "intermediate_size": 48, "projection_dim": 24, "hidden_act": "gelu"}
    return StableDiffusionXLPipeline(
        vae=tiny.make_vae(seed, tiny=False, scaling_factor=0.13025),
        text_encoder=tiny.make_text_encoder(seed + 1, first),
        text_encoder_2=tiny.make_text_encoder(seed + 3, second, CLIPTextModelWithProjection, **open_clip),
        tokenizer=first,
        tokenizer_2=second,
        unet=tiny.make_unet(
            seed + 2,
            cross=16 + 24,
            block_out_channels=(8, 16, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            attention_head_dim=(1, 2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 24,
        ),
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
        add_watermarker=False,
    )


FAMILIES = {"sd1": sd1, "sd2": sd2, "sdxl": sdxl}


def recast(source: Path, target: Path, dtype: torch.dtype) -> Path:
    """A copy of a folder or single file with every floating-point tensor in `dtype`."""
    if source.is_dir():
        shutil.copytree(source, target)
        for file in target.rglob("*.safetensors"):
            recast(source / file.relative_to(target), file, dtype)
        return target
    tensors = load_file(source)
    floats = {key: value.to(dtype) for key, value in tensors.items() if value.is_floating_point()}
    save_file(tensors | floats, target, {"format": "pt"})
    return target


def change_denoiser(source: Path, target: Path, change: Any) -> Path:
    """A copy of a folder in which `change(tensor)` replaced each K/V matrix."""
    shutil.copytree(source, target)
    file = target / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    names = [name for name in sorted(tensors) if name.endswith((".to_k.weight", ".to_v.weight"))]
    save_file(tensors | {name: change(tensors[name]) for name in names}, file, {"format": "pt"})
    return target
