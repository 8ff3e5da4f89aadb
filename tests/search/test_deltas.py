"""Floats at concept neurons: trained on objectives whose gradients are known, and by `tune` on a small pipeline."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conestool.concept import Cone
from conestool.diffusion.models import Model
from conestool.errors import UsageError
from conestool.format import dumps, loads
from conestool.patch import applied
from conestool.search import Event, Note, Progress
from conestool.search.deltas import TrainedDeltas, divided, filled, vector
from conestool.search.layout import borrowed
from conestool.search.resources import Resources
from conestool.search.tuning import TUNED, Tuning, tune
from tests.search.test_joint import LOOSE, A, B, model, photos
from tests.tiny import random_cone

__all__ = ["model", "photos"]

OWNERS = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0]]).bool()
"""Both own weight 0, A weight 1 and B weight 3; the sums of slopes there are 2, -2 and 1.5."""


def stepped(count: int, **options: Any) -> TrainedDeltas:
    """Floats after some steps on A and B."""
    floats = TrainedDeltas([A, B], OWNERS, steps=count, rate=0.1, **options)  # type: ignore[list-item]
    for index in range(count):
        floats.step(index)
    return floats


def test_only_what_is_shut_gets_a_float_and_moves_down_the_sum_of_losses() -> None:
    """Adam's steps are of the rate on constant gradients: against the sign of the sum of both slopes."""
    floats = stepped(3)
    torch.testing.assert_close(floats.values, torch.tensor([-0.3, 0.3, -0.3]))
    [weights] = floats.weights()
    torch.testing.assert_close(weights, torch.tensor([-0.3, 0.3, 1.0, -0.3, 1.0, 1.0]))
    assert torch.equal(A.theta, torch.ones(6))


def test_the_steps_are_adams() -> None:
    """On gradients that change from step to step, those of torch.optim."""
    scales = [1.0, -0.5, 2.0, 0.1]

    class Changing:
        """An objective of A's parts, whose gradient is scaled by the step."""

        theta, parts = A.theta, A.parts

        def gradient(self, weights: Any, index: int, use: Any) -> float:
            """A's slope times the scale of batch `index`."""
            use(0, A.slope * scales[index - 5])
            return float(sum(part.sum() for part in weights))

    floats = TrainedDeltas([Changing()], OWNERS[:1], steps=4, rate=0.01, after=5)  # type: ignore[list-item]
    values = torch.zeros(2)
    adam = torch.optim.Adam([values], lr=0.01)
    for index, scale in enumerate(scales):
        floats.step(index)
        values.grad = A.slope[:2] * scale
        adam.step()
    torch.testing.assert_close(floats.values, values)


def test_a_restored_training_goes_on_as_if_never_stopped() -> None:
    """Two steps, saved, and three more are five."""
    again = TrainedDeltas([A, B], OWNERS, steps=5, rate=0.1)  # type: ignore[list-item]
    again.restore({name: value.clone() for name, value in stepped(2).state().items()})
    for index in range(2, 5):
        again.step(index)
    assert all(torch.equal(value, again.state()[name]) for name, value in stepped(5).state().items())


@pytest.fixture(scope="module")
def both(model: Model) -> Cone:
    """A dog and a hat that share neurons, the dog with floats of before."""
    cone = random_cone(model, "dog", "hat", density=0.1)
    dog = cone["dog"].with_deltas({param: np.full(len(own), 0.5) for param, own in cone["dog"].indices.items()})
    return replace(cone, concepts=(dog, cone["hat"]))


def test_shares_of_a_float_are_equal_and_add_up(model: Model, both: Cone) -> None:
    """A weight of two owners gives each a half; of the floats in a layout's order none is misplaced."""
    with borrowed(model.denoiser) as layout:
        owners = torch.stack([layout.shut(each.indices) for each in both.concepts])

        class Flat:
            """An objective without a loss."""

            theta, parts = layout.theta, layout.parts

        floats = TrainedDeltas([Flat()], owners, steps=1)  # type: ignore[list-item]
        floats.values = torch.arange(1.0, 1 + len(floats.values)) / 128
        shares = divided(floats, layout)
        whole = torch.zeros(len(layout.theta))
        whole[owners.any(0)] = floats.values
        added = torch.zeros_like(whole)
        for own, share in zip(owners, shares, strict=True):
            flat = torch.zeros_like(whole)
            flat[own] = torch.from_numpy(np.concatenate(list(share.values())))
            assert torch.equal(flat[own], (whole / owners.sum(0))[own])
            added += flat
        assert torch.equal(added, whole) and bool((owners.sum(0) == 2).any())
        exact = [c.with_deltas(share) for c, share in zip(both.concepts, shares, strict=True)]
        torch.testing.assert_close(vector(layout, exact), whole, rtol=0, atol=2 * float(whole.max()) / 254)


def test_filled_is_what_applied_does(model: Model, both: Cone) -> None:
    """With and without floats."""
    for concepts in (both.concepts, both.concepts[1:]):
        with borrowed(model.denoiser) as layout:
            expected = filled(layout.theta, layout, concepts)
        with applied(model, Cone(concepts)), borrowed(model.denoiser) as layout:
            assert torch.equal(layout.theta, expected)


def tuned(model: Model, cone: Cone, photos: dict[str, list[Image.Image]], **options: Any) -> Cone:
    """Six large steps and twenty on floats with small batches and probes; the dog's photos serve as class images."""
    more = options.pop("more", {})
    tuning = Tuning(
        **{"steps": 6, "margin": 0.06, "caution": 0.06, "scenes": 0.0, "deltas": 20, "delta_rate": 0.02, **more},
        settings=LOOSE,
    )
    with pytest.MonkeyPatch.context() as context:
        context.setattr("conestool.search.terms.PROBES", 8)
        return tune(
            model, cone, photos, tuning=tuning, class_pictures=dict.fromkeys(cone.names, photos["dog"]), **options
        )


@pytest.fixture(scope="module")
def result(model: Model, both: Cone, photos: dict[str, Any]) -> Cone:
    """Both tuned, with floats, and the model's weights compared before and after."""
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    new = tuned(model, both, photos)
    assert all(torch.equal(value, before[name]) for name, value in model.denoiser.state_dict().items())
    return new


def test_tune_without_deltas_has_none(model: Model, both: Cone, photos: dict[str, Any], result: Cone) -> None:
    """The floats of the old sets are gone, the sets are those that floats stand at, and nothing speaks of floats."""
    plain = tuned(model, both, photos, more={"deltas": 0})
    assert not any(each.deltas or each.parts for each in plain.concepts)
    assert [each.id for each in plain.concepts] == [each.id for each in result.concepts]
    facts, other = plain["dog"].origin.parameters[TUNED], result["dog"].origin.parameters[TUNED]
    assert not {"deltas", "delta_rate"} & facts.keys() and {"deltas", "delta_rate"} <= other.keys()
    assert facts["losses"].items() <= other["losses"].items()
    assert plain["dog"].origin.losses == result["dog"].origin.losses


def test_floats_lower_the_held_out_losses_and_the_report_has_both(result: Cone) -> None:
    """Of all together, beside indices alone and the random control; they round trip, one for each neuron."""
    for each in result.concepts:
        losses = each.origin.parameters[TUNED]["losses"]
        assert losses["deltas"] < losses["tuned"] < losses["bare"]
        assert {"class_deltas", "alone_deltas", "class_alone_deltas", "random"} <= losses.keys()
        assert {p: len(floats) for p, floats in each.deltas.items()} == {p: len(i) for p, i in each.indices.items()}
        assert each.largest > 0.01
    assert loads(dumps(result)) == result


def test_the_reported_losses_are_those_of_what_is_stored(model: Model, photos: dict[str, Any], result: Cone) -> None:
    """Floats as rounded in the file: they are the losses of the weights that `applied` makes."""
    from conestool.search.tuning import photos_of, subjects_of

    given = photos_of(result, photos)
    with pytest.MonkeyPatch.context() as context:
        context.setattr("conestool.search.terms.PROBES", 8)
        with applied(model, result):
            patched = torch.cat([weight.detach().flatten().clone() for weight in kv(model)])
        with borrowed(model.denoiser) as layout:
            classes = dict.fromkeys(result.names, photos["dog"])
            for subject in subjects_of(model, layout, result, given, Tuning(settings=LOOSE, scenes=0.0), classes):
                found = subject.losses_at("deltas", patched)
                expected = subject.concept.origin.parameters[TUNED]["losses"]
                assert found == {key: pytest.approx(expected[key], rel=1e-6) for key in found}


def kv(model: Model) -> list[Tensor]:
    """The K/V weights in their order."""
    from conestool.diffusion.weights import kv_weights

    return list(kv_weights(model.denoiser).values())


@pytest.mark.parametrize(("stage", "step"), [("search", 2), ("floats", 3)])
def test_a_resumed_tuning_gives_the_same_file(
    model: Model, both: Cone, photos: dict[str, Any], result: Cone, tmp_path: Path, stage: str, step: int
) -> None:
    """Ctrl-C among the mask's steps or among those of floats, and on from there."""

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and (event.stage, event.done) == (stage, step):
            signal.raise_signal(signal.SIGINT)

    state = tmp_path / "both.cone.part"
    with pytest.raises(KeyboardInterrupt):
        tuned(model, both, photos, state=state, progress=stop)
    with pytest.raises(UsageError, match="saved by a search with other photos, settings or base model"):
        tuned(model, both, photos, state=state, resume=True, more={"deltas": 11})
    seen: list[Event] = []
    resumed = tuned(model, both, photos, state=state, resume=True, progress=seen.append)
    assert Note(f"resumed after step {step} of {6 if stage == 'search' else 20}") in seen
    searched = [event for event in seen if isinstance(event, Progress) and event.stage == "search"]
    assert len(searched) == (4 if stage == "search" else 0)
    assert dumps(resumed) == dumps(result)


def test_less_memory_gives_nearly_the_same_floats(
    model: Model, both: Cone, photos: dict[str, Any], result: Cone
) -> None:
    """One sample at a time, activations computed again, vectors aside: sums in another order."""
    least = Resources(micro_batch=1, gradient_checkpointing=True, offload_scores=True)
    other = tuned(model, both, photos, resources=least)
    assert other["dog"].id == result["dog"].id
    for param, floats in other["dog"].deltas.items():
        np.testing.assert_allclose(floats, result["dog"].deltas[param], atol=0.02)


def test_floats_that_do_not_help_are_left_out(model: Model, both: Cone, photos: dict[str, Any], result: Cone) -> None:
    """With a rate that ruins the model: the integers alone, and a warning."""
    seen: list[Event] = []
    new = tuned(model, both, photos, more={"deltas": 2, "delta_rate": 30.0}, progress=seen.append)
    assert Note("floats did not lower the loss: the integers stay alone; try more or smaller steps", True) in seen
    assert [each.exact_id for each in new.concepts] == [each.id for each in result.concepts]
    assert "deltas" not in new["dog"].origin.parameters[TUNED]["losses"]


def test_floats_may_help_where_the_mask_did_not(model: Model, both: Cone, photos: dict[str, Any]) -> None:
    """Gates that never move: the sets stay, with a warning, and have new floats; or all stays as it was."""
    seen: list[Event] = []
    still = {"rate": 1e-9, "steps": 1}
    new = tuned(model, both, photos, more=still, progress=seen.append)
    told = "tuning did not lower the loss: the index sets stay as they were; try more or smaller steps"
    assert Note(told, True) in seen
    assert [each.id for each in new.concepts] == [each.id for each in both.concepts]
    assert all(each.deltas for each in new.concepts) and new["dog"].exact_id != both["dog"].exact_id
    seen.clear()
    assert tuned(model, both, photos, more={**still, "delta_rate": 30.0}, progress=seen.append) == both
    assert [event.warning for event in seen if isinstance(event, Note)] == [True, True]


@pytest.mark.parametrize(("name", "value"), [("deltas", -1), ("delta_rate", 0.0)])
def test_refuses_settings_that_make_no_sense(name: str, value: float) -> None:
    """By name."""
    with pytest.raises(UsageError, match=name):
        Tuning(**{name: value})  # type: ignore[arg-type]
