"""The training of text encoder and U-Net: its losses, its optimizer, and going on after a stop."""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.pocket import autoencoder, fast, labels, models, optimizer, probe, scenes, tokenizer
from training.pocket.common import Team, save_state
from training.pocket.train import build_trainer
from training.pocket.trainer import Trainer, rate_at

SHAPE = (autoencoder.CHANNELS, models.LATENT_SIZE, models.LATENT_SIZE)


def arguments(work: Path) -> argparse.Namespace:
    """What the command line gives."""
    return argparse.Namespace(
        work=work,
        device="cpu",
        seed=0,
        lr=1e-3,
        optimizer="muon",
        timesteps="middle",
        from_average=False,
        new_average=False,
        ema=0.9,
        local_steps=1,
        attributes=0.05,
        frozen_text=False,
    )


class Twins:
    """Stands where a Team of two stands, whose other member has all weights and gradients a given amount higher."""

    size, leads = 2, True

    def __init__(self, ahead: float) -> None:
        self.ahead = ahead
        self.calls: list[str] = []

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Note the call."""
        self.calls.append("gradients")

    def average_weights(self, parameters: list[torch.nn.Parameter]) -> None:
        """The mean with a twin."""
        self.calls.append("weights")
        for parameter in parameters:
            parameter.data += self.ahead / 2


def test_crowding_is_the_squared_excess_of_the_cosines() -> None:
    """Equal states exceed what is allowed by all the rest; orthogonal ones do not, and their lengths do not matter."""
    equal = torch.ones(3, 2, 8)
    assert models.crowding(equal, 0.6) == pytest.approx(0.16)
    apart = torch.eye(3)[:, None] * torch.tensor([1.0, 5.0, 9.0])[:, None, None]
    assert models.crowding(apart, 0.0) == 0
    mixed = torch.stack([torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])])
    assert models.crowding(mixed, 0.0) == pytest.approx(0.5), "each place counts on its own"


def test_muon_makes_updates_orthogonal_and_finds_a_minimum() -> None:
    """All singular values of a tall and of a wide matrix come out near 1; a quadratic's minimum is reached.

    The learning rate is linear in the steps first and in the time at the end.
    """
    torch.manual_seed(0)
    for shape in ((48, 20), (20, 48)):
        uneven = torch.randn(shape) @ torch.diag(torch.logspace(0, -1.5, shape[1]))
        values = torch.linalg.svdvals(optimizer.orthogonalize(uneven).float())
        assert values.min() > 0.5 and values.max() < 1.3
    weights = [torch.nn.Parameter(torch.randn(8, 4, 3, 3)), torch.nn.Parameter(torch.randn(6, 12))]
    aims = [torch.randn_like(w) for w in weights]
    muon = optimizer.Muon(weights, lr=0.3, weight_decay=0.0)
    for step in range(300):
        for group in muon.param_groups:
            group["lr"] = 0.3 * (1 - step / 300)
        loss = torch.stack([((w - a) ** 2).mean() for w, a in zip(weights, aims, strict=True)]).sum()
        muon.zero_grad()
        torch.autograd.backward(loss)
        muon.step()
    assert all((w - a).abs().max() < 0.15 for w, a in zip(weights, aims, strict=True))
    args = argparse.Namespace(lr=1.0, minutes=10.0, decay=5.0, warm_up=10)
    rates = [rate_at(args, steps, minutes) for steps, minutes in ((0, 0.0), (100, 0.0), (100, 10.0))]
    assert rates == pytest.approx([0.1, 1.0, 0.02])


def test_sped_up_modules_compute_the_same() -> None:
    """Convolutions of every kind in the U-Net and its attention, as matrix products: outputs and gradients."""
    torch.manual_seed(0)
    unet = models.build_unet()
    inputs = (torch.randn(2, *SHAPE), torch.tensor([100, 900]), torch.randn(2, 16, models.TEXT_WIDTH))

    def run(dtype: torch.dtype) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        unet.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = unet(*inputs).sample.float()
        torch.autograd.backward(out.square().mean())
        return out.detach(), {name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None}

    whole, gradients = run(torch.float32)
    half, coarse = run(torch.bfloat16)
    fast.speed_up(unet)
    ours, mine = run(torch.bfloat16)
    assert mine.keys() == gradients.keys()

    def gap(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).norm() / b.norm().clamp(min=1e-9))

    assert gap(ours, whole) < 2 * gap(half, whole) + 1e-3
    for name in gradients:
        if gradients[name].norm() > 1e-6:
            assert gap(mine[name], gradients[name]) < 2 * gap(coarse[name], gradients[name]) + 0.02, name


@pytest.mark.timeout(120)
def test_separation_loss_moves_the_states_of_words_apart(tmp_path: Path) -> None:
    """A few steps on that loss alone bring it down, and its gradient reaches the text encoder only."""
    save_state(tmp_path / "scale.pt", {"scaling_factor": 1.0})
    trainer = build_trainer(arguments(tmp_path), Team())
    optimizer = torch.optim.Adam(trainer.text.parameters(), lr=1e-3)
    words = trainer.pad(
        [trainer.words(text, add_special_tokens=False).input_ids for text in ("a red dog", "a red car")]
    )
    drowned = models.crowding(trainer.states_of(words)[:, [3, 4, -1]], 0.0)
    losses = []
    for _ in range(12):
        random.seed(3)
        loss = trainer.separation(*trainer.separation_prompts())
        trainer.backward(loss)
        optimizer.step()
        trainer.copy_to_half()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert models.crowding(trainer.states_of(words)[:, [3, 4, -1]], 0.0) < 0.8 * drowned
    assert all(p.grad is None or not p.grad.any() for p in trainer.unet.parameters())


def test_the_probe_reads_each_thing_at_its_place() -> None:
    """Features that hold a thing's code at its place alone are read right after some steps; places not taken are not
    asked for, and what the probe learns before its warm-up ends does not reach the features."""
    torch.manual_seed(0)
    unet = models.build_unet()
    reader = probe.AttributeProbe(unet)
    things, background = labels.codes_of(scenes.sample_scenes(48, 5))
    codes = torch.randn(len(labels.WORLD.heads["class"]), models.WIDTHS[-1])
    features = torch.zeros(len(things), models.WIDTHS[-1], models.LATENT_SIZE**2)
    for row, places in enumerate(things):
        count = int((places[:, 0] != labels.ABSENT).sum())
        for place in range(count):
            where = reader.weights[count - 1, place] > 0
            features[row][:, where] = codes[int(places[place, 0])][:, None]
    reader.features = features.unflatten(2, (models.LATENT_SIZE, -1)).requires_grad_()
    optimizer = torch.optim.Adam(reader.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(reader.loss(things, background, detached=True))
        optimizer.step()
    assert reader.features.grad is None
    assert reader.right(things, background)[:, 0].mean() > 0.9
    torch.autograd.backward(reader.loss(things, background, detached=False))
    assert reader.features.grad is not None
    assert bool(reader.features.grad.any())


@pytest.mark.timeout(120)
def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """Two steps, and one step, a save, a load and one step, end with the same weights and averages.

    Up to rounding: the identifiers' fixed directions are read off the embedding again.
    """
    words = tokenizer.build()
    latents = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    tokens = words(
        ["a sks dog", "a red car"], padding="max_length", max_length=tokenizer.MAX_LENGTH, return_tensors="pt"
    ).input_ids
    truth = labels.codes_of(scenes.sample_scenes(2, 0))
    save_state(tmp_path / "scale.pt", {"scaling_factor": 1.0})

    def step(trainer: Trainer, number: int) -> None:
        torch.manual_seed(number)
        random.seed(number)
        trainer.step(latents, tokens, truth, 1e-3)

    whole = build_trainer(arguments(tmp_path), Team())
    step(whole, 0)
    save_state(tmp_path / "train.pt", whole.state())
    step(whole, 1)
    resumed = build_trainer(arguments(tmp_path), Team())
    step(resumed, 1)
    assert resumed.seen == whole.seen == 4
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(resumed.parameters, whole.parameters, strict=True))
    assert resumed.probe_steps == whole.probe_steps == 2
    probes = zip(resumed.probe.parameters(), whole.probe.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in probes)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(resumed.average, whole.average, strict=True))


@pytest.mark.timeout(120)
def test_processes_average_their_weights_after_steps_of_their_own(tmp_path: Path) -> None:
    """Every fourth step with four of them, the averaged weights then follow; every gradient with one."""
    save_state(tmp_path / "scale.pt", {"scaling_factor": 1.0})
    args, team = arguments(tmp_path), Twins(1.0)
    args.local_steps = 4
    trainer = build_trainer(args, team)  # type: ignore[arg-type]
    latents, tokens = torch.randn(2, *SHAPE), trainer.empty.repeat(2, 1)
    calls, before = [], trainer.unet.conv_in.bias.detach().clone()
    for _ in range(4):
        trainer.step(latents, tokens, None, 0.0)
        calls.append(list(team.calls))
    assert calls == [[], [], [], ["weights"]]
    assert trainer.seen == 4 * 2 * 2
    assert torch.allclose(trainer.unet.conv_in.bias, before + 0.5, atol=1e-6)
    row = next(i for i, p in enumerate(trainer.parameters) if p is trainer.unet.conv_in.bias)
    moved = (trainer.average[row] - before).mean().item()
    assert 0 < moved < 0.5
    args.local_steps = 1
    trainer.step(latents, tokens, None, 0.0)
    assert team.calls[1:] == ["gradients"]


@pytest.mark.alone
def test_a_team_of_two_ends_with_the_mean(tmp_path: Path) -> None:
    """Two processes over gloo, one holding zeros and the other ones."""
    script = (
        "import torch, sys; from training.pocket.common import Team\n"
        "team = Team(); weights = torch.nn.Parameter(torch.full((3,), float(team.rank)))\n"
        "team.average_weights([weights]); weights.grad = weights.detach() + team.rank\n"
        "team.average_gradients([weights])\n"
        "assert weights.tolist() == [0.5] * 3 and weights.grad.tolist() == [1.0] * 3; team.close()\n"
    )
    (tmp_path / "two.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "two.py"]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
