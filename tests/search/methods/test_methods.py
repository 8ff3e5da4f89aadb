"""The search methods against gradients computed by hand on a two-layer network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from conestool.errors import UsageError
from conestool.search.methods import METHODS, Ranking, make_method
from conestool.search.methods.base import resolve_method
from conestool.search.methods.cones import ConesConfig
from conestool.search.methods.mask import MaskConfig
from conestool.search.parameters import GradientCallback

# A two-layer net y = v * relu(w . x) with w = (1, 2), v = 3, asked for the target 0 at x = (1, 1):
# L = y^2 / 2 = 40.5, dL/dw = y v x = (27, 27), dL/dv = y (w . x) = 27, so theta * g = (27, 54, 81).
WEIGHTS = torch.tensor([1.0, 2.0, 3.0])
EFFECTS = torch.tensor([27.0, 54.0, 81.0])


@dataclass
class TwoLayerNet:
    """Stands where an Objective stands: `weights`, and the gradient of its loss at any weights, all in two parts."""

    target: float = 0.0
    weights: Tensor = field(default_factory=WEIGHTS.clone)

    def split_by_parameter(self, *vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        return zip(*(torch.tensor_split(vector, 2) for vector in vectors), strict=True)

    def gradient(self, weights: Tensor | Iterable[Tensor], index: int, callback: GradientCallback) -> float:
        whole = weights if isinstance(weights, Tensor) else torch.cat([part.clone() for part in weights])
        slope, loss = self.slope(whole, index)
        for number, (part,) in reversed(list(enumerate(self.split_by_parameter(slope)))):
            callback(number, part.clone())
        return loss

    def slope(self, weights: Tensor, index: int) -> tuple[Tensor, float]:
        leaf = weights.clone().requires_grad_(True)
        answer = leaf[2] * torch.relu(leaf[:2].sum())
        loss = (answer - self.target).square() / 2
        (gradient,) = torch.autograd.grad(loss, leaf)
        return gradient, float(loss.detach())


def finished(name: str, net: TwoLayerNet, **options: Any) -> Ranking:
    method = make_method(METHODS[name](**options), net)  # type: ignore[arg-type]
    for index in range(method.config.steps):
        method.step(index)
    return method.ranking()


def test_cones_doubts_weights_that_do_not_feel_its_steps() -> None:
    """A mask near 1 moves by lr / steps, which bfloat16 does not resolve and float16 does."""
    bfloat16, float16 = (torch.finfo(dtype).eps for dtype in (torch.bfloat16, torch.float16))
    assert ConesConfig().doubts(bfloat16) and not ConesConfig().doubts(float16)
    assert not ConesConfig(steps=10).doubts(bfloat16) and not MaskConfig().doubts(bfloat16)


def test_taylor_scores_are_theta_times_gradient() -> None:
    """A positive one means that zeroing lowers the loss."""
    net = TwoLayerNet()
    assert torch.equal(finished("taylor", net, steps=4).scores, EFFECTS)
    _, before = net.slope(WEIGHTS, 0)
    assert all(net.slope(WEIGHTS * (torch.arange(3) != position), 0)[1] < before for position in range(3))
    assert bool((finished("taylor", TwoLayerNet(target=100.0), steps=1).scores < 0).all())


def test_cones_first_step_follows_algorithm_1() -> None:
    method = make_method(ConesConfig(steps=1, lr=0.5), TwoLayerNet())  # type: ignore[arg-type]
    loss = method.step(0)
    q99 = float(EFFECTS.max())  # of three, the nearest to the 99th percentile
    assert loss == pytest.approx(40.5)
    assert torch.allclose(method.state_dict()["mask"], 1 - 0.5 / q99 * EFFECTS)
    assert torch.equal(method.ranking().scores, EFFECTS)


def test_cones_mask_stays_between_0_and_1() -> None:
    method = make_method(ConesConfig(steps=30, lr=50.0), TwoLayerNet(target=100.0))  # type: ignore[arg-type]
    for index in range(30):
        method.step(index)
        mask = method.state_dict()["mask"]
        assert float(mask.min()) >= 0
        assert float(mask.max()) <= 1


def test_learned_mask_zeroes_what_helps_and_leaves_what_harms() -> None:
    class Sum(TwoLayerNet):
        """y = w_0 + w_1 = 1 - 2, asked for -2: zeroing w_0 is exact, zeroing w_1 would harm."""

        def slope(self, weights: Tensor, index: int) -> tuple[Tensor, float]:
            error = float(weights.sum()) + 2
            return torch.full((2,), error), error**2 / 2

    ranking = finished("mask", Sum(weights=torch.tensor([1.0, -2.0])), steps=20)
    assert ranking.count == 1
    assert float(ranking.scores[0]) > 0.5
    assert float(ranking.scores[1]) <= 0


class Steady(TwoLayerNet):
    """An objective whose theta * gradient is the same at any weights."""

    def __init__(self, effects: Tensor) -> None:
        super().__init__(weights=torch.ones_like(effects))
        self.effects = effects

    def slope(self, weights: Tensor, index: int) -> tuple[Tensor, float]:
        return self.effects, 0.0


def test_l1_leaves_weak_effects_open() -> None:
    """With the floor at the largest effect, an l1 of a fifth of lr needs a fifth of it; without l1 all fall in time."""
    effects = torch.tensor([1.0, 0.3, 0.15, -0.5])
    held = finished("mask", Steady(effects), steps=60, lr=0.2, l1=0.04, eps_quantile=1.0, eps_per_tensor=0.0)
    free = finished("mask", Steady(effects), steps=60, lr=0.2, l1=0.0, eps_quantile=1.0, eps_per_tensor=0.0)
    assert (held.scores > 0.5).tolist() == [True, True, False, False]
    assert (free.scores > 0.5).tolist() == [True, True, True, False]
    assert (held.count, free.count) == (2, 3)


def test_a_parameter_of_weak_effects_has_its_own_strong_ones() -> None:
    """Two parameters, one with effects a hundredth of the other's: only with a floor of its own it has any zeroed."""
    effects = torch.tensor([1.0, 0.2, 0.01, 0.002])
    zeroed = [
        (
            finished("mask", Steady(effects), steps=60, lr=0.2, l1=0.04, eps_quantile=1.0, eps_per_tensor=local).scores
            > 0.5
        ).tolist()
        for local in (0.0, 0.5, 1.0)
    ]
    assert zeroed == [[True, False, False, False], [True, False, False, False], [True, False, True, False]]


def test_steps_become_smaller_towards_the_end() -> None:
    """A gate falls by lr in the first step, and by no more than a tenth of it in the last of ten."""
    method = make_method(MaskConfig(steps=10, lr=0.04, l1=0.0, eps_quantile=0.0), Steady(torch.tensor([-1.0, 1.0])))  # type: ignore[arg-type]
    gates = [1.0]
    for index in range(10):
        method.step(index)
        gates.append(float(method.state_dict()["gates"][1]))
    falls = [before - after for before, after in pairwise(gates)]
    assert falls == pytest.approx([0.04 * (1 - index / 10) for index in range(10)], rel=0.02)


def test_gates_at_their_ends_are_ordered_by_their_effects() -> None:
    """So that densities above and below the method's own zero the right ones."""
    effects = torch.tensor([0.6, 1.0, 0.1, 0.15, -0.5])
    scores = finished("mask", Steady(effects), steps=60, lr=0.2, l1=0.04, eps_quantile=1.0, eps_per_tensor=0.0).scores
    assert scores.argsort(descending=True).tolist() == [1, 0, 3, 2, 4]
    assert scores[2] > 0 > scores[4]


def test_tstat_prefers_steady_effects_to_rare_large_ones() -> None:
    class Noisy(TwoLayerNet):
        def slope(self, weights: Tensor, index: int) -> tuple[Tensor, float]:
            steady, wild = 1.0, 40.0 if index % 8 == 0 else -3.0
            return torch.tensor([steady + 0.01 * (index % 2), wild, 0.0]) / self.weights, 1.0

    means, ratios = finished("taylor", Noisy(), steps=8).scores, finished("tstat", Noisy(), steps=8).scores
    assert float(means[1]) > float(means[0])
    assert float(ratios[0]) > float(ratios[1])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_restored_method_ends_like_an_uninterrupted_one(name: str) -> None:
    whole = finished(name, TwoLayerNet(), steps=9).scores
    first = make_method(METHODS[name](steps=9), TwoLayerNet())  # type: ignore[arg-type]
    for index in range(4):
        first.step(index)
    second = make_method(METHODS[name](steps=9), TwoLayerNet())  # type: ignore[arg-type]
    second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
    for index in range(4, 9):
        second.step(index)
    assert torch.equal(second.ranking().scores, whole)


def test_a_method_is_its_name_with_parameters_or_its_configuration() -> None:
    assert resolve_method("cones") == ConesConfig()
    assert resolve_method("mask,lr=0.1,steps=7") == MaskConfig(lr=0.1, steps=7)
    assert resolve_method(MaskConfig(l1=0.0)) == MaskConfig(l1=0.0)
    assert ConesConfig(steps=7).record() == {"steps": 7, "lr": 0.2}


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("magic", "unknown method 'magic'", "choose one of: cones, mask, taylor, tstat"),
        ("cones,rho=1", "has no parameter 'rho'", "it has: lr, steps"),
        ("mask,lr=fast", "lr=fast is not a number", "for example lr=0.2"),
        ("mask,steps", "steps= is not a number", "for example steps=60"),
        ("mask,steps=0", "steps is 0, but must be from 1 to 1,000,000", ""),
        ("mask,beta1=1", "beta1 is 1.0, but must be from 0 to below 1", ""),
        ("mask,eps_quantile=2", "eps_quantile is 2.0, but must be from 0 to 1", ""),
        ("tstat,eps_quantile=nan", "eps_quantile is nan, but must be from 0 to 1", ""),
        ("cones,lr=nan", "lr is nan, but must be at least 0", ""),
    ],
)
def test_a_method_that_makes_no_sense_is_refused(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        resolve_method(text)
    assert (caught.value.hint or "") == hint
