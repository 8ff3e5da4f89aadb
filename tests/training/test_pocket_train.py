"""The training of text encoder and U-Net: its reading loss, and going on after a stop."""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.pocket import models, tokenizer
from training.pocket.common import Team, save_state
from training.pocket.train import Trainer, rate_at


def arguments(work: Path) -> argparse.Namespace:
    """What the command line gives."""
    return argparse.Namespace(
        work=work,
        device="cpu",
        seed=0,
        lr=1e-3,
        text_from=None,
        from_average=False,
        new_average=False,
        pool="core-*.pt",
        ema=0.9,
        local_steps=1,
    )


class Twins:
    """Stands where a Team of two stands, whose other member has all weights and gradients a given amount higher."""

    size, leads = 2, True

    def __init__(self, ahead: float) -> None:
        self.ahead, self.calls = ahead, []

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Note the call."""
        self.calls.append("gradients")

    def average_weights(self, parameters: list[torch.nn.Parameter]) -> None:
        """The mean with a twin."""
        self.calls.append("weights")
        for parameter in parameters:
            parameter.data += self.ahead / 2


def test_reading_loss_tells_lost_words_from_kept_ones() -> None:
    """States that are the words themselves read perfectly; equal states cannot tell one word from another."""
    torch.manual_seed(0)
    reader = models.Reader()
    embedding = torch.linalg.qr(torch.randn(models.TEXT_WIDTH, 64)).Q.T
    tokens = torch.tensor([[1, 2, 3, 4, 0, 0], [5, 6, 7, 8, 0, 0]])
    with torch.no_grad():
        reader.heads[0].weight.copy_(torch.eye(models.TEXT_WIDTH))
        reader.heads[0].bias.zero_()
        reader.sharpness.fill_(4.0)
        reader.heads = reader.heads[:1]
        assert reader(embedding[tokens], tokens, embedding, end=0) < 1e-6
        blank = embedding[torch.full_like(tokens, 9)]
        assert reader(blank, tokens, embedding, end=0) > math.log(2)


def test_reading_loss_ignores_the_padding() -> None:
    """What stands behind the first end token changes nothing."""
    torch.manual_seed(0)
    reader, embedding = models.Reader(), torch.randn(16, models.TEXT_WIDTH)
    tokens = torch.tensor([[1, 2, 3, 0, 0, 0]])
    states = torch.randn(1, 6, models.TEXT_WIDTH)
    other = states.clone()
    other[:, 3:] = 7.0
    assert torch.equal(reader(states, tokens, embedding, 0), reader(other, tokens, embedding, 0))


def test_reading_loss_of_dropped_captions_is_finite() -> None:
    """A small batch whose captions were all dropped has one word to name, its beginning, and none before that."""
    torch.manual_seed(0)
    tokens = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0]])
    loss = models.Reader()(torch.randn(2, 4, models.TEXT_WIDTH), tokens, torch.randn(16, models.TEXT_WIDTH), 0)
    assert loss.isfinite()


def test_crowding_is_the_squared_excess_of_the_cosines() -> None:
    """Equal states exceed what is allowed by all the rest; orthogonal ones do not, and their lengths do not matter."""
    equal = torch.ones(3, 2, 8)
    assert models.crowding(equal, 0.6) == pytest.approx(0.16)
    apart = torch.eye(3)[:, None] * torch.tensor([1.0, 5.0, 9.0])[:, None, None]
    assert models.crowding(apart, 0.0) == 0
    mixed = torch.stack([torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])])
    assert models.crowding(mixed, 0.0) == pytest.approx(0.5), "each place counts on its own"


@pytest.mark.timeout(120)
def test_separation_loss_moves_the_states_of_words_apart(tmp_path: Path) -> None:
    """A few steps on that loss alone bring it down, and its gradient reaches the text encoder only."""
    save_state(tmp_path / "scale.pt", {"scaling_factor": 1.0})
    trainer = Trainer(arguments(tmp_path), Team())
    optimizer = torch.optim.Adam(trainer.text.parameters(), lr=1e-3)
    words = [trainer.words(text, add_special_tokens=False).input_ids for text in ("a red dog", "a red car")]
    drowned = models.crowding(trainer.states_of(words)[:, [3, 4, -1]], 0.0)
    losses = []
    for _ in range(12):
        torch.manual_seed(3)
        loss = trainer.separation()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert models.crowding(trainer.states_of(words)[:, [3, 4, -1]], 0.0) < 0.8 * drowned
    assert all(parameter.grad is None for parameter in trainer.unet.parameters())


@pytest.mark.timeout(120)
def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """Two steps, and one step, a save, a load and one step, end with the same weights and averages.

    Up to rounding: the identifiers' fixed directions are read off the embedding again.
    """
    words = tokenizer.build()
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    tokens = words(["a sks dog", "a red car"], padding="max_length", max_length=32, return_tensors="pt").input_ids
    save_state(tmp_path / "scale.pt", {"scaling_factor": 1.0})

    def step(trainer: Trainer, number: int) -> None:
        torch.manual_seed(number)
        trainer.step(latents, tokens, 1e-3)

    whole = Trainer(arguments(tmp_path), Team())
    step(whole, 0)
    whole.save()
    step(whole, 1)
    resumed = Trainer(arguments(tmp_path), Team())
    step(resumed, 1)
    assert resumed.seen == whole.seen == 4
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(resumed.parameters, whole.parameters, strict=True))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(resumed.average, whole.average, strict=True))


@pytest.mark.timeout(120)
def test_processes_average_their_weights_after_steps_of_their_own(tmp_path: Path) -> None:
    """Every fourth step with four of them, the averaged weights then follow; every gradient with one."""
    save_state(tmp_path / "scale.pt", {"scaling_factor": 1.0})
    args, team = arguments(tmp_path), Twins(1.0)
    args.local_steps = 4
    trainer = Trainer(args, team)  # type: ignore[arg-type]
    latents, tokens = torch.randn(2, 4, 16, 16), trainer.empty.repeat(2, 1)
    calls, before = [], trainer.unet.conv_in.bias.detach().clone()
    for _ in range(4):
        trainer.step(latents, tokens, 0.0)
        calls.append(list(team.calls))
    assert calls == [[], [], [], ["weights"]]
    assert trainer.seen == 4 * 2 * 2
    assert torch.allclose(trainer.unet.conv_in.bias, before + 0.5, atol=1e-6)
    row = next(i for i, p in enumerate(trainer.parameters) if p is trainer.unet.conv_in.bias)
    moved = (trainer.average[row] - before).mean().item()
    assert 0 < moved < 0.5
    args.local_steps = 1
    trainer.step(latents, tokens, 0.0)
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


def test_rate_warms_up_and_falls_to_nearly_nothing() -> None:
    """The learning rate is linear in the steps first and in the time at the end."""
    args = argparse.Namespace(lr=1.0, minutes=10.0, decay=5.0, warm_up=10)
    assert rate_at(args, 0, 0.0) == pytest.approx(0.1)
    assert rate_at(args, 100, 0.0) == 1.0
    assert rate_at(args, 100, 10.0) == pytest.approx(0.02)
