"""Predicted device memory of `find` at real sizes: `python -m benchmarks.memory`.

Nothing is measured on a device and no large tensor exists: denoisers and autoencoders of the real configurations take a
step on fake tensors, which have sizes and no memory, and the bytes alive at once are counted. Weights of text encoders
are counted on the meta device, the search's vectors in a rehearsal of the method on 4 million entries. To that come a
tenth for allocators and kernels and 0.4 GB for the runtime (conestool/search/forecast.py), which are guesses. So these
are predictions; no GPU was at hand to test them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from conestool.diffusion.conditioning import Conditioning
from conestool.diffusion.unets import StableDiffusion, StableDiffusionXL
from conestool.diffusion.weights import SUFFIXES
from conestool.search import Settings
from conestool.search.forecast import Job, Sizes, parameter_bytes, rehearse
from conestool.search.metering import Imagined
from conestool.search.resources import Resources

GB = 1e9
BIG_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
COMMON = {"layers_per_block": 2, "norm_num_groups": 32}
WAYS = {
    "no option": Resources(),
    "--micro-batch 4": Resources(4),
    "--micro-batch 1": Resources(1),
    "--micro-batch 4 --gradient-checkpointing": Resources(4, True),
    "--micro-batch 1 --gradient-checkpointing": Resources(1, True),
    "--micro-batch 1 --gradient-checkpointing --offload-scores": Resources(1, True, True),
}


@dataclass(frozen=True)
class Checkpoint:
    """A model's parts, on the meta device, and what its denoiser is asked."""

    family: Any
    denoiser: Any
    vae: Any
    texts: tuple[nn.Module, ...]
    side: int
    cond: Conditioning


def vae() -> Any:
    """The autoencoder of Stable Diffusion 1.x to XL."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        **COMMON,
    )


def text(kind: Any, **shape: int) -> nn.Module:
    """A text encoder with CLIP's vocabulary."""
    module: nn.Module = kind(CLIPTextConfig(vocab_size=49408, max_position_embeddings=77, **shape))
    return module


def sd15() -> Checkpoint:
    """Stable Diffusion 1.5 at 512 pixels."""
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8, **COMMON)
    cond = Conditioning(torch.zeros(1, 77, 768, device="cpu"))
    return Checkpoint(StableDiffusion(), unet, vae(), (text(CLIPTextModel, **CLIP_L),), 64, cond)


def sdxl() -> Checkpoint:
    """Stable Diffusion XL base at 1024 pixels."""
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        **COMMON,
    )
    extra = {"text_embeds": torch.zeros(1, 1280, device="cpu"), "time_ids": torch.zeros(1, 6, device="cpu")}
    texts = (text(CLIPTextModel, **CLIP_L), text(CLIPTextModelWithProjection, **BIG_G))
    cond = Conditioning(torch.zeros(1, 77, 2048, device="cpu"), extra)
    return Checkpoint(StableDiffusionXL(), unet, vae(), texts, 128, cond)


MODELS: dict[str, Callable[[], Checkpoint]] = {"sd15": sd15, "sdxl": sdxl}


def sizes_of(model: Checkpoint, dtype: torch.dtype) -> Sizes:
    """The bytes of its parts on a CUDA device, all weights in `dtype`."""
    width = dtype.itemsize / 4  # made in float32
    aside = sum(parameter_bytes(part) for part in (model.vae, *model.texts)) * width
    weights = sum(p.numel() for name, p in model.denoiser.named_parameters() if name.endswith(SUFFIXES))
    return Sizes(
        imagined=Imagined(model.family, model.denoiser, (4, model.side, model.side), model.cond, dtype),
        vae=model.vae,
        vae_dtype=dtype,
        scale=8,
        guided=True,
        device="cuda",
        held=round(parameter_bytes(model.denoiser) * width + aside),
        aside=round(aside),
        weights=weights,
        vectors=rehearse(Settings(), weights),
    )


def main() -> None:
    """Print a table for each model and dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", choices=("bfloat16", "float32"), default=["bfloat16", "float32"])
    args = parser.parse_args()
    print("Predicted, not measured: most bytes on a CUDA device at once, in GB.\n")
    for name in args.models:
        with torch.device("meta"):
            model = MODELS[name]()
        for dtype in args.dtypes:
            show(name, dtype, sizes_of(model, getattr(torch, dtype)))


def show(name: str, dtype: str, sizes: Sizes) -> None:
    """One table: phases by options; "class images" are drawn, or given as pictures, when that phase takes nothing."""
    print(
        f"{name} in {dtype}: {sizes.held / GB:.2f} GB of weights, {sizes.aside / GB:.2f} of them leave for the search;"
    )
    print(
        f"{sizes.weights:,} K/V weights, {sizes.vectors.held:.0f} to {sizes.vectors.peak:.0f} bytes of vectors each\n"
    )
    print("| options | class images | photos | search | peak |\n|---|---|---|---|---|")
    for text, way in WAYS.items():
        found = sizes.memory(Job(5, 32, Settings(), way))
        cells = " | ".join(f"{size / GB:.1f}" for size in (*found.values(), max(found.values())))
        print(f"| {text} | {cells} |", flush=True)
    print()


if __name__ == "__main__":
    main()
