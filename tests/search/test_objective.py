"""L_con on a small random pipeline: its batches, its terms and its gradient."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from conestool.models.model import Model
from conestool.models.prompts import encode
from conestool.search.batches import Pictures, Term
from conestool.search.methods.base import Ranking
from conestool.search.objective import Objective
from conestool.search.parameters import Layout, borrowed
from conestool.search.report import CANDIDATES, choose
from tests.search.gradients import whole
from tests.support.tiny_models import save_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.from_pretrained(str(save_pipeline(tmp_path_factory.mktemp("tiny") / "model")))


@pytest.fixture
def layout(model: Model) -> Iterator[Layout]:
    with borrowed(model.denoiser) as layout:
        yield layout


def latents(count: int) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(count))


def make(model: Model, layout: Layout, *, keep: bool = False, prior: float = 1.0, seed: int = 0) -> Objective:
    dog, cat = encode(model, ["a sks dog"]), encode(model, ["a dog", "a picture of a dog"])
    terms = [
        Term("instance", Pictures(latents(3)), dog, 1.0, 4),
        Term("class", Pictures(latents(5)), cat, prior, 4, keep),
    ]
    return Objective(model, layout, terms, seed, largest=3, pool=8)


def test_batches_depend_on_seed_and_step_alone(model: Model, layout: Layout) -> None:
    first, again, other = make(model, layout), make(model, layout), make(model, layout, seed=1)
    assert torch.equal(first.batch(7).noisy, again.batch(7).noisy)
    assert not torch.equal(first.batch(7).noisy, first.batch(8).noisy)
    assert not torch.equal(first.batch(7).noisy, other.batch(7).noisy)


def test_pictures_go_under_their_own_prompts_only(model: Model, layout: Layout) -> None:
    prompts = encode(model, ["one", "two", "three"])
    pictures = Pictures(torch.stack([torch.full((4, 8, 8), float(value)) for value in range(2)]))
    term = Term("instance", pictures, prompts, 1.0, 16, choices=torch.tensor([[0, 0], [1, 2]]))
    objective = Objective(model, layout, [term], noise=(0.0, 1e-6))
    batch = objective.batch(0)
    nearest = [
        int((batch.conditioning.embeds[row] == prompts.embeds).flatten(1).all(1).nonzero()[0]) for row in range(16)
    ]
    shown = [round(float(noisy.mean())) for noisy in batch.noisy]
    assert set(zip(shown, nearest, strict=True)) == {(0, 0), (1, 1), (1, 2)}


def test_gradient_is_that_of_the_loss_on_the_same_batch(model: Model, layout: Layout) -> None:
    objective = make(model, layout)
    gradient, loss = whole(objective, objective.theta, 2)
    batch = objective.batch(2)
    assert loss == pytest.approx(objective.loss(objective.theta, batch), rel=1e-5)
    direction = torch.randn(len(gradient), generator=torch.Generator().manual_seed(0))
    step = 1e-2
    ahead = objective.loss(objective.theta + step * direction, batch)
    behind = objective.loss(objective.theta - step * direction, batch)
    assert (ahead - behind) / (2 * step) == pytest.approx(float(gradient @ direction), rel=0.02)


def test_chunks_do_not_change_loss_or_gradient(model: Model, layout: Layout) -> None:
    small, large = make(model, layout), make(model, layout)
    large.largest = 100
    (g1, l1), (g2, l2) = whole(small, small.theta), whole(large, large.theta)
    assert l1 == pytest.approx(l2, rel=1e-5)
    assert torch.allclose(g1, g2, rtol=1e-3, atol=1e-6)


def test_a_kept_term_is_zero_at_the_untouched_weights_and_grows_elsewhere(model: Model, layout: Layout) -> None:
    objective = make(model, layout, keep=True)
    batch = objective.kept["class"]
    assert objective.loss(objective.theta, batch) == pytest.approx(0, abs=1e-9)
    assert objective.loss(objective.theta * 0, batch) > 1e-6


def test_lambda_weighs_the_class_term(model: Model, layout: Layout) -> None:
    without, once, twice = (
        (objective := make(model, layout, prior=weight)).loss(objective.theta, objective.batch(0))
        for weight in (0.0, 1.0, 2.0)
    )
    assert twice - once == pytest.approx(once - without, rel=1e-4)


def test_weights_sum_to_the_weights_of_the_terms(model: Model, layout: Layout) -> None:
    assert float(make(model, layout, prior=3.0).batch(0).weights.sum()) == pytest.approx(4.0)


def test_density_rules(model: Model, layout: Layout) -> None:
    objective = make(model, layout)
    scores = torch.rand(len(objective.theta), generator=torch.Generator().manual_seed(1))
    probe = objective.batch_of(4)
    given = choose(objective, Ranking(scores, 3), 0.1, probe)
    own = choose(objective, Ranking(scores, 3), None, probe)
    best = choose(objective, Ranking(scores), None, probe)
    assert (given.rule, int(given.shut.sum())) == ("given", round(0.1 * len(scores)))
    assert (own.rule, int(own.shut.sum())) == ("method", 3)
    assert best.rule == "loss"
    assert choose(objective, Ranking(scores, 0), None, probe).rule == "loss"
    counts = {max(1, round(candidate * len(scores))) for candidate in CANDIDATES}
    assert int(best.shut.sum()) in counts
    losses = []
    for count in sorted(counts):
        shut = scores >= scores.sort(descending=True).values[count - 1]
        losses.append((objective.loss(objective.theta * ~shut, probe), count))
    assert int(best.shut.sum()) == min(losses)[1]


def test_the_search_looks_at_its_part_of_the_noise_and_probes_at_all_of_it(model: Model, layout: Layout) -> None:
    """Steps, kept answers and the batch that sets are compared on lie in the span; probes spread over the schedule."""
    terms = make(model, layout, keep=True).terms
    objective = Objective(model, layout, terms, noise=(0.6, 0.8), pool=8)
    steps = len(objective.schedule)
    for batch in (objective.batch(0), objective.batch(5), objective.batch_of(32)):
        assert batch.timesteps.min() >= 0.6 * steps
        assert batch.timesteps.max() < 0.8 * steps
    probe = objective.probe(terms[0].pictures, terms[0].conditioning, 32)
    assert probe.timesteps.min() < 0.1 * steps
    assert probe.timesteps.max() > 0.9 * steps
