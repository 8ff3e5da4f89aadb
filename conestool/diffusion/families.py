"""What differs between families of base models; a new family is one more adapter here.

An adapter says how one family turns prompts into conditioning and how its denoiser is called. Everything else (noise
schedules, K/V weights, photos, hashing, patching) is the same for all of them and asks the pipeline's own parts.
To add a family: write a class with the members of `Family`, and list it in FAMILIES, most specific first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from conestool.errors import ModelLoadError

__all__ = ["FAMILIES", "Conditioning", "Family", "StableDiffusion", "family_of"]


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told: `embeds` (n, tokens, width), and by name what else a family needs, each (n, ...)."""

    embeds: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.embeds.shape[0]

    def __getitem__(self, rows: Any) -> Conditioning:
        """The given rows (a slice, a list or an index tensor), as torch indexes them."""
        return Conditioning(self.embeds[rows], {key: value[rows] for key, value in self.extra.items()})

    def expand(self, n: int) -> Conditioning:
        """One row repeated `n` times, without copying."""
        extra = {key: value.expand(n, *value.shape[1:]) for key, value in self.extra.items()}
        return Conditioning(self.embeds.expand(n, *self.embeds.shape[1:]), extra)

    def to(self, *args: Any) -> Conditioning:
        """On another device or in another dtype."""
        return Conditioning(self.embeds.to(*args), {key: value.to(*args) for key, value in self.extra.items()})

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Rows of all `parts`, one after the other."""
        extra = {key: torch.cat([part.extra[key] for part in parts]) for key in parts[0].extra}
        return Conditioning(torch.cat([part.embeds for part in parts]), extra)


class Family(Protocol):
    """One family of base models."""

    name: str

    def fits(self, pipe: Any) -> bool:
        """Whether `pipe` is of this family."""

    def denoiser(self, pipe: Any) -> nn.Module:
        """The module whose K/V weights are meant."""

    def tokenizers(self, pipe: Any) -> list[Any]:
        """The tokenizers that read a prompt; the shortest one limits it."""

    def encode(self, pipe: Any, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of `prompts`, in the dtype and on the device of the text encoder."""

    def predict(self, denoiser: nn.Module, latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """The denoiser's raw output for noisy `latents` (n, c, h, w) at `timesteps` (n,)."""


class StableDiffusion:
    """Stable Diffusion 1.x and 2.x, their fine-tunes, and pocket: one CLIP text encoder and a U-Net."""

    name = "stable-diffusion"

    def fits(self, pipe: Any) -> bool:
        """A pipeline with a U-Net and exactly one tokenizer and text encoder, that takes text alone."""
        parts = pipe.components
        needed = all(parts.get(name) is not None for name in ("unet", "vae", "tokenizer", "text_encoder", "scheduler"))
        return needed and "text_encoder_2" not in parts and parts["unet"].config.in_channels == latent_channels(pipe)

    def denoiser(self, pipe: Any) -> nn.Module:
        """The U-Net."""
        unet: nn.Module = pipe.unet
        return unet

    def tokenizers(self, pipe: Any) -> list[Any]:
        """CLIP's tokenizer."""
        return [pipe.tokenizer]

    def encode(self, pipe: Any, prompts: Sequence[str]) -> Conditioning:
        """Last hidden states of the text encoder over the padded tokens: embeds (n, model_max_length, width)."""
        length = pipe.tokenizer.model_max_length
        tokens = pipe.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        encoder = pipe.text_encoder
        masked = getattr(encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(encoder.device) if masked else None
        with torch.no_grad():
            return Conditioning(encoder(tokens.input_ids.to(encoder.device), attention_mask=mask)[0])

    def predict(self, denoiser: nn.Module, latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """The U-Net's output, of the latents' shape."""
        out: Tensor = denoiser(latents, timesteps, encoder_hidden_states=cond.embeds, return_dict=False)[0]
        return out


FAMILIES: tuple[Family, ...] = (StableDiffusion(),)


def family_of(pipe: Any) -> Family:
    """The adapter for a diffusers pipeline; ModelLoadError if no family fits."""
    if hasattr(pipe, "components"):
        for family in FAMILIES:
            if family.fits(pipe):
                return family
    known = ", ".join(family.name for family in FAMILIES)
    raise ModelLoadError(f"{type(pipe).__name__} is not a text-to-image pipeline of a known family", f"known: {known}")


def latent_channels(pipe: Any) -> int:
    """Channels of the autoencoder's latents."""
    return int(pipe.vae.config.latent_channels)
