"""What differs between families of base models, and nothing else: one adapter a family.

docs/adding-a-family.md says how one is added.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from conestool.errors import ModelLoadError
from conestool.models._lookalikes import what_tensors_are
from conestool.models.conditioning import Conditioning, MicroConditioning
from conestool.models.conversion.fused_qkv import DENOISER_PREFIX
from conestool.models.dit import Flux, FluxSchnell, PixArtAlpha, PixArtSigma, StableDiffusion3
from conestool.models.unet import StableDiffusion, StableDiffusionXL


class Family(Protocol):
    """One family of base models.

    `pipeline_class` is the diffusers class that a single file of the family is loaded as, `pipeline_options` are its
    other arguments. `key_prefixes` all occur in a single file in the original layout; there are none if no such file is
    read. `single_file_components` has, by component, the prefix of what may be missing there, since a configuration
    folder has it. `guidance` and `steps` are the usual settings. Timesteps reach the denoiser divided by
    `timestep_divisor`.
    """

    name: str
    pipeline_class: str
    pipeline_options: Mapping[str, Any]
    key_prefixes: tuple[str, ...]
    single_file_components: Mapping[str, str]
    guidance: float
    steps: int
    timestep_divisor: int

    def matches(self, pipe: Any) -> bool:
        """Whether `pipe` is of this family."""

    def denoiser(self, pipe: Any) -> nn.Module:
        """The module whose K/V weights are meant."""

    def tokenizers(self, pipe: Any) -> list[Any]:
        """The tokenizers that read a prompt, first the one among whose words identifiers are chosen."""

    def length_limits(self, pipe: Any) -> list[tuple[Any, int]]:
        """The tokenizers that limit a prompt, each with the most tokens that it keeps, its special ones included."""

    def patch_size(self, pipe: Any) -> int:
        """Side of a patch, in latents: the denoiser takes so many by so many as one token."""

    def encode(self, pipe: Any, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of `prompts`, in the dtype and on the device of the text encoder, without micro-conditioning."""

    def micro_conditioning(self, pipe: Any, crops: Sequence[MicroConditioning]) -> Mapping[str, Tensor]:
        """Inputs of the denoiser for sizes and crops of pictures, by name, a row for each; empty if it takes none."""

    def encode_images(self, pipe: Any, pixels: Tensor) -> Tensor:
        """Latents (n, c, h, w), fp32, as the denoiser expects them, of pixels in -1..1, (n, 3, side, side)."""

    def pack(self, latents: Tensor) -> Tensor:
        """Latents (n, c, h, w) as the denoiser takes them."""

    def pipeline_kwargs(self, pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
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
PIPELINES = tuple(family.pipeline_class for family in FAMILIES)
"""The diffusers classes that a folder may name."""
_FAMILY_NAMES = ", ".join(dict.fromkeys(family.name for family in FAMILIES))


def family_of(pipe: Any) -> Family:
    """The adapter for a diffusers pipeline; ModelLoadError if no family fits."""
    if hasattr(pipe, "components"):
        for family in FAMILIES:
            if family.matches(pipe):
                return family
    raise ModelLoadError(
        f"{type(pipe).__name__} is not a text-to-image pipeline of a known family", f"known: {_FAMILY_NAMES}"
    )


def family_of_file(model_id: str, keys: Collection[str]) -> Family:
    """The adapter for a single file with tensors of these names; ModelLoadError if it is no complete checkpoint."""
    keys = {*keys, *(key.removeprefix(DENOISER_PREFIX) for key in keys)}
    for family in FAMILIES:
        if family.key_prefixes and all(any(key.startswith(mark) for key in keys) for mark in family.key_prefixes):
            return family
    if told := what_tensors_are(keys):
        raise ModelLoadError(f"{model_id}: {told[0]}", told[1])
    raise ModelLoadError(
        f"{model_id}: not a complete checkpoint in the original layout of a known family (known: {_FAMILY_NAMES})",
        "it takes denoiser, autoencoder and text encoders in one file (SD3 and Flux: at least the transformer); for "
        "other parts, give a diffusers folder",
    )
