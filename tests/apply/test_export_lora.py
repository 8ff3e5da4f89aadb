"""LoRA files: at full rank the patched weights, at any rank exactly the energy that they state."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from conestool.apply import apply_cones, write_lora
from conestool.errors import UsageError
from conestool.models.kv_weights import kv_weights
from conestool.models.model import Model
from tests.support.tiny_models import random_cone


def products(file: Path, model: Model) -> Iterator[tuple[Tensor, Tensor]]:
    """By hand: each K/V weight, and what the LoRA of weight 1 adds to it."""
    tensors = load_file(file)
    for param, weight in kv_weights(model.denoiser).items():
        name = "lora_unet_" + param.removesuffix(".weight").replace(".", "_")
        up, down = tensors[f"{name}.lora_up.weight"].float(), tensors[f"{name}.lora_down.weight"].float()
        yield weight.detach().clone(), up @ down * tensors[f"{name}.alpha"] / len(down)


def test_full_rank_is_the_patched_model(tmp_path: Path, model: Model) -> None:
    """Weight and product together are the weights with the concept zeroed."""
    cone = random_cone(model, density=0.1)
    done = write_lora(model, cone, tmp_path / "lora.safetensors", rank=1000, strength=0.75)
    assert done.rank == 16 and done.energy == pytest.approx(1, abs=1e-6)
    assert {len(value) for key, value in load_file(done.path).items() if key.endswith("down.weight")} == {16}
    sums = [weight + product for weight, product in products(done.path, model)]
    with apply_cones(model, cone, strength=0.75):
        for total, weight in zip(sums, kv_weights(model.denoiser).values(), strict=True):
            torch.testing.assert_close(total, weight.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_exactly_the_energy_that_it_keeps(tmp_path: Path, model: Model, dtype: torch.dtype) -> None:
    """Measured anew from the file alone; no product of that rank keeps more (the sum of its singular values)."""
    cone = random_cone(model, density=0.1)
    if dtype is torch.bfloat16:
        model.pipe.unet.to(dtype)
        model.path = None
        model.stored_dtype = dtype
    done = write_lora(model, cone, tmp_path / "lora.safetensors", rank=3, allow_base_mismatch=True)
    with apply_cones(model, cone, allow_base_mismatch=True):
        patched = [weight.detach().float().clone() for weight in kv_weights(model.denoiser).values()]
    total = lost = best = 0.0
    for (weight, product), now in zip(products(done.path, model), patched, strict=True):
        change = now - weight.float()
        total += float(change.double().square().sum())
        lost += float((change.double() - product.double()).square().sum())
        best += float(torch.linalg.svdvals(change.double())[:3].square().sum())
    assert done.energy == pytest.approx(1 - lost / total, abs=1e-6)
    assert done.energy == pytest.approx(best / total, abs=1e-6 if dtype is torch.float32 else 1e-4)
    assert 0.1 < done.energy < 0.9
    with safe_open(done.path, "pt") as file:
        told = file.metadata()
        kinds = {file.get_slice(key).get_dtype() for key in file.keys() if "lora" in key.split(".")[1]}  # noqa: SIM118
    assert kinds == {"F32" if dtype is torch.float32 else "F16"}
    assert json.loads(told["cones_approximation"]) == {"rank": 3, "energy": pytest.approx(done.energy, abs=1e-6)}
    assert (told["ss_network_dim"], told["modelspec.trigger_phrase"]) == ("3", "sks dog")
    assert "keeps" in told["modelspec.description"]


def test_diffusers_loads_it(tmp_path: Path, model: Model) -> None:
    """`load_lora_weights` and `fuse_lora` give the patched weights, each of them."""
    pytest.importorskip("peft")
    cone = random_cone(model, density=0.1)
    done = write_lora(model, cone, tmp_path / "lora.safetensors", rank=1000)
    pipe = model.pipe
    with apply_cones(model, cone):
        patched = {param: weight.detach().clone() for param, weight in kv_weights(model.denoiser).items()}
    pipe.load_lora_weights(str(done.path))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    for param, weight in kv_weights(pipe.unet).items():
        torch.testing.assert_close(weight.detach(), patched[param], rtol=1e-5, atol=1e-6)


def test_refuses_an_empty_change_and_rank(tmp_path: Path, model: Model) -> None:
    """Strength 0 changes nothing; rank 0 holds nothing."""
    cone = random_cone(model)
    with pytest.raises(UsageError, match="strength is 0"):
        write_lora(model, cone, tmp_path / "lora.safetensors", strength=0.0)
    with pytest.raises(UsageError, match="rank 0"):
        write_lora(model, cone, tmp_path / "lora.safetensors", rank=0)
