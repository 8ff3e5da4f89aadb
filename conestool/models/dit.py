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
from conestool.models.conditioning import Conditioning, Frame
from conestool.models.kv_weights import bare
from conestool.models.unet import present, scaled_latents

__all__ = ["Flux", "FluxSchnell", "PixArtAlpha", "PixArtSigma", "StableDiffusion3"]

PARTS = ("transformer", "vae", "tokenizer", "text_encoder", "scheduler")
CLIP_L, T5 = "text_encoders.clip_l.transformer.", "text_encoders.t5xxl.transformer."
TEXTS = ("tokenizer_2", "text_encoder_2")


class Transformer:
    """What the families with a transformer share; `kind` is the denoiser's class, `tokens` what T5 reads at most."""

    kind: str
    tokens: int
    options: Mapping[str, Any] = {}
    marks: tuple[str, ...] = ()
    parts: Mapping[str, str] = {}

    def denoiser(self, pipe: Any) -> nn.Module:
        """The transformer."""
        transformer: nn.Module = pipe.transformer
        return transformer

    def tokenizers(self, pipe: Any) -> list[Any]:
        """T5's tokenizer, the only one."""
        return [pipe.tokenizer]

    def readers(self, pipe: Any) -> list[tuple[Any, int]]:
        """T5: what it cuts is lost, though CLIP's pooled vector beside it may be of fewer tokens."""
        return [(self.tokenizers(pipe)[-1], self.tokens)]

    def patch(self, pipe: Any) -> int:
        """Two latents, as the transformer's configuration says."""
        return int(pipe.transformer.config.patch_size)

    def framing(self, pipe: Any, frames: Sequence[Frame]) -> Mapping[str, Tensor]:
        """Nothing: the transformer is not told of sizes and crops."""
        return {}

    def latents(self, pipe: Any, pixels: Tensor) -> Tensor:
        """The mode of the autoencoder's posterior, shifted and scaled."""
        return scaled_latents(pipe.vae, pixels)

    def calling(self, pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
        """The call, with as many tokens as the search encodes."""
        return {**call, "max_sequence_length": self.tokens}

    def is_kind(self, pipe: Any, parts: Sequence[str], patch: int = 1) -> bool:
        """Whether all `parts` are there, and the transformer takes latents alone (`patch` of them to a channel)."""
        if not present(pipe, parts) or type(bare(pipe.transformer)).__name__ != self.kind:
            return False
        return bool(pipe.transformer.config.in_channels == patch * pipe.vae.config.latent_channels)


class PixArtSigma(Transformer):
    """PixArt-Sigma: T5 with its attention mask, cross-attention, noise prediction beside a learned variance."""

    name = "pixart"
    pipeline = "PixArtSigmaPipeline"
    kind = "PixArtTransformer2DModel"
    guidance = 4.5
    steps = 20
    tokens = 300

    def fits(self, pipe: Any) -> bool:
        """A pipeline with PixArt's transformer."""
        return self.is_kind(pipe, PARTS)

    def encode(self, pipe: Any, prompts: Sequence[str]) -> Conditioning:
        """T5's last hidden states, embeds (n, tokens, width), and `mask` (n, tokens), 1 for tokens and 0 for padding.

        In lower case, as the pipeline has it; without the cleaning of captions, which needs packages of its own.
        """
        told = {"do_classifier_free_guidance": False, "max_sequence_length": self.tokens}
        with torch.no_grad(), quiet():
            embeds, mask, *_ = pipe.encode_prompt(list(prompts), device=pipe.text_encoder.device, **told)
        return Conditioning(embeds, {"mask": mask})

    def calling(self, pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
        """The call, at exactly the size asked for and with the prompt as it is."""
        return {**super().calling(pipe, call), "use_resolution_binning": False, "clean_caption": False}

    def predict(self, denoiser: nn.Module, latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """The first half of the transformer's output, of the latents' shape; the second is the learned variance."""
        out: Tensor = denoiser(
            latents,
            timestep=timesteps,
            encoder_hidden_states=cond.embeds,
            encoder_attention_mask=cond.extra["mask"],
            added_cond_kwargs={name: cond.extra.get(name) for name in ("resolution", "aspect_ratio")},
            return_dict=False,
        )[0]
        return out[:, : latents.shape[1]]


class PixArtAlpha(PixArtSigma):
    """PixArt-alpha: fewer tokens, and at 1024 pixels a transformer that is told the size of its pictures."""

    pipeline = "PixArtAlphaPipeline"
    tokens = 120

    def fits(self, pipe: Any) -> bool:
        """PixArt's transformer in the pipeline of alpha, which reads fewer tokens than Sigma's."""
        return super().fits(pipe) and type(pipe).__name__.startswith("PixArtAlpha")

    def calling(self, pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
        """The call; UsageError for a single step, which alpha's pipeline takes with the scheduler of LCM alone."""
        if call["num_inference_steps"] == 1 and "LCM" not in type(pipe.scheduler).__name__:
            raise UsageError("PixArt-alpha does not draw in one step with its scheduler", "use --steps 2 or more")
        return super().calling(pipe, call)

    def framing(self, pipe: Any, frames: Sequence[Frame]) -> Mapping[str, Tensor]:
        """`resolution` (n, 2), a photo's own height and width, and `aspect_ratio` (n, 1), that of the square drawn.

        As alpha was trained (`img_hw` and `aspect_ratio` of its data sets), and only where the pipeline tells them.
        """
        if pipe.transformer.config.sample_size != 128:
            return {}
        rows = torch.tensor([frame.original for frame in frames], dtype=torch.float32)
        return {"resolution": rows, "aspect_ratio": torch.ones(len(frames), 1)}


class StableDiffusion3(Transformer):
    """Stable Diffusion 3 and 3.5: two CLIP text encoders and T5, which may be missing, and rectified flow."""

    name = "stable-diffusion-3"
    pipeline = "StableDiffusion3Pipeline"
    kind = "SD3Transformer2DModel"
    marks: tuple[str, ...] = ("joint_blocks.", "context_embedder.")
    parts: Mapping[str, str] = {
        "vae": "first_stage_model.",
        "text_encoder": CLIP_L,
        "text_encoder_2": "text_encoders.clip_g.transformer.",
        "text_encoder_3": T5,
    }
    guidance = 7.0
    steps = 28
    tokens = 256

    def fits(self, pipe: Any) -> bool:
        """A pipeline with SD3's transformer and both CLIP text encoders."""
        return self.is_kind(pipe, (*PARTS, *TEXTS))

    def tokenizers(self, pipe: Any) -> list[Any]:
        """Those of both CLIP encoders, and of T5 where it is loaded."""
        found = [pipe.tokenizer, pipe.tokenizer_2]
        return [*found, pipe.tokenizer_3] if pipe.text_encoder_3 is not None else found

    def readers(self, pipe: Any) -> list[tuple[Any, int]]:
        """T5, else both CLIP encoders."""
        if pipe.text_encoder_3 is not None:
            return super().readers(pipe)
        return [(tokenizer, tokenizer.model_max_length) for tokenizer in self.tokenizers(pipe)]

    def encode(self, pipe: Any, prompts: Sequence[str]) -> Conditioning:
        """CLIP's states side by side, padded to T5's width, then T5's; both pooled vectors side by side as `pooled`."""
        told = {"do_classifier_free_guidance": False, "max_sequence_length": self.tokens}
        with torch.no_grad(), quiet():
            embeds, _, pooled, _ = pipe.encode_prompt(
                list(prompts), None, None, device=pipe.text_encoder.device, **told
            )
        return Conditioning(embeds, {"pooled": pooled})

    def predict(self, denoiser: nn.Module, latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """The transformer's velocity, of the latents' shape."""
        out: Tensor = denoiser(
            latents,
            timestep=timesteps,
            encoder_hidden_states=cond.embeds,
            pooled_projections=cond.extra["pooled"],
            return_dict=False,
        )[0]
        return out


class FluxSchnell(Transformer):
    """Flux schnell: T5 and CLIP's pooled vector, latents packed two by two, distilled to few steps without guidance."""

    name = "flux"
    pipeline = "FluxPipeline"
    kind = "FluxTransformer2DModel"
    marks: tuple[str, ...] = ("double_blocks.", "single_blocks.")
    parts: Mapping[str, str] = {"vae": "vae.", "text_encoder": CLIP_L, "text_encoder_2": T5}
    guidance = 0.0
    steps = 4
    tokens = 256

    def fits(self, pipe: Any) -> bool:
        """A pipeline with Flux's transformer for latents alone, not for a picture or a mask beside them."""
        return self.is_kind(pipe, (*PARTS, *TEXTS), patch=4)

    def tokenizers(self, pipe: Any) -> list[Any]:
        """CLIP's and T5's."""
        return [pipe.tokenizer, pipe.tokenizer_2]

    def patch(self, pipe: Any) -> int:
        """Two latents: they are packed before the transformer sees them, whose own patches are single ones."""
        return 2

    def encode(self, pipe: Any, prompts: Sequence[str]) -> Conditioning:
        """T5's last hidden states, and CLIP's pooled vector as `pooled`."""
        with torch.no_grad(), quiet():
            embeds, pooled, _ = pipe.encode_prompt(
                list(prompts), device=pipe.text_encoder.device, max_sequence_length=self.tokens
            )
        return Conditioning(embeds, {"pooled": pooled})

    def calling(self, pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
        """The call with packed noise; UsageError for a negative prompt, which a distilled model cannot use."""
        if "negative_prompt" in call:
            raise UsageError(
                "Flux draws without classifier-free guidance and has no negative prompt", "leave out --negative"
            )
        return {**super().calling(pipe, call), "latents": packed(call["latents"])}

    def predict(self, denoiser: nn.Module, latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """The transformer's velocity, unpacked to the latents' shape.

        Flux dev is told guidance 1, where its answer is the plain velocity that the flow's target speaks of (our
        choice: `render` uses 3.5, at which it was distilled to answer something else).
        """
        n, _, height, width = latents.shape
        guided = denoiser.config.guidance_embeds  # type: ignore[union-attr]
        out: Tensor = denoiser(
            packed(latents),
            timestep=timesteps / 1000,
            guidance=torch.ones(n, device=latents.device) if guided else None,
            encoder_hidden_states=cond.embeds,
            pooled_projections=cond.extra["pooled"],
            txt_ids=torch.zeros(cond.embeds.shape[1], 3, device=latents.device, dtype=latents.dtype),
            img_ids=positions(latents),
            return_dict=False,
        )[0]
        return unpacked(out, height, width)


class Flux(FluxSchnell):
    """Flux dev: guided by an embedding of the scale."""

    marks: tuple[str, ...] = (*FluxSchnell.marks, "guidance_in.")
    guidance = 3.5
    steps = 28
    tokens = 512

    def fits(self, pipe: Any) -> bool:
        """Flux's transformer with an embedding of the guidance."""
        return super().fits(pipe) and bool(pipe.transformer.config.guidance_embeds)


def packed(latents: Tensor) -> Tensor:
    """Patches of two by two latents in reading order: (n, c, h, w) becomes (n, h/2 * w/2, 4 c)."""
    from diffusers import FluxPipeline

    out: Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
    return out


def unpacked(patches: Tensor, height: int, width: int) -> Tensor:
    """Undoes `packed` for latents of `height` and `width`."""
    from diffusers import FluxPipeline

    out: Tensor = FluxPipeline._unpack_latents(patches, height, width, 1)
    return out


def positions(latents: Tensor) -> Tensor:
    """Where each patch of `latents` (n, c, h, w) lies: (h/2 * w/2, 3), of which the last two are row and column."""
    from diffusers import FluxPipeline

    height, width = (side // 2 for side in latents.shape[-2:])
    out: Tensor = FluxPipeline._prepare_latent_image_ids(1, height, width, latents.device, latents.dtype)
    return out
