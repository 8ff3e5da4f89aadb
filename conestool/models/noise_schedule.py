"""The loss a base model was trained with: its noise schedule, its target, and the error per sample.

`L(z, c) = E || target - model(z_t, t, c) ||^2` is one term of the concept-implanting loss (DreamBooth's, which Cones
calls L_con; see method.md). Symbols: `latents` z (n, c, h, w), `noise` eps ~ N(0, 1), timestep indices `t` (n,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conestool.errors import ModelLoadError
from conestool.models.conditioning import Conditioning
from conestool.models.memory import sliced_attention
from conestool.models.model import Model

_PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow")


@dataclass(frozen=True)
class NoiseSchedule:
    """The forward process `z_t = alphas[t] z + sigmas[t] eps` of a model's own training, and what it predicts.

    `alphas` and `sigmas` are fp32 of shape (T,), in DDPM's notation sqrt(alphas_cumprod) and sqrt(1 - alphas_cumprod).
    The denoiser is called with `timesteps[t]`, also (T,).
    """

    prediction: str
    alphas: Tensor
    sigmas: Tensor
    timesteps: Tensor

    def __len__(self) -> int:
        return self.alphas.shape[0]

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noisy latents z_t, fp32, of the latents' shape."""
        alpha, sigma = self.coefficients(latents, t)
        return alpha * latents.float() + sigma * noise.float()

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the model learns to predict, fp32: eps; v = alpha eps - sigma z (Salimans & Ho 2022); z; or eps - z."""
        latents, noise = latents.float(), noise.float()
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return latents
        if self.prediction == "flow":
            return noise - latents
        alpha, sigma = self.coefficients(latents, t)
        return alpha * noise - sigma * latents

    def coefficients(self, like: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """`alphas` and `sigmas` at `t`, shaped (n, 1, 1, 1) to multiply `like`."""
        shape = (-1, *[1] * (like.dim() - 1))
        index = t.to(self.alphas.device)
        return self.alphas[index].view(shape).to(like.device), self.sigmas[index].view(shape).to(like.device)


def schedule_of(model: Model) -> NoiseSchedule:
    """The schedule that the model was trained with, read from its scheduler's configuration, on the model's device.

    Which sampler the pipeline uses does not matter: training noise is always `sqrt(alphas_cumprod)` (DDPM), or linear
    for flow matching. ModelLoadError if the configuration describes neither.
    """
    scheduler = model.pipe.scheduler
    name = type(scheduler).__name__
    if "FlowMatch" in name:
        patch = model.vae_scale_factor * model.family.patch_size(model.pipe)
        return _flow_schedule(scheduler.config, model.device, (model.defaults.size // patch) ** 2)
    if "EDM" in name or "beta_schedule" not in scheduler.config:
        raise ModelLoadError(
            f"{model.id}: {name} does not say how the model was trained", "use a DDIM or DDPM scheduler"
        )
    from diffusers import DDPMScheduler

    training = DDPMScheduler.from_config(scheduler.config)
    prediction = str(training.config.prediction_type)
    if prediction not in _PREDICTION_TYPES:
        raise ModelLoadError(
            f"{model.id}: unknown prediction type {prediction!r}", f"known: {', '.join(_PREDICTION_TYPES)}"
        )
    alphas = training.alphas_cumprod.float().to(model.device)
    times = torch.arange(len(alphas), device=model.device)
    return NoiseSchedule(prediction, alphas.sqrt(), (1 - alphas).sqrt(), times)


def _flow_schedule(config: Any, device: torch.device, num_patches: int) -> NoiseSchedule:
    """Rectified flow: sigma from 1/T to 1, shifted for pictures of so many patches; the model is called with T sigma.

    The shift is that of sampling (Esser et al. 2024, section 5.3.2): the search looks where the sampler works. Our
    choice, since how often a model saw each sigma in training is not in its configuration.
    """
    steps = int(config.num_train_timesteps)
    sigma = torch.arange(1, steps + 1, dtype=torch.float32, device=device) / steps
    shift = (
        _dynamic_shift(config, num_patches) if config.get("use_dynamic_shifting") else float(config.get("shift") or 1.0)
    )
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    return NoiseSchedule("flow", 1 - sigma, sigma, steps * sigma)


def _dynamic_shift(config: Any, num_patches: int) -> float:
    """The shift for pictures of so many patches: its logarithm (or itself) is linear in their number."""
    low, high = float(config.get("base_image_seq_len", 256)), float(config.get("max_image_seq_len", 4096))
    least, most = float(config.get("base_shift", 0.5)), float(config.get("max_shift", 1.15))
    mu = least + (most - least) * (num_patches - low) / (high - low)
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)


def predict_noise(
    model: Model, schedule: NoiseSchedule, noisy_latents: Tensor, t: Tensor, cond: Conditioning
) -> Tensor:
    """The denoiser's output for `noisy_latents` at timestep indices `t`, fp32, computed in the model's dtype.

    It is noise, velocity or latents, whatever `NoiseSchedule.target` speaks of.
    """
    times = schedule.timesteps[t.to(schedule.timesteps.device)]
    with sliced_attention(model.device):
        return model.family.predict(model.denoiser, noisy_latents.to(model.dtype), times, cond).float()


def per_sample_loss(
    model: Model, schedule: NoiseSchedule, latents: Tensor, noise: Tensor, t: Tensor, cond: Conditioning
) -> Tensor:
    """Mean squared error per sample, fp32 of shape (n,); differentiable in the denoiser's weights."""
    noisy_latents = schedule.add_noise(latents, noise, t)
    error = predict_noise(model, schedule, noisy_latents, t, cond) - schedule.target(latents, noise, t)
    return error.square().flatten(1).mean(1)


def stratified_timesteps(
    n: int, steps: int, generator: torch.Generator | None = None, timestep_range: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """`n` timestep indices in `timestep_range` (shares of `steps`), one drawn from each n-th of it, in random order.

    int64 on the CPU. Their spread over the range lowers the variance of the loss against independent draws.
    """
    places = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    order = torch.randperm(n, generator=generator)
    low, high = timestep_range
    return ((low + (high - low) * places[order]) * steps).long().clamp_(max=steps - 1)
