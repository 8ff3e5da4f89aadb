"""Floats in a model's weights, held against the formula written out for whole tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from conestool.concept import Concept, Cone
from conestool.diffusion.models import Model, load_model, wrap
from conestool.diffusion.weights import kv_weights
from conestool.patch import (
    applied,
    load_cones,
    shut,
    unload_cones,
    write_checkpoint,
    write_denoiser,
    write_folder,
    write_lora,
)
from tests.packagings import FAMILIES
from tests.tiny import random_cone, save

STRENGTH = {"dog": 0.75, "hat": 0.5, "cat": 1.0}


@pytest.fixture
def model(epsilon_folder: Path) -> Model:
    """A fresh copy in memory of the small base model."""
    return load_model(str(epsilon_folder))


def with_floats(model: Any, *names: str, without: str = "", density: float = 0.3) -> Cone:
    """Concepts that share many neurons, all with floats but `without`."""
    cone = random_cone(model, *(names or ("dog", "hat", "cat")), density=density)
    return Cone(tuple(each if each.name == without else floated(each) for each in cone.concepts))


def floated(concept: Concept) -> Concept:
    """The concept with random floats."""
    rng = np.random.default_rng(len(concept.name) + ord(concept.name[0]))
    return concept.with_deltas({p: rng.normal(0, 0.05, len(i)).astype(np.float32) for p, i in concept.indices.items()})


def dense(weights: dict[str, Tensor], cone: Cone, strength: dict[str, float]) -> dict[str, Tensor]:
    """The formula on whole tensors in double precision, rounded once: w (1 - t) + sum of s d, t the largest s."""
    out = {}
    for param, weight in weights.items():
        most, added = torch.zeros(weight.numel(), dtype=torch.float64), torch.zeros(weight.numel(), dtype=torch.float64)
        for concept in cone.concepts:
            s = strength.get(concept.name, 1.0)
            for place, index in enumerate(concept.indices.get(param, ())):
                most[index] = max(float(most[index]), s)
                if concept.deltas:
                    added[index] += s * float(concept.deltas[param][place])
        flat = weight.detach().double().flatten() * (1 - most) + added
        out[param] = flat.to(weight.dtype).view(weight.shape)
    return out


def bits(model: Model) -> list[bytes]:
    """Every weight of the denoiser."""
    state = model.denoiser.state_dict().values()
    return [value.contiguous().view(torch.uint8).numpy().tobytes() for value in state]


def near(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Assert that tensors agree to the last bits: fp32 sums in another order, or a tie that falls the other way."""
    assert found.keys() >= expected.keys()
    for param, value in expected.items():
        tolerance = {torch.float32: 2e-7, torch.float16: 1e-3, torch.bfloat16: 8e-3}[value.dtype]
        torch.testing.assert_close(found[param].detach(), value, rtol=tolerance, atol=1e-7, msg=param)


def copied(model: Model) -> dict[str, Tensor]:
    """The K/V weights as they are now."""
    return {param: weight.detach().clone() for param, weight in kv_weights(model.denoiser).items()}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("strength", [{}, STRENGTH], ids=["full", "by name"])
@pytest.mark.parametrize("without", ["", "hat"])
def test_weights_are_the_formula(epsilon_folder: Path, dtype: str, strength: dict[str, float], without: str) -> None:
    """For concepts that share neurons, one of them perhaps without floats; every bit is back afterwards."""
    model = load_model(str(epsilon_folder), dtype=dtype)
    cone, before = with_floats(model, without=without), bits(model)
    expected = dense(copied(model), cone, strength)
    with applied(model, cone, strength=strength, check=False):
        near(copied(model), expected)
        assert bits(model) != before
    assert bits(model) == before


def test_rounded_once_and_not_on_the_way(epsilon_folder: Path) -> None:
    """In bfloat16 the sum is of fp32 values: w/2 and a float far below its last bit can tip the rounding."""
    model = load_model(str(epsilon_folder), dtype="bfloat16")
    param, weight = next(iter(kv_weights(model.denoiser).items()))
    index = np.arange(weight.numel())
    one = Concept("dog", "dog", "sks", {param: index}, model.info)
    one = one.with_deltas({param: np.linspace(-0.01, 0.01, len(index)).astype(np.float32)})
    whole = weight.detach().float().flatten() * 0.5 + torch.from_numpy(one.deltas[param].copy()) * 0.5
    with applied(model, Cone((one,)), strength=0.5, check=False):
        assert torch.equal(weight.detach().flatten(), whole.to(torch.bfloat16))


def test_strength_0_touches_nothing_and_without_floats_nothing_changes(model: Model) -> None:
    """A concept of strength 0 adds none of its floats; one whose floats are all 0 is the same without them."""
    cone = with_floats(model)
    before = bits(model)
    with applied(model, cone, strength=0.0):
        assert bits(model) == before
    plain = Cone(tuple(each.with_deltas({}) for each in cone.concepts))
    zeros = Cone(tuple(c.with_deltas({p: np.zeros(len(i)) for p, i in c.indices.items()}) for c in plain.concepts))
    with applied(model, plain):
        expected = copied(model)
    with applied(model, zeros):
        assert all(torch.equal(value, expected[param]) for param, value in copied(model).items())
    with applied(model, cone, strength={"dog": 1.0, "hat": 0.0, "cat": 0.0}):
        alone = copied(model)
    near(alone, dense(copied(model), cone, {"dog": 1.0, "hat": 0.0, "cat": 0.0}))


def test_layers_leave_in_any_order(model: Model) -> None:
    """Loaded beside and around `applied`, and unloaded first: every bit is back, and in between too."""
    dog, hat = with_floats(model, "dog"), with_floats(model, "hat", density=0.5)
    before = bits(model)
    with applied(model, hat):
        only_hat = bits(model)
        load_cones(model, dog, strength=0.5)
        assert bits(model) != only_hat
        unload_cones(model)
        assert bits(model) == only_hat
        load_cones(model, dog)
    unload_cones(model)
    assert bits(model) == before


def test_shut_for_good_has_the_floats(model: Model) -> None:
    """As within `applied`."""
    cone = with_floats(model)
    with applied(model, cone):
        expected = bits(model)
    shut(model, cone)
    assert bits(model) == expected


@pytest.mark.parametrize("memory", [False, True], ids=["files", "memory"])
def test_folder_and_denoiser_have_the_floats(model: Model, tmp_path: Path, memory: bool) -> None:
    """Written from files or from memory, bit for bit what `applied` makes; the card says so."""
    cone = with_floats(model, without="hat")
    with applied(model, cone, strength=STRENGTH):
        expected = copied(model)
    source = wrap(model.pipe) if memory else model
    out = write_folder(source, cone, tmp_path / "out", strength=STRENGTH)
    assert all(torch.equal(value, expected[param]) for param, value in copied(load_model(str(out))).items())
    file = load_file(write_denoiser(source, cone, tmp_path / "unet.safetensors", strength=STRENGTH))
    assert all(torch.equal(file[param], value) for param, value in expected.items())
    card = (out / "README.md").read_text()
    assert "To the neurons of dog" in card and "To the neurons of hat" not in card


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "flux"])
def test_checkpoints_have_the_floats(family: str, tmp_path: Path) -> None:
    """Converted, and copied from a checkpoint; in SD3 and Flux weights with and without floats lie in one tensor."""
    folder = save(FAMILIES[family](tmp_path / "parts"), tmp_path / "base")
    model = load_model(str(folder))
    cone = some_params(with_floats(model, without="hat"))
    with applied(model, cone, strength=STRENGTH):
        expected = copied(model)
    first = write_checkpoint(model, random_cone(model), tmp_path / "first.safetensors", strength=0.0)
    converted = write_checkpoint(model, cone, tmp_path / "out.safetensors", strength=STRENGTH)
    single = load_model(str(first), config=str(folder))
    again = write_checkpoint(single, cone, tmp_path / "again.safetensors", strength=STRENGTH)
    for file in (converted, again):
        found = copied(load_model(str(file), config=str(folder)))
        assert all(torch.equal(found[param], value) for param, value in expected.items())


def some_params(cone: Cone) -> Cone:
    """The dog and the cat in every other parameter, so that floats and none meet in one tensor of a stack."""
    out = []
    for number, each in enumerate(cone.concepts):
        kept = {p: i for at, (p, i) in enumerate(each.indices.items()) if each.name == "hat" or (at + number) % 2}
        bare = Concept(each.name, each.class_noun, each.identifier, kept, each.base)
        out.append(bare.with_deltas({p: each.deltas[p] for p in kept}) if each.deltas else bare)
    return Cone(tuple(out))


def test_pixart_has_the_floats(tmp_path: Path) -> None:
    """In memory and in a folder."""
    model = load_model(str(save(FAMILIES["pixart"](tmp_path / "parts"), tmp_path / "base")))
    cone = with_floats(model)
    expected = dense(copied(model), cone, STRENGTH)
    with applied(model, cone, strength=STRENGTH):
        near(copied(model), expected)
    near(copied(load_model(str(write_folder(model, cone, tmp_path / "out", strength=STRENGTH)))), expected)


def test_a_lora_of_full_rank_has_the_floats(model: Model, tmp_path: Path) -> None:
    """Weight and product together are the weights that `applied` makes."""
    cone = with_floats(model, density=0.1)
    done = write_lora(model, cone, tmp_path / "lora.safetensors", rank=1000, strength=STRENGTH)
    assert done.energy == pytest.approx(1, abs=1e-6)
    tensors, expected = load_file(done.path), dense(copied(model), cone, STRENGTH)
    for param, weight in copied(model).items():
        name = "lora_unet_" + param.removesuffix(".weight").replace(".", "_")
        up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
        torch.testing.assert_close(weight + up @ down, expected[param], rtol=1e-5, atol=1e-6)
