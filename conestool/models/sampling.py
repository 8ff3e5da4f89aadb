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
from conestool.models.memory import Fit, shrinking, sliced_attention, that_fit
from conestool.models.model import Model
from conestool.models.noise_schedule import predict_noise, schedule_of
from conestool.models.prompts import encode

Progress = Callable[[int, int], None]
"""Called with the pictures done so far and their total."""
_LARGE_PICTURE = 512 * 512
"""Pixels from which on pictures are decoded one by one, since together they would take more than the denoiser."""
_MAX_PICTURES = 8
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
    differ in its last bits, so 1 repeats exactly. Where memory runs out the rest is drawn in smaller batches.
    """
    width, height = size or (model.defaults.size, model.defaults.size)
    check_size(model, (width, height))
    images: list[Image.Image] = []

    def draw(count: int) -> list[Image.Image]:
        rows = slice(len(images), len(images) + count)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds[rows]]
        call = {
            "prompt": list(prompts[rows]),
            "latents": initial_noise(model, generators, (width, height)),
            "generator": generators,
            "num_inference_steps": model.defaults.steps if steps is None else steps,
            "guidance_scale": model.defaults.guidance if guidance is None else guidance,
            "width": width,
            "height": height,
        }
        more = {"negative_prompt": [negative] * len(generators)} if negative else {}
        return _call_pipeline(model, model.family.pipeline_kwargs(model.pipe, call | more))

    while len(images) < len(prompts):
        wanted = min(batch, len(prompts) - len(images))
        part, taken = shrinking(draw, wanted, model.device)
        batch = batch if taken == wanted else taken
        images += part
        if progress:
            progress(len(images), len(prompts))
    return images


def _call_pipeline(model: Model, call: dict[str, Any]) -> list[Image.Image]:
    """Call the pipeline without its progress bar; DeviceError if memory runs out, NonFiniteError for NaN pictures."""
    pipe = model.pipe
    before, sliced = dict(getattr(pipe, "_progress_bar_config", {})), getattr(pipe.vae, "use_slicing", False)
    pipe.set_progress_bar_config(**{**before, "disable": True})
    try:
        pipe.vae.use_slicing = sliced or call["width"] * call["height"] >= _LARGE_PICTURE
        with quiet(), warnings.catch_warnings(), memory_errors(model.device), sliced_attention(model.device):
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
        pipe.vae.use_slicing = sliced
        pipe.set_progress_bar_config(**before)


@torch.no_grad()
def pictures_at_once(model: Model, size: tuple[int, int], most: int) -> Fit:
    """How many pictures of `size` fit on the model's device at once, at most `most` and eight.

    On the CPU one: more are no faster there, and differ in their last bits.
    """
    if most == 1 or model.device.type == "cpu":
        return Fit(1, most)
    check_size(model, size)
    schedule, cond = schedule_of(model), encode(model, ["a picture"])
    noise = initial_noise(model, [torch.Generator().manual_seed(0)], size)

    def run(count: int) -> None:
        rows = count * (2 if model.defaults.guidance > 1 else 1)
        times = torch.zeros(rows, dtype=torch.int64, device=model.device)
        predict_noise(model, schedule, noise.expand(rows, -1, -1, -1), times, cond.expand(rows))

    return that_fit(run, min(most, _MAX_PICTURES), model.device)


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
