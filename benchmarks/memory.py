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

from benchmarks.real import CLIP_G, CLIP_L, TOKENS, UNETS, VAE
from conestool.diffusion.conditioning import Conditioning
from conestool.diffusion.unets import StableDiffusion, StableDiffusionXL
from conestool.diffusion.weights import SUFFIXES
from conestool.search import Settings
from conestool.search.forecast import Job, Sizes, parameter_bytes, rehearse
from conestool.search.metering import Imagined
from conestool.search.resources import Resources

GB = 1e9
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


def text(kind: Any, **shape: Any) -> nn.Module:
    """A text encoder with CLIP's vocabulary."""
    module: nn.Module = kind(CLIPTextConfig(vocab_size=49408, **shape))
    return module


def checkpoint(family: Any, name: str, texts: tuple[nn.Module, ...], **extra: int) -> Checkpoint:
    """The parts of a model at its own size; `extra` are the widths of what it is told besides the prompt."""
    config = UNETS[name]
    told = {key: torch.zeros(1, width, device="cpu") for key, width in extra.items()}
    cond = Conditioning(torch.zeros(1, TOKENS, config["cross_attention_dim"], device="cpu"), told)
    unet, vae = UNet2DConditionModel(**config), AutoencoderKL(**VAE, latent_channels=4)
    return Checkpoint(family, unet, vae, texts, config["sample_size"], cond)


def sd15() -> Checkpoint:
    """Stable Diffusion 1.5 at 512 pixels."""
    return checkpoint(StableDiffusion(), "sd1", (text(CLIPTextModel, **CLIP_L),))


def sdxl() -> Checkpoint:
    """Stable Diffusion XL base at 1024 pixels."""
    texts = (text(CLIPTextModel, **CLIP_L), text(CLIPTextModelWithProjection, **CLIP_G))
    return checkpoint(StableDiffusionXL(), "sdxl", texts, text_embeds=1280, time_ids=6)


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
        vectors=rehearse(Settings(), weights, dtype),
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
