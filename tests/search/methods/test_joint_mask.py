"""The joint mask on objectives whose gradients are known, and `tune` on a small random pipeline."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from conestool.concept import Cone, Section
from conestool.errors import BaseModelMismatchError, PhotoError, UsageError
from conestool.format import dumps, loads
from conestool.models.model import Model
from conestool.search.config import SearchConfig
from conestool.search.events import Event, LogEvent, Progress
from conestool.search.methods.joint_mask import JointMask, JointMaskConfig
from conestool.search.parameters import GradientCallback
from conestool.search.tune import TUNED, TuneConfig, loss_is_lower, tune
from tests.support.tiny_models import random_cone

EXAMPLES = Path(__file__).parents[3] / "examples" / "openmoji"


class Slope:
    """An objective whose L_con is `slope` . weights, over six weights of 1."""

    def __init__(self, *slope: float) -> None:
        self.slope, self.weights = torch.tensor(slope), torch.ones(len(slope))

    def split_by_parameter(self, *vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """All of them as one part."""
        return iter([vectors])

    def gradient(self, weights: Iterable[Tensor], index: int, callback: GradientCallback) -> float:
        """The slope, whatever the weights."""
        loss = self.loss(torch.cat([part.clone() for part in weights]), None)
        callback(0, self.slope.clone())
        return loss

    def loss(self, weights: Tensor, batch: Any) -> float:
        """The loss, which may be below 0."""
        return float(self.slope @ weights)

    @property
    def params(self) -> Slope:
        """It knows its parameters itself."""
        return self

    def zeroed(self, mask: Tensor) -> Tensor:
        """The weights without those in `mask`."""
        return self.weights * ~mask

    def selection_batch(self, size: int) -> None:
        """Every batch is the same."""


A = Slope(1.0, -3.0, 0.0, 2.0, 0.1, -1.0)
B = Slope(1.0, 1.0, 0.0, -0.5, 3.0, -1.0)
OWNED = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]).bool()
"""Both own weight 0, and A the weights 1 and 2."""


def stepped(count: int = 12, **options: Any) -> JointMask:
    """A mask after some steps on A and B, which agree on weight 0, and of which B alone would zero 1."""
    shared: dict[str, Any] = {"steps": count, "lr": 0.05, "eps_quantile": 0.0, "l1": 0.0, "final_lr_factor": 1.0}
    mask = JointMask([A, B], OWNED, JointMaskConfig(**(shared | options)))  # type: ignore[list-item]
    for index in range(count):
        mask.step(index)
    return mask


def test_what_lowers_the_sum_is_zeroed_and_what_raises_it_is_reopened() -> None:
    """Sums are 2, -2, 0, 1.5, 3.1 and -2: weight 1 opens, 3 and 4 are zeroed, 2 stays as it was."""
    assert stepped().mask.tolist() == [True, False, True, True, True, False]


def test_new_neurons_go_to_the_concept_that_asked_and_old_ones_keep_their_owners() -> None:
    """Weight 3 lowers A's loss and 4 lowers B's most; weight 0 stays with both, weight 1 leaves A."""
    assert stepped().assign_owners().tolist() == [
        [True, False, True, True, False, False],
        [True, False, False, False, True, False],
    ]


def test_l1_keeps_weak_effects_open_and_leaves_owned_weights_alone() -> None:
    """With the floor at the strongest effect, 3 (half of it) stays open under an l1 that 4 overcomes."""
    assert stepped(40, eps_quantile=1.0).mask.tolist() == [True, False, True, True, True, False]
    assert stepped(40, eps_quantile=1.0, l1=0.03).mask.tolist() == [True, False, True, False, True, False]


def test_reopen_only_zeroes_nothing_new() -> None:
    """Every concept ends with a part of what it had."""
    mask = stepped(reopen_only=True)
    assert mask.assign_owners().tolist() == [
        [True, False, True, False, False, False],
        [True, False, False, False, False, False],
    ]


def test_reopening_is_quick_and_zeroing_is_not() -> None:
    """Steps of 0.05: nothing changes in the first, a gate at 0.4 has opened in the fourth, one at 1 falls later."""
    assert torch.equal(stepped(1).assign_owners(), OWNED)
    assert stepped(4).mask.tolist() == [True, False, True, False, False, False]


def test_steps_become_smaller() -> None:
    """Twelve steps that fall to nothing go as far as half as many that stay: weight 4 is still open."""
    assert stepped(12, final_lr_factor=0.0).mask.tolist() == stepped(6).mask.tolist() != stepped(12).mask.tolist()


def test_a_restored_mask_goes_on_as_if_never_stopped() -> None:
    """Six steps, saved, and six more are twelve."""
    config = JointMaskConfig(steps=12, lr=0.05, eps_quantile=0.0, l1=0.0, final_lr_factor=1.0)
    again = JointMask([A, B], OWNED, config)  # type: ignore[list-item]
    again.load_state_dict({name: value.clone() for name, value in stepped(6).state_dict().items()})
    for index in range(6, 12):
        again.step(index)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in stepped().state_dict().items())


def test_a_set_that_raises_the_sum_is_not_lower() -> None:
    """Zeroing weight 4 takes 3.1 off the sum, zeroing weight 1 adds 2, and no change is no improvement."""
    objectives: Any = [A, B]
    none = torch.zeros(6, dtype=torch.bool)
    four, one = none.clone(), none.clone()
    four[4], one[1] = True, True
    assert [loss_is_lower(objectives, none, after) for after in (four, one, none)] == [True, False, False]


@pytest.fixture(scope="module")
def model(v_folder: Path) -> Model:
    return Model.from_pretrained(str(v_folder), device="cpu")


@pytest.fixture(scope="module")
def photos() -> dict[str, list[Image.Image]]:
    return {name: [Image.open(EXAMPLES / name / f"{number}.jpg") for number in (1, 2)] for name in ("dog", "hat")}


@pytest.fixture(scope="module")
def both(model: Model) -> Cone:
    """A dog with a section and a key that this version does not know, and a hat."""
    cone = random_cone(model, "dog", "hat")
    dog = replace(cone["dog"], sections=(Section("x-heat", b"old"),), unknown_fields={"x-kept": 1})
    return replace(cone, concepts=(dog, cone["hat"]))


#: A few steps on random weights bind nothing to an identifier: nothing holds them back here.
LOOSE = SearchConfig(
    batch_size=2,
    num_crops=1,
    num_validation_images=0,
    unbound_weight=0.0,
    other_class_weight=0.0,
    timestep_range=(0.0, 1.0),
    captions="none",
)


def tuned(model: Model, cone: Cone, photos: dict[str, list[Image.Image]], **options: Any) -> Cone:
    """Twelve large steps with small batches; the dog's photos serve as class images."""
    config = TuneConfig(mask=JointMaskConfig(steps=12, init_margin_on=0.06, init_margin_off=0.06), search=LOOSE)
    options = {"class_images": dict.fromkeys(cone.names, photos["dog"]), **options}
    with pytest.MonkeyPatch.context() as context:
        context.setattr("conestool.search.loss_terms.NUM_EVAL_SAMPLES", 8)
        return tune(model, cone, photos, config=config, **options)


@pytest.fixture(scope="module")
def result(model: Model, both: Cone, photos: dict[str, Any]) -> Cone:
    """Both concepts tuned, with the weights compared before and after."""
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    new = tuned(model, both, photos)
    assert all(torch.equal(value, before[name]) for name, value in model.denoiser.state_dict().items())
    return new


def test_tune_records_counts_losses_and_company(both: Cone, result: Cone) -> None:
    """The numbers agree with the sets, and the losses alone with those of the origin."""
    dog, old = result["dog"], both["dog"]
    facts = dog.origin.parameters[TUNED]
    assert facts["with"] == ["hat"]
    assert facts["kept"] + facts["zeroed"] == dog.neurons
    assert facts["kept"] + facts["reopened"] == old.neurons
    assert facts["zeroed"] > 0
    assert facts["reopened"] > 0
    assert dog.origin.losses is not None
    assert facts["losses"]["alone_tuned"] == pytest.approx(dog.origin.losses.held_out_after)
    assert set(facts["losses"]) >= {"base_model", "alone", "merged", "tuned", "random", "class_tuned"}


def test_tuned_concepts_round_trip_and_lose_sections_of_the_old_sets(result: Cone) -> None:
    """The format asks it of a program that changes a concept's index sets."""
    again = loads(dumps(result), "memory")
    assert again.concepts == result.concepts
    assert (again["dog"].sections, dict(again["dog"].unknown_fields)) == ((), {"x-kept": 1})


def test_a_resumed_tuning_gives_the_same_file(
    model: Model, both: Cone, photos: dict[str, Any], result: Cone, tmp_path: Path
) -> None:
    """Ctrl-C after the second step, and on from there; not with other class images or another identifier."""

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "search" and event.done == 2:
            signal.raise_signal(signal.SIGINT)

    state = tmp_path / "both.cone.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        tuned(model, both, photos, checkpoint_path=state, callback=stop)
    others = dict.fromkeys(both.names, photos["hat"])
    renamed = Cone(tuple(replace(each, identifier=f"{each.identifier}q") for each in both.concepts))
    for cone, more in ((both, {"class_images": others}), (renamed, {})):
        with pytest.raises(UsageError, match="other photos, settings or base model"):
            tuned(model, cone, photos, checkpoint_path=state, resume_from_checkpoint=True, **more)
    seen: list[Event] = []
    resumed = tuned(model, both, photos, checkpoint_path=state, resume_from_checkpoint=True, callback=seen.append)
    assert LogEvent("resumed after step 2 of 12") in seen
    assert dumps(resumed) == dumps(result)


def test_tune_refuses_missing_photos_unknown_names_and_other_models(
    both: Cone, photos: dict[str, Any], model: Model, epsilon_folder: Path
) -> None:
    """Each before any step."""
    with pytest.raises(PhotoError, match="no photos of hat"):
        tuned(model, both, {"dog": photos["dog"]})
    with pytest.raises(UsageError, match="no concept named 'cat'"):
        tuned(model, both, {**photos, "cat": photos["dog"]})
    with pytest.raises(BaseModelMismatchError, match="another model"):
        tuned(Model.from_pretrained(str(epsilon_folder), device="cpu"), both, photos)
