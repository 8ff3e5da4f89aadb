"""Pictures from a base model as it stands: one seed, one picture, whatever the device."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from conestool.errors import NonFiniteError, UsageError
from conestool.models._logging import quiet
from conestool.models.devices import dtype_name, memory_errors, precision_hint
from conestool.models.model import Model

__all__ = ["Progress", "check_size", "initial_noise", "sample", "versions"]

Progress = Callable[[int, int], None]
"""Called with the pictures done so far and their total."""
_NAN_WARNING = "invalid value encountered in cast"
"""What numpy says of a picture with NaN in it, which diffusers would turn into a black one."""


def sample(
    model: Model,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    negative: str = "",
    steps: int | None = None,
    guidance: float | None = None,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    progress: Progress | None = None,
) -> list[Image.Image]:
    """One picture per pair of `prompts` and `seeds`, of `size` (width, height); the model's defaults where None.

    The prompt is sent as it is, and no negative prompt where it is empty: what stands for none is the pipeline's own
    affair (SDXL was trained with zeros, not with the encoding of an empty text). Noise comes from a CPU generator per
    picture, so a seed means the same on every device and in every batch; the arithmetic of a larger `batch` may still
    differ in its last bits, so 1 repeats exactly.
    """
    size = size or (model.defaults.size, model.defaults.size)
    check_size(model, size)
    images: list[Image.Image] = []
    for start in range(0, len(prompts), batch):
        rows = slice(start, start + batch)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds[rows]]
        call = {
            "prompt": list(prompts[rows]),
            "latents": initial_noise(model, generators, size),
            "generator": generators,
            "num_inference_steps": model.defaults.steps if steps is None else steps,
            "guidance_scale": model.defaults.guidance if guidance is None else guidance,
            "width": size[0],
            "height": size[1],
        }
        more = {"negative_prompt": [negative] * len(generators)} if negative else {}
        images += _call_pipeline(model, model.family.pipeline_kwargs(model.pipe, call | more))
        if progress:
            progress(len(images), len(prompts))
    return images


def _call_pipeline(model: Model, call: dict[str, Any]) -> list[Image.Image]:
    """Call the pipeline without its progress bar; DeviceError if memory runs out, NonFiniteError for NaN pictures."""
    pipe = model.pipe
    before = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(**{**before, "disable": True})
    try:
        with quiet(), warnings.catch_warnings(), memory_errors(model.device):
            warnings.filterwarnings("error", _NAN_WARNING, RuntimeWarning)
            images: list[Image.Image] = pipe(**call).images
            return images
    except RuntimeWarning as error:
        raise NonFiniteError(
            f"{model.id} draws NaN in {dtype_name(model.dtype)}", precision_hint(model.dtype)
        ) from error
    except ValueError as error:
        what = f"{type(pipe.scheduler).__name__} in {call['num_inference_steps']} steps"
        raise UsageError(f"{model.id} cannot draw this with {what}: {error}".splitlines()[0]) from error
    finally:
        pipe.set_progress_bar_config(**before)


def initial_noise(model: Model, generators: Sequence[torch.Generator], size: tuple[int, int]) -> Tensor:
    """Standard normal latents (n, c, h, w): drawn in fp32 on the CPU, a generator per picture, then cast and moved."""
    shape = (
        1,
        model.pipe.vae.config.latent_channels,
        size[1] // model.vae_scale_factor,
        size[0] // model.vae_scale_factor,
    )
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float32) for generator in generators]
    return torch.cat(drawn).to(model.device, model.dtype)


def check_size(model: Model, size: tuple[int, int]) -> None:
    """Refuse a picture size (width, height) that the model cannot draw."""
    unit = max(8, model.vae_scale_factor * model.family.patch_size(model.pipe))
    if min(size) < unit or any(side % unit for side in size):
        raise UsageError(f"size {size[0]}x{size[1]}: {model.id} draws sides that are multiples of {unit}")


def versions() -> dict[str, str]:
    """Versions of what computed a picture or a concept."""
    from importlib.metadata import version

    import conestool

    named = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    return {"conestool": conestool.__version__, "python": platform.python_version(), **named}
