"""L_con on a small random pipeline: its batches, its terms and its gradient."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from conestool.models.model import Model
from conestool.models.prompts import encode
from conestool.search.batches import LatentImages, LossTerm
from conestool.search.methods.base import Ranking
from conestool.search.objective import Objective
from conestool.search.parameters import FlatParameters, trainable_kv_weights
from conestool.search.report import DENSITY_GRID, select_density
from tests.search.gradients import whole


@pytest.fixture
def params(model: Model) -> Iterator[FlatParameters]:
    with trainable_kv_weights(model.denoiser) as params:
        yield params


def latents(count: int) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(count))


def make(model: Model, params: FlatParameters, *, frozen: bool = False, prior: float = 1.0, seed: int = 0) -> Objective:
    dog, cat = encode(model, ["a sks dog"]), encode(model, ["a dog", "a picture of a dog"])
    terms = [
        LossTerm(name="instance", images=LatentImages(latents(3)), conditioning=dog, size=4),
        LossTerm(
            name="class",
            images=LatentImages(latents(5)),
            conditioning=cat,
            weight=prior,
            size=4,
            target="frozen" if frozen else "noise",
        ),
    ]
    return Objective(model, params, terms, seed=seed, micro_batch_size=3, num_frozen_targets=8)


def test_batches_depend_on_seed_and_step_alone(model: Model, params: FlatParameters) -> None:
    first, again, other = make(model, params), make(model, params), make(model, params, seed=1)
    assert torch.equal(first.batch(7).noisy_latents, again.batch(7).noisy_latents)
    assert not torch.equal(first.batch(7).noisy_latents, first.batch(8).noisy_latents)
    assert not torch.equal(first.batch(7).noisy_latents, other.batch(7).noisy_latents)


def test_pictures_go_under_their_own_prompts_only(model: Model, params: FlatParameters) -> None:
    prompts = encode(model, ["one", "two", "three"])
    pictures = LatentImages(torch.stack([torch.full((4, 8, 8), float(value)) for value in range(2)]))
    choices = torch.tensor([[0, 0], [1, 2]])
    term = LossTerm(name="instance", images=pictures, conditioning=prompts, size=16, prompt_choices=choices)
    objective = Objective(model, params, [term], timestep_range=(0.0, 1e-6))
    batch = objective.batch(0)
    nearest = [
        int((batch.conditioning.prompt_embeds[row] == prompts.prompt_embeds).flatten(1).all(1).nonzero()[0])
        for row in range(16)
    ]
    shown = [round(float(noisy.mean())) for noisy in batch.noisy_latents]
    assert set(zip(shown, nearest, strict=True)) == {(0, 0), (1, 1), (1, 2)}


def test_gradient_is_that_of_the_loss_on_the_same_batch(model: Model, params: FlatParameters) -> None:
    objective = make(model, params)
    gradient, loss = whole(objective, objective.weights, 2)
    batch = objective.batch(2)
    assert loss == pytest.approx(objective.loss(objective.weights, batch), rel=1e-5)
    direction = torch.randn(len(gradient), generator=torch.Generator().manual_seed(0))
    step = 1e-2
    ahead = objective.loss(objective.weights + step * direction, batch)
    behind = objective.loss(objective.weights - step * direction, batch)
    assert (ahead - behind) / (2 * step) == pytest.approx(float(gradient @ direction), rel=0.02)


def test_a_frozen_term_is_zero_at_the_untouched_weights_and_grows_elsewhere(
    model: Model, params: FlatParameters
) -> None:
    objective = make(model, params, frozen=True)
    batch = objective.frozen_targets["class"]
    assert objective.loss(objective.weights, batch) == pytest.approx(0, abs=1e-9)
    assert objective.loss(objective.weights * 0, batch) > 1e-6


def test_the_class_term_is_weighed(model: Model, params: FlatParameters) -> None:
    without, once, twice = (
        (objective := make(model, params, prior=weight)).loss(objective.weights, objective.batch(0))
        for weight in (0.0, 1.0, 2.0)
    )
    assert twice - once == pytest.approx(once - without, rel=1e-4)
    assert float(make(model, params, prior=3.0).batch(0).loss_weights.sum()) == pytest.approx(4.0)


def test_density_rules(model: Model, params: FlatParameters) -> None:
    objective = make(model, params)
    scores = torch.rand(len(objective.weights), generator=torch.Generator().manual_seed(1))
    batch = objective.selection_batch(4)
    given = select_density(objective, Ranking(scores, 3), 0.1, batch)
    own = select_density(objective, Ranking(scores, 3), None, batch)
    best = select_density(objective, Ranking(scores), None, batch)
    assert (given.rule, int(given.mask.sum())) == ("given", round(0.1 * len(scores)))
    assert (own.rule, int(own.mask.sum())) == ("method", 3)
    assert best.rule == "loss"
    assert select_density(objective, Ranking(scores, 0), None, batch).rule == "loss"
    counts = {max(1, round(candidate * len(scores))) for candidate in DENSITY_GRID}
    assert int(best.mask.sum()) in counts
    losses = []
    for count in sorted(counts):
        mask = scores >= scores.sort(descending=True).values[count - 1]
        losses.append((objective.loss(objective.weights * ~mask, batch), count))
    assert int(best.mask.sum()) == min(losses)[1]


def test_the_search_looks_at_its_part_of_the_noise_and_evaluates_on_all_of_it(
    model: Model, params: FlatParameters
) -> None:
    """Steps, frozen targets and the batch to compare sets on lie in the range; evaluation batches are all over."""
    terms = make(model, params, frozen=True).terms
    objective = Objective(model, params, terms, timestep_range=(0.6, 0.8), num_frozen_targets=8)
    steps = len(objective.schedule)
    for batch in (objective.batch(0), objective.batch(5), objective.selection_batch(32)):
        assert batch.timesteps.min() >= 0.6 * steps
        assert batch.timesteps.max() < 0.8 * steps
    batch = objective.eval_batch(terms[0].images, terms[0].conditioning, 32)
    assert batch.timesteps.min() < 0.1 * steps
    assert batch.timesteps.max() > 0.9 * steps
