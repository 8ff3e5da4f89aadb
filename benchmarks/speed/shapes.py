"""The denoisers that are measured: the published configurations of Stable Diffusion 1.5 and XL, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from benchmarks.configurations import TOKENS, UNETS
from conestool.models.conditioning import Conditioning
from conestool.models.families import Family
from conestool.models.model import Defaults, Model
from conestool.models.unet import StableDiffusion, StableDiffusionXL

NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
TOY: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


@dataclass(frozen=True)
class Shape:
    """A denoiser's configuration, its family, and what the family is told besides the prompt, with the widths."""

    config: Mapping[str, Any]
    family: Family
    extra: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    def conditioning(self, count: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Conditioning:
        """Random text states of a prompt of 77 tokens, `count` times."""
        draw = torch.Generator().manual_seed(1)
        sizes: dict[str, tuple[int, ...]] = {"embeds": (count, TOKENS, self.config["cross_attention_dim"])}
        sizes |= {name: (count, width) for name, width in self.extra.items()}
        made = {name: torch.randn(size, generator=draw).to(device, dtype) for name, size in sizes.items()}
        return Conditioning(made.pop("embeds"), made)


XL_EXTRA = {"text_embeds": 1280, "time_ids": 6}
SHAPES: dict[str, Shape] = {
    "sd15": Shape(UNETS["sd1"], StableDiffusion(), note="Stable Diffusion 1.5"),
    "sdxl": Shape(UNETS["sdxl"], StableDiffusionXL(), XL_EXTRA, note="Stable Diffusion XL"),
    "sdxl-part": Shape(
        UNETS["sdxl"] | {"transformer_layers_per_block": (1, 1, 2)},
        StableDiffusionXL(),
        XL_EXTRA,
        note="Stable Diffusion XL with 1 and 2 transformer layers a block instead of 2 and 10, all widths as they are",
    ),
    "toy": Shape(TOY, StableDiffusion(), note="a toy, to test the benchmark"),
}


def make_unet(shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    """The U-Net with small normal weights; memory never holds more than these."""
    unet = blank(shape).to(dtype).to_empty(device=device)
    fill(unet)
    return unet.eval()


def blank(shape: Shape) -> UNet2DConditionModel:
    """The U-Net without storage."""
    with torch.device("meta"):
        return UNet2DConditionModel(**shape.config)


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Normal weights whose layers keep the size of what passes through; ones and zeros for norms and biases."""
    draw = torch.Generator(next(module.parameters()).device).manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=draw)
        else:
            parameter.fill_(float(name.endswith("weight")))


def twin(unet: UNet2DConditionModel, shape: Shape) -> UNet2DConditionModel:
    """Another U-Net on the same memory, with parameters, flags and adapters of its own."""
    other = blank(shape)
    other.load_state_dict(unet.state_dict(), assign=True)
    return other.eval()


def make_model(unet: Any, shape: Shape) -> Model:
    """As much of a Model as the loop of a search asks for: denoiser, family and noise schedule."""
    pipe = SimpleNamespace(unet=unet, scheduler=DDIMScheduler(**NOISE))
    return Model(pipe, "benchmark", shape.family, Defaults())


def latents(count: int, side: int, device: str = "cpu") -> Tensor:
    """Random latents (count, 4, side, side), fp32."""
    return torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(2)).to(device)
