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
from conestool.models.model import Model

__all__ = ["Schedule", "predict", "sample_losses", "schedule_of", "stratified_timesteps"]

TARGETS = ("epsilon", "v_prediction", "sample", "flow")


@dataclass(frozen=True)
class Schedule:
    """The forward process `z_t = signal[t] z + sigma[t] eps` of a model's own training, and what it predicts.

    `signal`, `sigma` and `model_times` are fp32 of shape (T,); the model is called with `model_times[t]`.
    """

    prediction: str
    signal: Tensor
    sigma: Tensor
    model_times: Tensor

    def __len__(self) -> int:
        return self.signal.shape[0]

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noisy latents z_t, fp32, of the latents' shape."""
        signal, sigma = self.rates(latents, t)
        return signal * latents.float() + sigma * noise.float()

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the model ought to answer, fp32: eps; v = signal eps - sigma z (Salimans & Ho 2022); z; or eps - z."""
        latents, noise = latents.float(), noise.float()
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return latents
        if self.prediction == "flow":
            return noise - latents
        signal, sigma = self.rates(latents, t)
        return signal * noise - sigma * latents

    def rates(self, like: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise rates at `t`, shaped (n, 1, 1, 1) to multiply `like`."""
        shape = (-1, *[1] * (like.dim() - 1))
        index = t.to(self.signal.device)
        return self.signal[index].view(shape).to(like.device), self.sigma[index].view(shape).to(like.device)


def schedule_of(model: Model) -> Schedule:
    """The schedule that the model was trained with, read from its scheduler's configuration, on the model's device.

    Which sampler the pipeline uses does not matter: training noise is always `sqrt(alphas_cumprod)` (DDPM), or linear
    for flow matching. ModelLoadError if the configuration describes neither.
    """
    scheduler = model.pipe.scheduler
    name = type(scheduler).__name__
    if "FlowMatch" in name:
        return flow_schedule(scheduler.config, model.device, tokens(model))
    if "EDM" in name or "beta_schedule" not in scheduler.config:
        raise ModelLoadError(
            f"{model.id}: {name} does not say how the model was trained", "use a DDIM or DDPM scheduler"
        )
    from diffusers import DDPMScheduler

    training = DDPMScheduler.from_config(scheduler.config)
    prediction = str(training.config.prediction_type)
    if prediction not in TARGETS:
        raise ModelLoadError(f"{model.id}: unknown prediction type {prediction!r}", f"known: {', '.join(TARGETS)}")
    alphas = training.alphas_cumprod.float().to(model.device)
    times = torch.arange(len(alphas), device=model.device)
    return Schedule(prediction, alphas.sqrt(), (1 - alphas).sqrt(), times)


def flow_schedule(config: Any, device: torch.device, tokens: int) -> Schedule:
    """Rectified flow: sigma from 1/T to 1, shifted for pictures of so many `tokens`; the model is called with T sigma.

    The shift is that of sampling (Esser et al. 2024, section 5.3.2): the search looks where the sampler works. Our
    choice, since how often a model saw each sigma in training is not in its configuration.
    """
    steps = int(config.num_train_timesteps)
    sigma = torch.arange(1, steps + 1, dtype=torch.float32, device=device) / steps
    shift = dynamic_shift(config, tokens) if config.get("use_dynamic_shifting") else float(config.get("shift") or 1.0)
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    return Schedule("flow", 1 - sigma, sigma, steps * sigma)


def dynamic_shift(config: Any, tokens: int) -> float:
    """The shift for pictures of so many `tokens`: its logarithm (or itself) is linear in their number."""
    low, high = float(config.get("base_image_seq_len", 256)), float(config.get("max_image_seq_len", 4096))
    least, most = float(config.get("base_shift", 0.5)), float(config.get("max_shift", 1.15))
    mu = least + (most - least) * (tokens - low) / (high - low)
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)


def tokens(model: Model) -> int:
    """Patches of a picture of the model's own size, which is what a search shows it."""
    return (model.defaults.size // (model.scale * model.family.patch(model.pipe))) ** 2


def predict(model: Model, schedule: Schedule, noisy: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
    """The denoiser's answer to `noisy` latents at timestep indices `t`, fp32; it computes in the model's dtype."""
    times = schedule.model_times[t.to(schedule.model_times.device)]
    return model.family.predict(model.denoiser, noisy.to(model.dtype), times, cond).float()


def sample_losses(
    model: Model, schedule: Schedule, latents: Tensor, noise: Tensor, t: Tensor, cond: Conditioning
) -> Tensor:
    """Mean squared error per sample, fp32 of shape (n,); differentiable in the denoiser's weights."""
    noisy = schedule.add_noise(latents, noise, t)
    error = predict(model, schedule, noisy, t, cond) - schedule.target(latents, noise, t)
    return error.square().flatten(1).mean(1)


def stratified_timesteps(
    n: int, steps: int, generator: torch.Generator | None = None, span: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """`n` timestep indices in `span` (as shares of `steps`), one drawn uniformly from each n-th of it, in random order.

    int64 on the CPU. Their spread over the range lowers the variance of the loss against independent draws.
    """
    places = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    order = torch.randperm(n, generator=generator)
    low, high = span
    return ((low + (high - low) * places[order]) * steps).long().clamp_(max=steps - 1)
