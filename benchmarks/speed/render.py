"""Rendering with a concept beside the bare diffusers pipeline, with the same weights, prompt, seed and steps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import conestool
from benchmarks.configurations import CLIP_G, CLIP_L, TOKENS, VAE
from benchmarks.speed.shapes import NOISE, fill
from benchmarks.speed.steps import Setup
from conestool.concept import Cone
from conestool.models.model import Model
from conestool.models.sampling import initial_noise
from conestool.rendering import render
from conestool.search.find import find
from tests.support.tiny_models import random_cone

POCKET = Path(conestool.__file__).parent / "pocket"
SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "hidden_size": 16}
PROMPT = "a photo of a sks dog"


def make_pipeline(setup: Setup, unet: Any) -> Any:
    """The whole pipeline around a U-Net: autoencoder and text encoders of the real sizes, pocket's vocabulary."""
    small = setup.shape.config["cross_attention_dim"] < 768
    vae: dict[str, Any] = VAE | ({"block_out_channels": (32, 32, 32, 32)} if small else {})
    tokenizer = CLIPTokenizer.from_pretrained(POCKET / "tokenizer", model_max_length=TOKENS)
    parts = {
        "unet": unet,
        "scheduler": DDIMScheduler(**NOISE),
        "vae": filled(lambda: AutoencoderKL(**vae), setup),
        "tokenizer": tokenizer,
        "text_encoder": filled(lambda: CLIPTextModel(CLIPTextConfig(**CLIP_L | (SMALL if small else {}))), setup),
    }
    if not setup.shape.extra:
        kind: Any = StableDiffusionPipeline
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    else:
        kind = StableDiffusionXLPipeline
        second = filled(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_G)), setup)
        parts |= {"tokenizer_2": tokenizer, "text_encoder_2": second, "add_watermarker": False}
    pipe = kind(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def filled(make: Callable[[], Any], setup: Setup) -> Any:
    """A module with random weights in their place and type."""
    module = make().to(setup.device, setup.dtype).eval()
    fill(module)
    return module


@dataclass
class Drawing:
    """A pipeline and a concept on it, to draw pictures of `side` latents in `steps` steps either way."""

    setup: Setup
    steps: int = 4
    density: float = 0.01

    def __post_init__(self) -> None:
        self.model: Model = Model.from_pipeline(make_pipeline(self.setup, self.setup.weights()))
        self.cone = random_cone(self.model, density=self.density)
        pixels = self.setup.side * self.model.vae_scale_factor
        self.size = (pixels, pixels)

    def with_concepts(self) -> None:
        """As `cones render` draws: check the base model, zero the neurons, draw, put the weights back, make the PNG."""
        drawn = render(self.model, [PROMPT], self.cone, literal=True, steps=self.steps, size=self.size)
        with tempfile.TemporaryDirectory() as folder:
            drawn[0].image.save(Path(folder) / "picture.png")

    def bare(self) -> None:
        """As diffusers alone draws, to a PNG."""
        noise = initial_noise(self.model, [torch.Generator().manual_seed(0)], self.size)
        settings = {"num_inference_steps": self.steps, "guidance_scale": self.model.defaults.guidance}
        image = self.model.pipe(PROMPT, latents=noise, width=self.size[0], height=self.size[1], **settings).images[0]
        with tempfile.TemporaryDirectory() as folder:
            image.save(Path(folder) / "picture.png")


def search(setup: Setup) -> Cone:
    """A whole `find` with its defaults, of four photos of noise, class images by the model itself included."""
    model = Model.from_pipeline(make_pipeline(setup, setup.compiled(setup.weights())))
    model.defaults = replace(model.defaults, size=setup.side * model.vae_scale_factor)
    draw = np.random.default_rng(0)
    photos = [Image.fromarray(draw.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(4)]
    return find(model, photos, "dog")
