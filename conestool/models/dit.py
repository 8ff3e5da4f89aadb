"""The families with a transformer: PixArt (alpha and Sigma), Stable Diffusion 3 and 3.5, and Flux (dev and schnell).

Prompts are encoded by each pipeline's own `encode_prompt`: T5's padding, masks, pooled vectors and zeros for a text
encoder that is not loaded are its affair. Attention is joint in SD3 and Flux: pictures pass through `to_k` and `to_v`,
texts through `add_k_proj` and `add_v_proj`, both through the `to_k` and `to_v` of Flux's single blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from conestool.errors import UsageError
from conestool.models._logging import quiet
from conestool.models.conditioning import Conditioning, MicroConditioning
from conestool.models.kv_weights import execution_device, unwrap_compiled
from conestool.models.unet import Adapter, has_components

_COMPONENTS = ("transformer", "vae", "tokenizer", "text_encoder", "scheduler")
_CLIP_L_PREFIX, _T5_PREFIX = "text_encoders.clip_l.transformer.", "text_encoders.t5xxl.transformer."
_SECOND_TEXT_ENCODER = ("tokenizer_2", "text_encoder_2")


class _Transformer(Adapter):
    """What the families with a transformer share; `max_tokens` is what T5 reads at most."""

    denoiser_class: str
    max_tokens: int

    def denoiser(self, pipe: Any) -> nn.Module:
        """The transformer."""
        transformer: nn.Module = pipe.transformer
        return transformer

    def length_limits(self, pipe: Any) -> list[tuple[Any, int]]:
        """T5: what it cuts is lost, though CLIP's pooled vector beside it may be of fewer tokens."""
        return [(self.tokenizers(pipe)[-1], self.max_tokens)]

    def patch_size(self, pipe: Any) -> int:
        """Two latents, as the transformer's configuration says."""
        return int(pipe.transformer.config.patch_size)

    def pipeline_kwargs(self, pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
        """The call, with as many tokens as the search encodes."""
        return {**call, "max_sequence_length": self.max_tokens}

    def _is_text_to_image(self, pipe: Any, names: Sequence[str], patch: int = 1) -> bool:
        """Whether the components `names` are there, and the transformer takes latents alone, `patch` to a channel."""
        if not has_components(pipe, names) or type(unwrap_compiled(pipe.transformer)).__name__ != self.denoiser_class:
            return False
        return bool(pipe.transformer.config.in_channels == patch * pipe.vae.config.latent_channels)


class PixArtSigma(_Transformer):
    """PixArt-Sigma: T5 with its attention mask, cross-attention, noise prediction beside a learned variance."""

    name = "pixart"
    pipeline_class = "PixArtSigmaPipeline"
    denoiser_class = "PixArtTransformer2DModel"
    guidance = 4.5
    steps = 20
    max_tokens = 300

    def matches(self, pipe: Any) -> bool:
        """A pipeline with PixArt's transformer."""
        return self._is_text_to_image(pipe, _COMPONENTS)

    def encode(self, pipe: Any, prompts: Sequence[str]) -> Conditioning:
        """T5's last hidden states (n, tokens, width), and `mask` (n, tokens), 1 for tokens and 0 for padding.

        In lower case, as the pipeline has it; without the cleaning of captions, which needs packages of its own.
        """
        options = {"do_classifier_free_guidance": False, "max_sequence_length": self.max_tokens}
        with torch.no_grad(), quiet():
            prompt_embeds, mask, *_ = pipe.encode_prompt(
                list(prompts), device=execution_device(pipe.text_encoder), **options
            )
        return Conditioning(prompt_embeds, {"mask": mask})

    def pipeline_kwargs(self, pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
        """The call, at exactly the size asked for and with the prompt as it is."""
        return {**super().pipeline_kwargs(pipe, call), "use_resolution_binning": False, "clean_caption": False}

    def predict(self, denoiser: nn.Module, latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """The first half of the transformer's output, of the latents' shape; the second is the learned variance."""
        out: Tensor = denoiser(
            latents,
            timestep=timesteps,
            encoder_hidden_states=cond.prompt_embeds,
            encoder_attention_mask=cond.added_cond_kwargs["mask"],
            added_cond_kwargs={name: cond.added_cond_kwargs.get(name) for name in ("resolution", "aspect_ratio")},
            return_dict=False,
        )[0]
        return out[:, : latents.shape[1]]


class PixArtAlpha(PixArtSigma):
    """PixArt-alpha: fewer tokens, and at 1024 pixels a transformer that is told the size of its pictures."""

    pipeline_class = "PixArtAlphaPipeline"
    max_tokens = 120

    def matches(self, pipe: Any) -> bool:
        """PixArt's transformer in the pipeline of alpha, which reads fewer tokens than Sigma's."""
        return super().matches(pipe) and type(pipe).__name__.startswith("PixArtAlpha")

    def pipeline_kwargs(self, pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
        """The call; UsageError for a single step, which alpha's pipeline takes with the scheduler of LCM alone."""
        if call["num_inference_steps"] == 1 and "LCM" not in type(pipe.scheduler).__name__:
            raise UsageError("PixArt-alpha does not draw in one step with its scheduler", "use --steps 2 or more")
        return super().pipeline_kwargs(pipe, call)

    def micro_conditioning(self, pipe: Any, crops: Sequence[MicroConditioning]) -> Mapping[str, Tensor]:
        """`resolution` (n, 2), a photo's own height and width, and `aspect_ratio` (n, 1), that of the square drawn.

        As alpha was trained (`img_hw` and `aspect_ratio` of its data sets), and only where the pipeline tells them.
        """
        if pipe.transformer.config.sample_size != 128:
            return {}
        rows = torch.tensor([crop.original_size for crop in crops], dtype=torch.float32)
        return {"resolution": rows, "aspect_ratio": torch.ones(len(crops), 1)}


class StableDiffusion3(_Transformer):
    """Stable Diffusion 3 and 3.5: two CLIP text encoders and T5, which may be missing, and rectified flow."""

    name = "stable-diffusion-3"
    pipeline_class = "StableDiffusion3Pipeline"
    denoiser_class = "SD3Transformer2DModel"
    key_prefixes: tuple[str, ...] = ("joint_blocks.", "context_embedder.")
    single_file_components: Mapping[str, str] = {
        "vae": "first_stage_model.",
        "text_encoder": _CLIP_L_PREFIX,
        "text_encoder_2": "text_encoders.clip_g.transformer.",
        "text_encoder_3": _T5_PREFIX,
    }
    guidance = 7.0
    steps = 28
    max_tokens = 256

    def matches(self, pipe: Any) -> bool:
        """A pipeline with SD3's transformer and both CLIP text encoders."""
        return self._is_text_to_image(pipe, (*_COMPONENTS, *_SECOND_TEXT_ENCODER))

    def tokenizers(self, pipe: Any) -> list[Any]:
        """Those of both CLIP encoders, and of T5 where it is loaded."""
        found = [pipe.tokenizer, pipe.tokenizer_2]
        return [*found, pipe.tokenizer_3] if pipe.text_encoder_3 is not None else found

    def length_limits(self, pipe: Any) -> list[tuple[Any, int]]:
        """T5, else both CLIP encoders."""
        if pipe.text_encoder_3 is not None:
            return super().length_limits(pipe)
        return [(tokenizer, tokenizer.model_max_length) for tokenizer in self.tokenizers(pipe)]

    def encode(self, pipe: Any, prompts: Sequence[str]) -> Conditioning:
        """CLIP's states side by side, padded to T5's width, then T5's; both pooled vectors side by side as `pooled`."""
        options = {"do_classifier_free_guidance": False, "max_sequence_length": self.max_tokens}
        with torch.no_grad(), quiet():
            prompt_embeds, _, pooled, _ = pipe.encode_prompt(
                list(prompts), None, None, device=execution_device(pipe.text_encoder), **options
            )
        return Conditioning(prompt_embeds, {"pooled": pooled})

    def predict(self, denoiser: nn.Module, latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """The transformer's velocity, of the latents' shape."""
        out: Tensor = denoiser(
            latents,
            timestep=timesteps,
            encoder_hidden_states=cond.prompt_embeds,
            pooled_projections=cond.added_cond_kwargs["pooled"],
            return_dict=False,
        )[0]
        return out


class FluxSchnell(_Transformer):
    """Flux schnell: T5 and CLIP's pooled vector, latents packed two by two, distilled to few steps without guidance."""

    name = "flux"
    pipeline_class = "FluxPipeline"
    denoiser_class = "FluxTransformer2DModel"
    key_prefixes: tuple[str, ...] = ("double_blocks.", "single_blocks.")
    single_file_components: Mapping[str, str] = {
        "vae": "vae.",
        "text_encoder": _CLIP_L_PREFIX,
        "text_encoder_2": _T5_PREFIX,
    }
    guidance = 0.0
    steps = 4
    timestep_divisor = 1000
    max_tokens = 256

    def matches(self, pipe: Any) -> bool:
        """A pipeline with Flux's transformer for latents alone, not for a picture or a mask beside them."""
        return self._is_text_to_image(pipe, (*_COMPONENTS, *_SECOND_TEXT_ENCODER), patch=4)

    def tokenizers(self, pipe: Any) -> list[Any]:
        """CLIP's and T5's."""
        return [pipe.tokenizer, pipe.tokenizer_2]

    def patch_size(self, pipe: Any) -> int:
        """Two latents: they are packed before the transformer sees them, whose own patches are single ones."""
        return 2

    def encode(self, pipe: Any, prompts: Sequence[str]) -> Conditioning:
        """T5's last hidden states, and CLIP's pooled vector as `pooled`."""
        with torch.no_grad(), quiet():
            prompt_embeds, pooled, _ = pipe.encode_prompt(
                list(prompts), device=execution_device(pipe.text_encoder), max_sequence_length=self.max_tokens
            )
        return Conditioning(prompt_embeds, {"pooled": pooled})

    def pack(self, latents: Tensor) -> Tensor:
        """Patches of two by two latents, (n, h/2 * w/2, 4 c)."""
        return pack_latents(latents)

    def pipeline_kwargs(self, pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
        """The call with packed noise; UsageError for a negative prompt, which a distilled model cannot use."""
        if "negative_prompt" in call:
            raise UsageError(
                "Flux draws without classifier-free guidance and has no negative prompt", "leave out --negative"
            )
        return {**super().pipeline_kwargs(pipe, call), "latents": pack_latents(call["latents"])}

    def predict(self, denoiser: nn.Module, latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """The transformer's velocity, unpacked to the latents' shape.

        Flux dev is told guidance 1, where its output is the plain velocity that the flow's target speaks of (our
        choice: `render` uses 3.5, at which it was distilled to predict something else).
        """
        n, _, height, width = latents.shape
        guided = denoiser.config.guidance_embeds  # type: ignore[union-attr]
        out: Tensor = denoiser(
            pack_latents(latents),
            timestep=timesteps / self.timestep_divisor,
            guidance=torch.ones(n, device=latents.device) if guided else None,
            encoder_hidden_states=cond.prompt_embeds,
            pooled_projections=cond.added_cond_kwargs["pooled"],
            txt_ids=torch.zeros(cond.prompt_embeds.shape[1], 3, device=latents.device, dtype=latents.dtype),
            img_ids=_image_ids(latents),
            return_dict=False,
        )[0]
        return unpack_latents(out, height, width)


class Flux(FluxSchnell):
    """Flux dev: guided by an embedding of the scale."""

    key_prefixes: tuple[str, ...] = (*FluxSchnell.key_prefixes, "guidance_in.")
    guidance = 3.5
    steps = 28
    max_tokens = 512

    def matches(self, pipe: Any) -> bool:
        """Flux's transformer with an embedding of the guidance."""
        return super().matches(pipe) and bool(pipe.transformer.config.guidance_embeds)


def pack_latents(latents: Tensor) -> Tensor:
    """Patches of two by two latents in reading order: (n, c, h, w) becomes (n, h/2 * w/2, 4 c)."""
    from diffusers import FluxPipeline

    out: Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
    return out


def unpack_latents(patches: Tensor, height: int, width: int) -> Tensor:
    """Undoes `pack_latents` for latents of `height` and `width`."""
    from diffusers import FluxPipeline

    out: Tensor = FluxPipeline._unpack_latents(patches, height, width, 1)
    return out


def _image_ids(latents: Tensor) -> Tensor:
    """Where each patch of `latents` (n, c, h, w) lies: (h/2 * w/2, 3), of which the last two are row and column."""
    from diffusers import FluxPipeline

    height, width = (side // 2 for side in latents.shape[-2:])
    out: Tensor = FluxPipeline._prepare_latent_image_ids(1, height, width, latents.device, latents.dtype)
    return out
