"""The families with a U-Net: Stable Diffusion 1.x and 2.x, and Stable Diffusion XL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from conestool.models.conditioning import Conditioning, MicroConditioning
from conestool.models.conversion.fused_qkv import DENOISER_PREFIX
from conestool.models.kv_weights import execution_device

_VAE_PREFIX = "first_stage_model."
_COMPONENTS = ("unet", "vae", "tokenizer", "text_encoder", "scheduler")
_COMPONENTS_XL = (*_COMPONENTS, "tokenizer_2", "text_encoder_2")


class Adapter:
    """What most families have in common."""

    pipeline_options: Mapping[str, Any] = {}
    key_prefixes: tuple[str, ...] = ()
    single_file_components: Mapping[str, str] = {}
    timestep_divisor = 1

    def tokenizers(self, pipe: Any) -> list[Any]:
        """The only one."""
        return [pipe.tokenizer]

    def micro_conditioning(self, pipe: Any, crops: Sequence[MicroConditioning]) -> Mapping[str, Tensor]:
        """Nothing: the denoiser is not told of sizes and crops."""
        return {}

    def encode_images(self, pipe: Any, pixels: Tensor) -> Tensor:
        """The mode of the autoencoder's posterior, or AutoencoderTiny's output, shifted and scaled."""
        return scaled_latents(pipe.vae, pixels)

    def pack(self, latents: Tensor) -> Tensor:
        """As they are."""
        return latents


class StableDiffusion(Adapter):
    """Stable Diffusion 1.x and 2.x, their fine-tunes, and pocket: one CLIP text encoder and a U-Net."""

    name = "stable-diffusion"
    pipeline_class = "StableDiffusionPipeline"
    pipeline_options: Mapping[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
    key_prefixes: tuple[str, ...] = (DENOISER_PREFIX, _VAE_PREFIX, "cond_stage_model.")
    guidance = 7.5
    steps = 30

    def matches(self, pipe: Any) -> bool:
        """A pipeline with a U-Net and exactly one tokenizer and text encoder, that takes text alone."""
        return _is_complete(pipe, _COMPONENTS) and "text_encoder_2" not in pipe.components

    def denoiser(self, pipe: Any) -> nn.Module:
        """The U-Net."""
        unet: nn.Module = pipe.unet
        return unet

    def length_limits(self, pipe: Any) -> list[tuple[Any, int]]:
        """Every tokenizer, with its own length."""
        return [(tokenizer, tokenizer.model_max_length) for tokenizer in self.tokenizers(pipe)]

    def patch_size(self, pipe: Any) -> int:
        """One latent."""
        return 1

    def encode(self, pipe: Any, prompts: Sequence[str]) -> Conditioning:
        """Last hidden states of the text encoder over the padded tokens, (n, model_max_length, width)."""
        encoder = pipe.text_encoder
        tokens = _tokenize(pipe.tokenizer, prompts).to(execution_device(encoder))
        mask = tokens.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
        with torch.no_grad():
            return Conditioning(encoder(tokens.input_ids, attention_mask=mask)[0])

    def pipeline_kwargs(self, pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
        """The call as it is."""
        return dict(call)

    def predict(self, denoiser: nn.Module, latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """The U-Net's output, of the latents' shape."""
        out: Tensor = denoiser(latents, timesteps, encoder_hidden_states=cond.prompt_embeds, return_dict=False)[0]
        return out


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL base and its fine-tunes: two text encoders, and a U-Net with micro-conditioning.

    `pipeline_options` keep diffusers from stamping a watermark wherever a certain package happens to be installed, so
    that a seed means the same picture everywhere.
    """

    name = "stable-diffusion-xl"
    pipeline_class = "StableDiffusionXLPipeline"
    pipeline_options: Mapping[str, Any] = {"add_watermarker": False}
    key_prefixes: tuple[str, ...] = (
        DENOISER_PREFIX,
        _VAE_PREFIX,
        "conditioner.embedders.0.transformer.",
        "conditioner.embedders.1.model.",
    )
    guidance = 5.0

    def matches(self, pipe: Any) -> bool:
        """A pipeline with both text encoders, which the refiner lacks, whose U-Net takes pooled text and six times."""
        return _is_complete(pipe, _COMPONENTS_XL) and pipe.unet.config.addition_embed_type == "text_time"

    def tokenizers(self, pipe: Any) -> list[Any]:
        """CLIP's and OpenCLIP's tokenizer: the same words, another padding."""
        return [pipe.tokenizer, pipe.tokenizer_2]

    def encode(self, pipe: Any, prompts: Sequence[str]) -> Conditioning:
        """Last but one hidden states of both encoders, side by side, and the second one's pooled `text_embeds`."""
        pairs = ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2))
        with torch.no_grad():
            outs = [
                encoder(
                    _tokenize(tokenizer, prompts).input_ids.to(execution_device(encoder)), output_hidden_states=True
                )
                for tokenizer, encoder in pairs
            ]
        prompt_embeds = torch.cat([out.hidden_states[-2] for out in outs], dim=-1)
        return Conditioning(prompt_embeds, {"text_embeds": outs[1].text_embeds})

    def micro_conditioning(self, pipe: Any, crops: Sequence[MicroConditioning]) -> Mapping[str, Tensor]:
        """`time_ids` (n, 6), fp32: original height and width, top and left of the crop, target height and width.

        As the model was trained (Podell et al. 2023, section 2.2): a photo is described as it was, small or cropped,
        so that its blur and its borders are not taken for the subject's.
        """
        rows = [[*crop.original_size, *crop.crops_coords_top_left, *crop.target_size] for crop in crops]
        return {"time_ids": torch.tensor(rows, dtype=torch.float32)}

    def predict(self, denoiser: nn.Module, latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """The U-Net's output, of the latents' shape."""
        more = {"encoder_hidden_states": cond.prompt_embeds, "added_cond_kwargs": dict(cond.added_cond_kwargs)}
        out: Tensor = denoiser(latents, timesteps, **more, return_dict=False)[0]
        return out


def _is_complete(pipe: Any, names: Sequence[str]) -> bool:
    """Whether all these parts are there, and the U-Net takes latents alone (not a mask or a picture beside them)."""
    return has_components(pipe, names) and pipe.unet.config.in_channels == pipe.vae.config.latent_channels


def has_components(pipe: Any, names: Sequence[str]) -> bool:
    """Whether all these parts are there."""
    return all(pipe.components.get(name) is not None for name in names)


def _tokenize(tokenizer: Any, prompts: Sequence[str]) -> Any:
    """Tokens of `prompts`, padded and cut to the tokenizer's length."""
    length = tokenizer.model_max_length
    return tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")


def scaled_latents(vae: Any, pixels: Tensor) -> Tensor:
    """Latents, shifted and scaled as the configuration says, fp32, of pixels in -1..1, (n, 3, side, side)."""
    with torch.no_grad(), _upcast_vae(vae):
        out = vae.encode(pixels.to(execution_device(vae), vae.dtype))
        latents: Tensor = (out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latents).float()
    shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
    return (latents - shift) * float(vae.config.scaling_factor)


@contextmanager
def _upcast_vae(vae: Any) -> Iterator[None]:
    """Within it a float16 autoencoder computes in float32 if its configuration says that float16 overflows."""
    narrow = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    if narrow:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if narrow:
            vae.to(torch.float16)
