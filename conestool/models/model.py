"""Base models: loading them from wherever they are, and what the rest of the package asks of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conestool.concept import BaseModelInfo
from conestool.errors import ModelLoadError
from conestool.models.families import Family, family_of
from conestool.models.kv_weights import execution_device
from conestool.models.loading import SETTINGS, is_hub_id, load_pipeline, read_json, resolve_source

_MIN_VOCABULARY = 16
"""Words of a tokenizer: where one lost its files, transformers makes an empty one without a word."""


@dataclass(frozen=True)
class Defaults:
    """How a model renders unless told otherwise; `size` is the side of a square picture in pixels."""

    steps: int = 30
    guidance: float = 7.5
    size: int = 512


@dataclass
class Model:
    """A base model in memory.

    `id` is as the user gave it, `path` the folder or file it came from (None for a pipeline made elsewhere), and
    `stored_dtype` how the weights lie there; `dtype` is what they have in memory. `config` is the configuration of a
    single file.
    """

    pipe: Any
    id: str
    family: Family
    defaults: Defaults
    revision: str | None = None
    path: Path | None = None
    stored_dtype: torch.dtype | None = None
    config: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_pretrained(
        cls,
        model_id: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        offline: bool = False,
        config: str | None = None,
        offload: bool = False,
    ) -> Model:
        """Load a base model: "pocket", a diffusers folder, a single `.safetensors` file or a Hub id.

        Only a Hub id is ever downloaded, and not with `offline`. `config` is the diffusers folder or Hub id with the
        configuration of a single file; without it a folder of the file's name beside it, or the Hub's cache, serves.
        With `offload` only the part that computes lies on the device, which takes less memory and more time.
        Raises UsageError for a path that is not there, ModelLoadError if it cannot be read, DeviceError for the device.
        """
        from conestool.models.devices import move_to_device, pick_device, pick_dtype

        target = pick_device(device)
        source = resolve_source(model_id, revision=revision, offline=offline, config=config)
        chosen = pick_dtype(dtype, target, source.stored_dtype, source.size)
        pipe = move_to_device(load_pipeline(source, chosen), target, offload and target.type != "cpu")
        model = cls.from_pipeline(pipe, model_id)
        if any(len(tokenizer) < _MIN_VOCABULARY for tokenizer in model.family.tokenizers(pipe)):
            raise ModelLoadError(f"{model.id}: its tokenizer has no vocabulary", "copy or download the model again")
        model.denoiser.eval()
        model.revision, model.path, model.stored_dtype = source.revision, source.path, source.stored_dtype
        model.config = source.config
        model.settings, model.defaults = source.settings, read_defaults(source.settings, model.defaults)
        return model

    @classmethod
    def from_pipeline(cls, pipe: Any, id: str | None = None) -> Model:
        """A Model around a pipeline that is loaded already; a Model is returned as it is.

        `id` is by default the Hub id that the pipeline was loaded from, or "pipeline" if it was none.
        """
        if isinstance(pipe, Model):
            return pipe
        family = family_of(pipe)
        denoiser = family.denoiser(pipe)
        origin = str(pipe.name_or_path or "")
        settings = read_json(Path(origin) / SETTINGS) if origin else {}
        id = id or (origin if is_hub_id(origin) and not Path(origin).exists() else "pipeline")
        fallback = Defaults(family.steps, family.guidance, _latent_side(pipe, denoiser) * int(pipe.vae_scale_factor))
        return cls(pipe, id, family, read_defaults(settings, fallback), settings=settings)

    def __repr__(self) -> str:
        """What it is and where it computes, without the pipeline's own text."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Model({self.id!r}, {self.family.name}, {dtype} on {self.device}, {self.defaults.size} pixels)"

    @property
    def denoiser(self) -> nn.Module:
        """The module whose K/V weights are meant."""
        return self.family.denoiser(self.pipe)

    @property
    def device(self) -> torch.device:
        """Where the denoiser computes; under diffusers' offload its weights may lie elsewhere meanwhile."""
        return execution_device(self.denoiser)

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser computes in."""
        return next(self.denoiser.parameters()).dtype

    @cached_property
    def vae_scale_factor(self) -> int:
        """Pixels per latent, along one side."""
        return int(self.pipe.vae_scale_factor)

    @property
    def in_folder(self) -> bool:
        """Whether it came from a diffusers folder."""
        return self.path is not None and self.path.is_dir()

    @property
    def info(self) -> BaseModelInfo:
        """The identity of the model, without the concepts that are applied at the moment."""
        from conestool.models.base_info import describe_model

        return describe_model(self)


def _latent_side(pipe: Any, denoiser: nn.Module) -> int:
    """Side of the latents that the denoiser was trained on; Flux says it in the pipeline alone."""
    config: Any = denoiser.config
    side: Any = config.get("sample_size", getattr(pipe, "default_sample_size", None))
    return int(side if isinstance(side, int) else min(side)) if side else 64


def read_defaults(settings: dict[str, Any], fallback: Defaults) -> Defaults:
    """Defaults by a model folder's `pocket.json` (num_inference_steps, guidance_scale, size), else `fallback`."""
    return Defaults(
        int(settings.get("num_inference_steps", fallback.steps)),
        float(settings.get("guidance_scale", fallback.guidance)),
        int(settings.get("size", fallback.size)),
    )
