"""What differs between families of base models, and nothing else: one adapter a family.

docs/adding-a-family.md says how one is added.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from conestool.errors import ModelLoadError
from conestool.models._lookalikes import what_tensors_are
from conestool.models.conditioning import Conditioning, Frame
from conestool.models.conversion.fused_qkv import DENOISER
from conestool.models.dit import Flux, FluxSchnell, PixArtAlpha, PixArtSigma, StableDiffusion3
from conestool.models.unet import StableDiffusion, StableDiffusionXL

__all__ = ["FAMILIES", "PIPELINES", "Family", "family_of", "family_of_file"]


class Family(Protocol):
    """One family of base models.

    `pipeline` is the diffusers class that a single file of the family is loaded as, `options` what it is given besides,
    `marks` name prefixes that all occur in a single file in the original layout (none if no such file is read), `parts`
    by component those of what may be missing there, since a configuration folder has it, and `guidance` and `steps` the
    usual settings.
    """

    name: str
    pipeline: str
    options: Mapping[str, Any]
    marks: tuple[str, ...]
    parts: Mapping[str, str]
    guidance: float
    steps: int

    def fits(self, pipe: Any) -> bool:
        """Whether `pipe` is of this family."""

    def denoiser(self, pipe: Any) -> nn.Module:
        """The module whose K/V weights are meant."""

    def tokenizers(self, pipe: Any) -> list[Any]:
        """The tokenizers that read a prompt, first the one among whose words identifiers are chosen."""

    def readers(self, pipe: Any) -> list[tuple[Any, int]]:
        """The tokenizers that limit a prompt, each with the most tokens that it keeps, its special ones included."""

    def patch(self, pipe: Any) -> int:
        """Latents along one side of what the denoiser takes as one."""

    def encode(self, pipe: Any, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of `prompts`, in the dtype and on the device of the text encoder, without framing."""

    def framing(self, pipe: Any, frames: Sequence[Frame]) -> Mapping[str, Tensor]:
        """What the denoiser is told of how pictures were framed, by name, a row for each; empty if nothing."""

    def latents(self, pipe: Any, pixels: Tensor) -> Tensor:
        """Latents (n, c, h, w), fp32, as the denoiser expects them, of pixels in -1..1, (n, 3, side, side)."""

    def calling(self, pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the pipeline's own call, from the common ones (see sampling.py); its noise is `latents`."""

    def predict(self, denoiser: nn.Module, latents: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """The denoiser's raw output for noisy `latents` (n, c, h, w) at `timesteps` (n,)."""


FAMILIES: tuple[Family, ...] = (
    StableDiffusionXL(),
    StableDiffusion(),
    PixArtAlpha(),
    PixArtSigma(),
    StableDiffusion3(),
    Flux(),
    FluxSchnell(),
)
PIPELINES = tuple(family.pipeline for family in FAMILIES)
"""The diffusers classes that a folder may name."""
KNOWN = ", ".join(dict.fromkeys(family.name for family in FAMILIES))


def family_of(pipe: Any) -> Family:
    """The adapter for a diffusers pipeline; ModelLoadError if no family fits."""
    if hasattr(pipe, "components"):
        for family in FAMILIES:
            if family.fits(pipe):
                return family
    raise ModelLoadError(f"{type(pipe).__name__} is not a text-to-image pipeline of a known family", f"known: {KNOWN}")


def family_of_file(model_id: str, keys: Collection[str]) -> Family:
    """The adapter for a single file with tensors of these names; ModelLoadError if it is no complete checkpoint."""
    keys = {*keys, *(key.removeprefix(DENOISER) for key in keys)}
    for family in FAMILIES:
        if family.marks and all(any(key.startswith(mark) for key in keys) for mark in family.marks):
            return family
    if told := what_tensors_are(keys):
        raise ModelLoadError(f"{model_id}: {told[0]}", told[1])
    raise ModelLoadError(
        f"{model_id}: not a complete checkpoint in the original layout of a known family (known: {KNOWN})",
        "it takes denoiser, autoencoder and text encoders in one file (SD3 and Flux: at least the transformer); for "
        "other parts, give a diffusers folder",
    )
