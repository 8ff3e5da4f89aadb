"""Predictions against what happens, and the meter against tensors whose sizes are known."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conestool.diffusion.conditioning import Conditioning
from conestool.diffusion.models import Model, load_model
from conestool.diffusion.unets import StableDiffusion
from conestool.diffusion.weights import kv_weights
from conestool.search import METHODS, Settings
from conestool.search.forecast import Job, forecast, rehearse
from conestool.search.metering import Imagined, Meter, used
from conestool.search.resources import Resources
from tests.cli.support import environment
from tests.tiny import make_unet, save_pipeline

ROOT = Path(__file__).parents[2]
JOB = Job(4, 8, Settings(options={"steps": 3}), Resources())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(save_pipeline(tmp_path_factory.mktemp("tiny") / "model")))


def test_the_meter_counts_what_is_alive() -> None:
    """Tensors that are made; not views, not what is done in place, and not what was there before."""
    old = torch.ones(100)
    with Meter() as meter:
        first = torch.zeros(1000)
        second = first + 1
        assert meter.live == 8000
        second.view(10, 100).mul_(2)
        old.add_(1)
        assert meter.live == meter.peak == 8000
        del first
        assert (meter.live, meter.peak) == (4000, 8000)


@pytest.mark.parametrize("learning", [True, False])
def test_an_imagined_pass_takes_what_a_real_one_takes(learning: bool) -> None:
    """Within a tenth, forward and backward or forward alone, though nothing is computed."""
    unet = make_unet(0, cross=16)
    cond = Conditioning(torch.zeros(1, 24, 16))
    told = Imagined(StableDiffusion(), unet, (4, 8, 8), cond, torch.float32).pass_bytes(4, learning=learning)
    unet.requires_grad_(False)
    for parameter in kv_weights(unet).values():
        parameter.requires_grad_(True).register_post_accumulate_grad_hook(used)
    with Meter() as meter, torch.set_grad_enabled(learning):
        answer = StableDiffusion().predict(unet, torch.zeros(4, 4, 8, 8), torch.full((4,), 500), cond.expand(4))
        if learning:
            answer.square().mean().backward()
    assert told == pytest.approx(meter.peak, rel=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_rehearsed_with_its_own_vectors(method: str) -> None:
    """At least scores and weights of 4 bytes each, and not twice as much as a step has lines."""
    vectors = rehearse(Settings(method=method, options={"steps": 3}), 200_000, torch.float32)
    assert 8 <= vectors.held <= vectors.peak < 100


def test_options_that_save_memory_lower_the_prediction(model: Model) -> None:
    """Each that is named does, and one that is used already is not named; fewer steps take less time."""
    told = forecast(model, JOB)
    assert told.memory == max(phase.memory for phase in told.phases.values())
    assert all(size < told.memory for size in told.lower.values())
    assert "--offload-scores" not in " ".join(told.lower)
    small = forecast(model, replace(JOB, resources=Resources(1, True)))
    assert small.memory <= told.memory
    assert not small.lower
    assert json.loads(json.dumps(told.record()))["memory"] == told.memory


def test_a_forecast_leaves_the_model_as_it_was(model: Model) -> None:
    """Bit for bit, without gradients and without checkpointing."""
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    forecast(model, replace(JOB, resources=Resources(gradient_checkpointing=True)))
    assert all(torch.equal(value, before[name]) for name, value in model.denoiser.state_dict().items())
    assert all(parameter.grad is None for parameter in model.denoiser.parameters())
    assert not model.denoiser.is_gradient_checkpointing


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to forget a peak of memory")
def test_a_forecast_on_pocket_is_near_what_happens(tmp_path: Path) -> None:
    """Memory beside that of the loaded model within a factor of 1.5, and time within one of 4."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.search.forecasting"],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT), CONES_CACHE=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["was"] / 1.5 < found["told"] < found["was"] * 1.5
    assert found["seconds_were"] / 4 < found["seconds_told"] < found["seconds_were"] * 4
