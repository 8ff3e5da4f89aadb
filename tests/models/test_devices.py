"""Computing so that a device repeats its results, for as long as that was asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from conestool.models.devices import compute_deterministically
from tests.support.command_line import Cones

PROMISED = (True, True, False, False, False, ":4096:8")


def switches() -> tuple[object, ...]:
    """All that stands between two equal runs."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    kernels = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return (
        *kernels,
        cuda.matmul.allow_tf32,
        cudnn.allow_tf32,
        cudnn.benchmark,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


def test_everything_is_set_and_put_back_after_an_error() -> None:
    """Also where all of it was otherwise before."""
    before = switches()
    try:
        for value in (True, False):
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = value
            found = switches()
            assert found != PROMISED
            with pytest.raises(ValueError, match="stop"), compute_deterministically():
                assert switches() == PROMISED
                raise ValueError("stop")
            assert switches() == found
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark = before[2], before[4]  # type: ignore[assignment]
    assert switches() == before


def test_a_workspace_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within and after."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with compute_deterministically():
        assert switches()[-1] == ":16:8"
    assert switches()[-1] == ":16:8"


@pytest.mark.parametrize("asked", [True, False])
def test_a_command_computes_so_while_it_runs(asked: bool, cones: Cones, epsilon_folder: Path, tmp_path: Path) -> None:
    """And only if `--deterministic` was given; the next command in the process is as free as before."""
    before, seen = switches(), set()
    hook = register_module_forward_hook(lambda module, given, out: seen.add(switches()))
    try:
        words = ["render", "a dog", "--model", epsilon_folder, "--steps", "2", "-o", tmp_path / "dog.png"]
        done = cones(*words, *["--deterministic"] * asked)
    finally:
        hook.remove()
    assert done.code == 0, done.err
    assert seen == {PROMISED if asked else before}
    assert switches() == before
