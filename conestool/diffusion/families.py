"""What differs between families of base models, and nothing else: one adapter a family.

To add a family, write a class with the members of `Family` (unets.py holds those of today) and list it in FAMILIES,
most specific first. The members say how prompts are encoded, what the denoiser is told and how it is called, how
pictures become latents, which diffusers class builds the pipeline, and by which names a single file is recognised.
Everything else asks the pipeline's own parts: noise schedule and target (losses.py: epsilon, v, sample or rectified
flow), K/V weights (weights.py), hashing, photos, patching, search. `tests/packagings.py` builds a small checkpoint of
each family; add one there, and every test of families and of the digest ladder runs on it.

Missing: transformer denoisers (PixArt, SD3, Flux). The K and V projections of joint attention (`add_k_proj`,
`add_v_proj`) and rectified flow's schedule are there; their adapters need T5 encoders (PixArt with its attention mask,
SD3 and Flux with pooled embeddings beside it), Flux also packed latents (2x2 patches with position ids, in `latents`,
`predict` and the noise of sampling.py), its guidance embedding, and dynamic shifting of the timesteps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from conestool.diffusion.conditioning import Conditioning, Frame
from conestool.diffusion.unets import StableDiffusion, StableDiffusionXL
from conestool.errors import ModelLoadError

__all__ = ["FAMILIES", "Family", "family_of", "family_of_file"]


class Family(Protocol):
    """One family of base models.

    `pipeline` is the diffusers class that a single file of the family is loaded as, `options` what it is given besides,
    `marks` name prefixes that all occur in a single file in the original layout, and `guidance` the usual scale.
    """

    name: str
    pipeline: str
    options: Mapping[str, Any]
    marks: tuple[str, ...]
    guidance: float

    def fits(self, pipe: Any) -> bool:
        """Whether `pipe` is of this family."""

    def denoiser(self, pipe: Any) -> nn.Module:
        """The module whose K/V weights are meant."""

    def tokenizers(self, pipe: Any) -> list[Any]:
        """The tokenizers that read a prompt; the shortest one limits it."""

    def encode(self, pipe: Any, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of `prompts`, in the dtype and on the device of the text encoder, without framing."""

    def framing(self, frames: Sequence[Frame]) -> Mapping[str, Tensor]:
        """What the denoiser is told of how pictures were framed, by name, a row for each; empty if nothing."""

    def latents(self, pipe: Any, pixels: Tensor) -> Tensor:
        """Latents (n, c, h, w), fp32, as the denoiser expects them, of pixels in -1..1, (n, 3, side, side)."""

    def predict(self, denoiser: nn.Module, latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """The denoiser's raw output for noisy `latents` (n, c, h, w) at `timesteps` (n,)."""


FAMILIES: tuple[Family, ...] = (StableDiffusionXL(), StableDiffusion())
KNOWN = ", ".join(family.name for family in FAMILIES)


def family_of(pipe: Any) -> Family:
    """The adapter for a diffusers pipeline; ModelLoadError if no family fits."""
    if hasattr(pipe, "components"):
        for family in FAMILIES:
            if family.fits(pipe):
                return family
    raise ModelLoadError(f"{type(pipe).__name__} is not a text-to-image pipeline of a known family", f"known: {KNOWN}")


def family_of_file(model_id: str, keys: Collection[str]) -> Family:
    """The adapter for a single file with tensors of these names; ModelLoadError if it is no complete checkpoint."""
    for family in FAMILIES:
        if all(any(key.startswith(mark) for key in keys) for mark in family.marks):
            return family
    raise ModelLoadError(
        f"{model_id}: not a complete checkpoint in the original layout of a known family (known: {KNOWN})",
        "it takes denoiser, autoencoder and text encoders in one file; for parts, give a diffusers folder",
    )
