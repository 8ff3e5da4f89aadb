"""On a card of little memory a search chooses by itself how it fits, and what runs out leaves nothing half done."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conestool.concept import Cone
from conestool.errors import OutOfMemoryError
from conestool.evaluation import Plan, evaluate
from conestool.format import dumps
from conestool.images.photos import as_photo
from conestool.models.kv_weights import kv_weights
from conestool.models.memory import that_fit
from conestool.models.model import Defaults, Model
from conestool.search.config import DEFAULT_RESOURCES, Resources
from conestool.search.context import SearchContext
from conestool.search.events import Event, MemoryChoice, Progress, no_callback
from conestool.search.find import find
from conestool.search.memory import frozen_modules, offload_frozen_modules, search_mode, stepping
from conestool.search.methods import METHODS, make_method
from conestool.search.methods.joint_mask import JointMask, JointMaskConfig
from conestool.search.objective import Objective
from tests.search.gradients import whole
from tests.search.test_memory import objective
from tests.support.photos import noisy_photos as photos
from tests.support.pretend_card import PLENTY, CardTensor, PretendCard, pretend_card
from tests.support.searches import common, quick
from tests.support.tiny_models import make_pipeline, random_cone

ROOT = Path(__file__).parents[2]


def on_card(place: Path, card: PretendCard, dtype: torch.dtype = torch.float32) -> Model:
    """A small model on the card."""
    model = Model.from_pipeline(make_pipeline(place).to(dtype).to(card.kind))
    model.defaults = Defaults(2, 3.0, 64)
    return model


def searched(model: Model, callback: Callable[[Event], None] = no_callback) -> tuple[Cone, dict[str, Any]]:
    """What a short search finds, and what it chose."""
    chosen: list[Any] = []

    def note(event: Event) -> None:
        callback(event)
        if isinstance(event, MemoryChoice):
            chosen.append(event.record)

    cone = find(model, photos(), "dog", config=quick(batch_size=8, steps=2), class_images=photos(), callback=note)
    return cone, chosen[-1] if chosen else {}


def same_but_for_rounding(one: Cone, two: Cone) -> bool:
    """Whether they share nearly all neurons, and their losses differ by what float32 rounds."""
    losses = [dict(cone.concepts[0].origin.losses or ()) for cone in (one, two)]
    return common(one, two) > 0.95 and losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.filterwarnings("ignore:.*ran out of memory")
@pytest.mark.usefixtures("few_probes")
@pytest.mark.parametrize("kind", ["cuda", pytest.param("mps", marks=pytest.mark.long)])
def test_a_search_fits_into_what_memory_there_is(kind: str, tmp_path: Path) -> None:
    """With less and less of it there are fewer samples at once, then recomputed activations, then scores elsewhere.

    The concept stays the same but for rounding, and a card too small for one sample says so.
    """
    with pretend_card(kind) as card:
        model = on_card(tmp_path, card)
        (whole, first), needed, held = searched(model), card.peak, card.used
        assert first["samples"] == first["most"] == 24
        chosen = []
        for share in (0.5, 0.2):
            card.memory = held + int(share * (needed - held))
            card.forget()
            cone, found = searched(model)
            assert card.peak <= card.memory
            assert same_but_for_rounding(cone, whole)
            chosen.append(found)
    assert [each["gradient_checkpointing"] for each in chosen] == [False, True]
    assert 24 > chosen[0]["samples"] >= 4


def test_scores_leave_a_card_that_they_would_fill(tmp_path: Path) -> None:
    """But not a Mac's GPU, which has the same memory; and a card too small for a single sample says so."""
    for kind in ("cuda", "mps"):
        with pretend_card(kind) as card:
            model = on_card(tmp_path / kind, card)
            context = SearchContext(model=model)
            with search_mode(model, DEFAULT_RESOURCES) as params:
                asked = objective(model, params)

                def make(asked: Objective = asked, card: PretendCard = card) -> Any:
                    made: Any = make_method("mask,steps=1", asked)
                    if made.gates.device.type == "cpu":
                        card.memory = PLENTY
                    return made

                card.memory = card.used + 4 * len(params.weights)
                if kind == "mps":
                    with pytest.warns(UserWarning, match="no room left"), pytest.raises(OutOfMemoryError):
                        stepping(context, [asked], make).__enter__()
                    where = {each.device.type for part in frozen_modules(model) for each in part.parameters()}
                    assert where == {model.device.type} == {"cpu"}  # all of it, where there is room
                else:
                    with stepping(context, [asked], make) as method:
                        assert method.gates.device.type == "cpu" and params.weights.device.type == "cpu"
                        method.step(0)
                card.memory = PLENTY


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_frozen_parts_leave_the_card_and_come_back_after_an_error(kind: str, tmp_path: Path) -> None:
    """What an out-of-memory error still holds is let go before, so that there is room for them."""
    with pretend_card(kind) as card:
        model = on_card(tmp_path, card)
        held = card.used

        def fill() -> None:
            kept = [torch.zeros(held // 8, device=card.kind)]
            card.memory = card.used
            assert model.pipe.vae.device.type == "cpu"
            kept.append(torch.zeros(held, device=card.kind))

        with pytest.raises(RuntimeError, match="out of memory"), offload_frozen_modules(model):
            fill()
        assert {next(part.parameters()).device.type for part in frozen_modules(model)} == {kind}


def test_attention_on_a_mac_comes_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor has as many entries as the limit, forward or backward, and loss and gradient are the same."""
    with pretend_card("mps") as card:
        model = on_card(tmp_path, card)
        found = []
        for limit in (1 << 29, 1 << 13):
            monkeypatch.setattr("conestool.models.memory._MAX_ENTRIES", limit)
            with search_mode(model, Resources(micro_batch=6)) as params:
                asked = objective(model, params)
                card.forget()
                found.append((*whole(asked, params.weights), card.largest, card.peak))
        (gradient, loss, largest, peak), (again, same, sliced, less) = found
        assert sliced < largest and less < peak
        assert same == pytest.approx(loss, rel=1e-5)
        assert torch.allclose(gradient.cpu(), again.cpu(), rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*no room left")
@pytest.mark.usefixtures("few_probes")
def test_a_card_that_fills_up_ends_a_search_that_can_be_resumed(tmp_path: Path) -> None:
    """With the finished steps saved, from which it goes on to the same file, byte for byte."""
    state = tmp_path / "dog.cone.checkpoint"
    with pretend_card("cuda") as card:
        model = on_card(tmp_path, card)
        # as much as the parts take that come back at the end: less than a step needs
        room = 2 * sum(weight.nbytes for part in frozen_modules(model) for weight in part.parameters())
        steps = filling(card, room)
        few = Resources(micro_batch=12)
        more: dict[str, Any] = {"config": quick(), "class_images": photos()}
        whole = find(model, photos(), "dog", resources=few, **more)
        saved = {**more, "checkpoint_path": state}
        with pytest.raises(OutOfMemoryError):
            find(model, photos(), "dog", resources=few, callback=steps, **saved)
        card.memory = PLENTY
        model.pipe.to(card.kind)  # some of it may have had no room to come back
        again = find(model, photos(), "dog", resources=few, resume_from_checkpoint=True, **saved)
    assert dumps(again) == dumps(whole)


@pytest.mark.usefixtures("few_probes")
def test_a_card_that_fills_up_makes_a_search_go_on_with_fewer_samples(tmp_path: Path) -> None:
    """It ends, and in the same concept but for rounding."""
    with pretend_card("cuda") as card:
        model = on_card(tmp_path, card)
        (whole, first), needed, held = searched(model), card.peak, card.used
        with pytest.warns(UserWarning, match="ran out of memory"):
            cone, chosen = searched(model, callback=filling(card, (needed - held) // 2))
    assert chosen["samples"] == first["samples"]
    assert same_but_for_rounding(cone, whole)


def filling(card: PretendCard, room: int) -> Callable[[Event], None]:
    """A callback that leaves so much free memory on the card after the first step."""

    def note(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "search" and event.done == 1:
            card.memory = card.used + room

    return note


def test_room_is_left_for_the_gradients_of_all_subjects(tmp_path: Path) -> None:
    """A step that tunes several concepts holds one of each, so that fewer samples go at once."""
    with pretend_card("cuda") as card:
        model = on_card(tmp_path, card)
        with search_mode(model, DEFAULT_RESOURCES) as params:
            asked = objective(model, params)
            alone = asked.fit()
            size = 4 * len(params.weights)
            card.memory = card.used + (9 * alone.each + 2 * size)
            assert asked.fit().samples == alone.samples == 6
            assert asked.fit(1 + 5 * alone.each // size).samples < 6


@pytest.mark.parametrize("free", [10, 100, 1000])
def test_the_line_through_one_and_two_samples_is_followed(free: int) -> None:
    """To nine tenths of what is free, in equal passes; what does not fit after all is halved."""
    with pretend_card("cuda") as card:
        card.memory = free * 4_000

        def run(count: int) -> None:
            torch.zeros(1000 * (5 + count), device="cuda")

        assert that_fit(run, 24, torch.device("cuda")).samples == {10: 4, 100: 24, 1000: 24}[free]


def test_a_step_launches_little_and_waits_once(tmp_path: Path) -> None:
    """Beside forward and backward at most 30 kernels a parameter; docs/performance.md has the figures."""
    told = {row[0]: [int(each) for each in row[1:]] for row in rows_of(ROOT / "docs" / "performance.md")}
    with pretend_card("cuda") as card:
        model = on_card(tmp_path, card)
        with search_mode(model, Resources(micro_batch=6)) as params:
            asked, count = objective(model, params), len(params.sizes)
            for name in (*METHODS, "tune"):
                method: Any = make_method(f"{name},steps=9" if name in METHODS else "mask", asked)
                if name == "tune":
                    method = JointMask([asked], asked.weights[None] > 1, JointMaskConfig())
                method.step(0)
                batch = asked.batch(1)
                card.forget()
                asked._backward(batch, torch.arange(6), 6)
                passes = card.launches.total()
                card.forget()
                method.step(1)
                own = -(-(card.launches.total() - passes) // count)
                assert card.waits.total() == 1
                assert own <= 30
                assert told[name] == [own, card.waits.total(), card.transfers.total()], (own, card.transfers)


def rows_of(page: Path) -> list[list[str]]:
    """The rows of the table of launches."""
    lines = page.read_text(encoding="utf-8").split("| method | launches", 1)[1].splitlines()[2:]
    return [line.strip("| ").split(" | ") for line in lines[: lines.index("")]]


def test_eval_keeps_no_vector_of_all_weights_on_the_card(tmp_path: Path) -> None:
    """While it draws, no tensor there has a number for each key and value weight."""
    held: list[int] = []
    with pretend_card("cuda") as card:
        model = on_card(tmp_path, card)
        count = sum(each.numel() for each in kv_weights(model.denoiser).values())

        def tell(event: Event) -> None:
            if isinstance(event, Progress) and event.stage.startswith("dog: "):
                there = [each for each in gc.get_objects() if isinstance(each, CardTensor)]
                held.append(sum(each.numel() >= count for each in there))

        given = {"dog": [as_photo(each) for each in photos()]}
        evaluate(model, random_cone(model, "dog"), given, plan=Plan(("{}",), (0,), 2, 2, 1), tell=tell)
        everywhere = [each.numel() for each in gc.get_objects() if isinstance(each, CardTensor)]
    assert held == [0] * 4 and 0 < max(everywhere) < count
