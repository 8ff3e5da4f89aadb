"""A small checkpoint of every family, with the real configuration shrunk, in every packaging and dtype."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModelWithProjection

from tests.support import tiny_models

SUFFIXES = tuple(f".{name}.weight" for name in ("to_k", "to_v", "add_k_proj", "add_v_proj"))

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


def sd1(parts: Path, seed: int = 0) -> Any:
    """Stable Diffusion 1.x: CLIP, convolutions around the attention, predicts noise."""
    return tiny_models.make_pipeline(parts, seed=seed, tiny=False)


def sd2(parts: Path, seed: int = 0) -> Any:
    """Stable Diffusion 2.x: OpenCLIP, linear layers around the attention, heads of one size, predicts velocity."""
    tokenizer = tiny_models.make_tokenizer(parts / "tokenizer")
    return StableDiffusionPipeline(
        vae=tiny_models.make_vae(seed, tiny=False),
        text_encoder=tiny_models.make_text_encoder(seed + 1, tokenizer, hidden_act="gelu"),
        tokenizer=tokenizer,
        unet=tiny_models.make_unet(seed + 2, cross=16, attention_head_dim=(2, 4), use_linear_projection=True),
        scheduler=DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(parts: Path, seed: int = 0) -> Any:
    """Stable Diffusion XL base: two text encoders, attention from the second level on, deeper in the third."""
    first, second = tiny_models.make_tokenizer(parts / "tokenizer"), tiny_models.make_tokenizer(parts / "tokenizer_2")
    second.pad_token = "!"
    open_clip = {"hidden_size": 24, "intermediate_size": 48, "projection_dim": 24, "hidden_act": "gelu"}
    return StableDiffusionXLPipeline(
        vae=tiny_models.make_vae(seed, tiny=False, scaling_factor=0.13025),
        text_encoder=tiny_models.make_text_encoder(seed + 1, first),
        text_encoder_2=tiny_models.make_text_encoder(seed + 3, second, CLIPTextModelWithProjection, **open_clip),
        tokenizer=first,
        tokenizer_2=second,
        unet=tiny_models.make_unet(
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


def pixart(parts: Path, seed: int = 0, sigma: bool = False) -> Any:
    """PixArt-alpha at 1024 pixels, which is told sizes, or Sigma, which is not; both learn a variance besides."""
    tokenizer = tiny_models.make_t5_tokenizer()
    torch.manual_seed(seed + 2)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=24,
        caption_channels=24,
        sample_size=128,
        interpolation_scale=2,
        use_additional_conditions=False if sigma else None,
    )
    spread(transformer)
    kind = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    return kind(
        tokenizer=tokenizer,
        text_encoder=tiny_models.make_t5(seed + 1, tokenizer),
        vae=tiny_models.make_vae(seed, tiny=False),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02),
    )


def pixart_sigma(parts: Path, seed: int = 0) -> Any:
    """PixArt-Sigma."""
    return pixart(parts, seed, sigma=True)


def sixteen(seed: int, **changes: Any) -> Any:
    """The autoencoder of SD3 and Flux: 16 channels, shifted, without convolutions on the latents."""
    plain = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
    return tiny_models.make_vae(seed, tiny=False, **plain, **changes)


def sd3(parts: Path, seed: int = 0) -> Any:
    """Stable Diffusion 3.5 medium: as SD3, with normalised queries and keys and a second attention in some blocks."""
    first, second = tiny_models.make_tokenizer(parts / "tokenizer"), tiny_models.make_tokenizer(parts / "tokenizer_2")
    second.pad_token = "!"
    open_clip = {"hidden_size": 24, "intermediate_size": 48, "projection_dim": 24, "hidden_act": "gelu"}
    t5 = tiny_models.make_t5_tokenizer()
    encoder = tiny_models.make_text_encoder(seed + 1, first, CLIPTextModelWithProjection, projection_dim=16)
    with torch.no_grad():
        encoder.text_projection.weight.copy_(torch.eye(16))
    torch.manual_seed(seed + 2)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        caption_projection_dim=32,
        pooled_projection_dim=16 + 24,
        out_channels=16,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    spread(transformer)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=sixteen(seed, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=encoder,
        tokenizer=first,
        text_encoder_2=tiny_models.make_text_encoder(seed + 3, second, CLIPTextModelWithProjection, **open_clip),
        tokenizer_2=second,
        text_encoder_3=tiny_models.make_t5(seed + 4, t5, d_model=48),
        tokenizer_3=t5,
    )


def flux(parts: Path, seed: int = 0, dev: bool = True) -> Any:
    """Flux dev, guided by an embedding and shifted by the picture's size, or schnell, neither."""
    tokenizer, t5 = tiny_models.make_tokenizer(parts / "tokenizer"), tiny_models.make_t5_tokenizer()
    torch.manual_seed(seed + 2)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=16,
        guidance_embeds=dev,
        axes_dims_rope=(4, 6, 6),
    )
    spread(transformer)
    shifted = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**shifted if dev else {}),
        vae=sixteen(seed, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=tiny_models.make_text_encoder(seed + 1, tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=tiny_models.make_t5(seed + 4, t5),
        tokenizer_2=t5,
        transformer=transformer,
    )


def flux_schnell(parts: Path, seed: int = 0) -> Any:
    """Flux schnell."""
    return flux(parts, seed, dev=False)


@torch.no_grad()
def spread(transformer: Any) -> None:
    """Widen the random weights, so that the prompt and a few of them matter in a picture."""
    for name, weight in transformer.named_parameters():
        if weight.dim() > 1:
            weight.normal_(std=1.5 / weight[0].numel() ** 0.5)
        elif name.endswith("bias"):
            weight.normal_(std=0.1)


FAMILIES = {
    "sd1": sd1,
    "sd2": sd2,
    "sdxl": sdxl,
    "pixart": pixart,
    "sd3": sd3,
    "flux": flux,
}
VARIANTS = {"pixart-sigma": pixart_sigma, "flux-schnell": flux_schnell}


def list_spare_parts(folder: Path) -> dict[str, Any]:
    """Let a folder list, as published ones do, the parts that look for unsafe pictures; returns its whole index."""
    path = folder / "model_index.json"
    listed: dict[str, Any] = json.loads(path.read_text()) | {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "requires_safety_checker": True,
    }
    path.write_text(json.dumps(listed))
    return listed


def denoiser_file(folder: Path) -> Path:
    """The only weight file of a folder's U-Net or transformer."""
    [file] = [*folder.glob("unet/*.safetensors"), *folder.glob("transformer/*.safetensors")]
    return file


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
    file = denoiser_file(target)
    tensors = load_file(file)
    names = [name for name in sorted(tensors) if name.endswith(SUFFIXES)]
    save_file(tensors | {name: change(tensors[name]) for name in names}, file, {"format": "pt"})
    return target
