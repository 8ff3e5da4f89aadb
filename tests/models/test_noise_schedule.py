"""Noise schedules, targets and losses, against formulas written out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from conestool.errors import ModelLoadError
from conestool.models.model import Model
from conestool.models.noise_schedule import (
    NoiseSchedule,
    per_sample_loss,
    predict_noise,
    schedule_of,
    stratified_timesteps,
)
from conestool.models.prompts import encode


@pytest.fixture
def model(epsilon_folder: Path) -> Model:
    """A fresh copy in memory of the small base model."""
    return Model.from_pretrained(str(epsilon_folder))


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler])
def test_schedule_is_that_of_training_whatever_the_sampler(model: Model, kind: Any) -> None:
    """Samplers that rescale their inputs do not change the training noise."""
    model.pipe.scheduler = kind.from_config(model.pipe.scheduler.config)
    schedule = schedule_of(model)
    betas = torch.linspace(0.0001**0.5, 0.02**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    torch.testing.assert_close(schedule.alphas.double() ** 2, alphas, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(schedule.sigmas.double() ** 2, 1 - alphas, rtol=1e-4, atol=1e-6)
    assert schedule.prediction == "epsilon" and len(schedule) == 1000


def test_noise_is_that_of_ddpm(model: Model) -> None:
    """Equal to diffusers' own DDPM add_noise and velocity."""
    ddpm = DDPMScheduler.from_config(model.pipe.scheduler.config)
    z, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    t = torch.tensor([0, 500, 999])
    schedule = schedule_of(model)
    torch.testing.assert_close(schedule.add_noise(z, noise, t), ddpm.add_noise(z, noise, t))
    v = NoiseSchedule("v_prediction", schedule.alphas, schedule.sigmas, schedule.timesteps)
    torch.testing.assert_close(v.target(z, noise, t), ddpm.get_velocity(z, noise, t))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
def test_a_perfect_answer_recovers_the_latents(prediction: str) -> None:
    """From z_t and the target one gets z back: the definition of each kind of prediction."""
    angle = torch.linspace(0.1, 1.4, 10)
    alphas, sigmas = angle.cos(), angle.sin()
    if prediction == "flow":
        sigmas = torch.linspace(0.1, 1, 10)
        alphas = 1 - sigmas
    schedule = NoiseSchedule(prediction, alphas, sigmas, torch.arange(10))
    z, noise, t = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.tensor([2, 7])
    noisy, answer = schedule.add_noise(z, noise, t), schedule.target(z, noise, t)
    a, s = alphas[t].view(2, 1, 1, 1), sigmas[t].view(2, 1, 1, 1)
    recovered = {
        "epsilon": (noisy - s * answer) / a,
        "v_prediction": a * noisy - s * answer,
        "sample": answer,
        "flow": noisy - s * answer,
    }[prediction]
    torch.testing.assert_close(recovered, z, rtol=1e-4, atol=1e-4)


def test_flow_schedule_is_linear_and_shifted(model: Model) -> None:
    """Sigma runs to 1, a shift of 3 moves the middle to 3/4; an unknown schedule is refused."""
    model.pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = schedule_of(model)
    assert schedule.prediction == "flow" and float(schedule.sigmas[-1]) == 1.0
    torch.testing.assert_close(schedule.sigmas[499], torch.tensor(0.75))
    torch.testing.assert_close(schedule.timesteps, 1000 * schedule.sigmas)
    torch.testing.assert_close(schedule.alphas, 1 - schedule.sigmas)
    model.pipe.scheduler = EDMEulerScheduler()
    with pytest.raises(ModelLoadError, match="EDMEulerScheduler"):
        schedule_of(model)


@pytest.mark.parametrize("folder", ["epsilon_folder", "v_folder"])
def test_loss_is_the_mean_squared_error_per_sample(folder: str, request: pytest.FixtureRequest) -> None:
    """Equal to the U-Net called by hand, and each sample is alone in its number."""
    model = Model.from_pretrained(str(request.getfixturevalue(folder)))
    schedule = schedule_of(model)
    z, noise, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([100, 800])
    cond = encode(model, ["a dog", "a red hat"])
    with torch.no_grad():
        losses = per_sample_loss(model, schedule, z, noise, t, cond)
        noisy = schedule.add_noise(z, noise, t)
        out = model.pipe.unet(noisy, t, encoder_hidden_states=cond.prompt_embeds).sample
    a, s = schedule.alphas[t].view(2, 1, 1, 1), schedule.sigmas[t].view(2, 1, 1, 1)
    target = noise if folder == "epsilon_folder" else a * noise - s * z
    assert losses.shape == (2,)
    torch.testing.assert_close(losses[1], torch.mean((out[1] - target[1]) ** 2))
    torch.testing.assert_close(losses[0], torch.mean((out[0] - target[0]) ** 2))


def test_loss_is_fp32_and_differentiable_in_bf16(epsilon_folder: Path) -> None:
    """A model in bfloat16 still gives fp32 losses, and gradients reach its K/V weights."""
    model = Model.from_pretrained(str(epsilon_folder), dtype="bfloat16")
    schedule, z = schedule_of(model), torch.randn(1, 4, 8, 8)
    cond = encode(model, ["a dog"])
    assert predict_noise(model, schedule, z, torch.tensor([5]), cond).dtype == torch.float32
    loss = per_sample_loss(model, schedule, z, torch.randn_like(z), torch.tensor([5]), cond).sum()
    assert loss.dtype == torch.float32
    loss.backward()
    grads = [p.grad for name, p in model.denoiser.named_parameters() if name.endswith("attn2.to_k.weight")]
    assert grads and all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_stratified_timesteps_fall_one_into_each_part() -> None:
    """Sorted, the k-th of n lies in the k-th n-th of the range; the order is shuffled, the seed decides."""
    draw = stratified_timesteps(8, 1000, torch.Generator().manual_seed(3))
    assert torch.equal(draw.sort().values // 125, torch.arange(8))
    assert not torch.equal(draw, draw.sort().values)
    assert torch.equal(draw, stratified_timesteps(8, 1000, torch.Generator().manual_seed(3)))
