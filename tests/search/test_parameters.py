"""Flat vectors of K/V weights: order, restoring, ranking and controls."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conestool.models.kv_weights import kv_weights
from conestool.search.parameters import FlatParameters, approx_quantile, topk_mask, trainable_kv_weights
from conestool.search.report import magnitude_mask_like, random_mask_like
from tests.support.tiny_models import make_unet


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    made: nn.Module = make_unet(0, cross=16)
    return made


def test_what_is_written_is_read(unet: nn.Module) -> None:
    """Vectors and masks; only K/V weights get gradients meanwhile."""
    with trainable_kv_weights(unet) as params:
        vector = torch.arange(float(sum(params.sizes)))
        params.set_(vector)
        assert torch.equal(params.get(), vector)
        mask = torch.rand(sum(params.sizes), generator=torch.Generator().manual_seed(0)) < 0.1
        assert torch.equal(params.mask_from_indices(params.indices_from_mask(mask)), mask)
        wanted = {id(parameter) for parameter in kv_weights(unet).values()}
        assert {id(p) for p in unet.parameters() if p.requires_grad} == wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_trainable_weights_come_back_bit_for_bit_after_an_exception(dtype: torch.dtype) -> None:
    unet = make_unet(1, cross=16).to(dtype)
    unet.train()
    unet.get_submodule("mid_block").eval()
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), trainable_kv_weights(unet) as params:
        params.set_(torch.zeros_like(params.get()))
        raise RuntimeError("stop")
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    assert unet.training and not unet.get_submodule("mid_block").training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in unet.parameters())


def test_gradients_from_before_are_not_taken_for_those_of_a_pass(unet: nn.Module) -> None:
    """A training loop that left its gradients on the pipeline changes nothing in the first step."""
    for parameter in unet.parameters():
        parameter.grad = torch.ones_like(parameter)
    with trainable_kv_weights(unet) as params:
        given: dict[int, torch.Tensor] = {}
        with params.stream_gradients(given.__setitem__):
            torch.stack([each.sum() for each in params.parameters.values()]).mul(3).sum().backward()
        assert all(bool((part == 3).all()) for part in given.values())
        assert len(given) == len(params.sizes)


def test_indices_are_positions_inside_each_parameter() -> None:
    params = FlatParameters({"a": nn.Parameter(torch.zeros(2, 3)), "b": nn.Parameter(torch.zeros(4, 1))})
    mask = torch.zeros(10, dtype=torch.bool)
    mask[[0, 5, 6, 9]] = True
    assert {name: values.tolist() for name, values in params.indices_from_mask(mask).items()} == {
        "a": [0, 5],
        "b": [0, 3],
    }
    assert params.count_per_parameter(mask) == [2, 2]


def test_topk_mask_takes_the_highest_positive_scores_and_no_others() -> None:
    scores = torch.tensor([0.5, -1.0, 0.7, 0.0, 0.5])
    assert topk_mask(scores, 2).tolist() == [True, False, True, False, False]
    assert topk_mask(scores, 5).tolist() == [True, False, True, False, True]
    assert topk_mask(torch.zeros(3), 2).tolist() == [False, False, False]
    assert topk_mask(torch.tensor([1.0, 2.0, 1.0, 1.0]), 3).tolist() == [True, True, True, False]


@pytest.mark.parametrize("count", [0, 1, 137, 30_000, 4_000_000])
def test_top_is_right_wherever_the_threshold_lies(count: int) -> None:
    """Among scores of which half are equal, a tenth below 0, and the highest all lie together."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.rand(3_000_000, generator=draw) - 0.1
    scores[::2] = 0.5
    scores[1_000_000:1_010_000] += 1
    wanted = scores.sort(descending=True, stable=True).indices[: min(count, int((scores > 0).sum()))]
    assert torch.equal(topk_mask(scores, count).nonzero().flatten(), wanted.sort().values)


def test_controls_have_the_same_count_in_every_parameter() -> None:
    """Random ones by the seed, and the largest of every parameter."""
    params = FlatParameters({"a": nn.Parameter(torch.zeros(30)), "b": nn.Parameter(torch.zeros(40))})
    mask = torch.arange(70) % 7 == 0
    control = random_mask_like(params, mask, seed=3)
    assert params.count_per_parameter(control) == params.count_per_parameter(mask)
    assert torch.equal(control, random_mask_like(params, mask, seed=3))
    assert not torch.equal(control, random_mask_like(params, mask, seed=4))
    params = FlatParameters({"a": nn.Parameter(torch.zeros(3)), "b": nn.Parameter(torch.zeros(3))})
    weights = torch.tensor([1.0, -5.0, 2.0, 100.0, 50.0, -200.0])
    mask = torch.tensor([True, False, False, True, True, False])
    assert magnitude_mask_like(params, mask, weights).tolist() == [False, True, False, True, False, True]


def test_quantile_of_a_long_vector_needs_no_sorting_of_all() -> None:
    values = torch.linspace(0, 1, 20_000_001)
    assert approx_quantile(values, 0.98) == pytest.approx(0.98, abs=1e-4)
