"""Regions: each concept acts in its own part of the picture alone, and the model says itself where that is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conestool.apply import applied_in_turn, apply_cones
from conestool.concept import Cone
from conestool.errors import BaseModelMismatchError, PromptError
from conestool.images.photos import encode_whole
from conestool.models.model import Model
from conestool.models.noise_schedule import schedule_of
from conestool.models.sampling import sample
from conestool.ops import extract
from conestool.rendering import png_bytes, read_record, regions, render, replay, rewrite
from conestool.rendering.regions import bare_prompt, own_prompt
from tests.support.model_files import FAMILIES
from tests.support.tiny_models import random_cone, save

PROMPT = "a photo of a dog and a hat"
SENT = "a photo of a sks dog and a zwx hat"


@pytest.fixture(scope="module")
def cone(model: Model) -> Cone:
    """Two concepts of random neurons: dog (sks) and hat (zwx)."""
    return random_cone(model, "dog", "hat", density=0.3)


@pytest.fixture(scope="module")
def pocket() -> Model:
    """The embedded model."""
    return Model.from_pretrained("pocket")


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dog's region is the left half of every picture, the hat's the right one."""

    def found(model: Model, scene: Image.Image, sent: str, cone: Cone, **_: bool) -> list[Tensor]:
        width, height = (side // model.vae_scale_factor for side in scene.size)
        left = torch.zeros(height, width, dtype=torch.bool)
        left[:, : width // 2] = True
        return [left, ~left][: len(cone.names)]

    monkeypatch.setattr(regions, "find_regions", found)


def bits(model: Model) -> list[bytes]:
    """All weights of the denoiser."""
    return [parameter.detach().numpy().tobytes() for parameter in model.denoiser.parameters()]


@contextmanager
def recorded(part: object, method: str) -> Iterator[list[Tensor]]:
    """Within it the first argument of every call of a method is kept, of all parts of this class."""
    kept: list[Tensor] = []
    kind = type(part)
    called = getattr(kind, method)

    def watched(self: object, first: Tensor, *args: object, **kwargs: object) -> object:
        kept.append(first)
        return called(self, first, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, method, watched)
        yield kept


def prepared(family: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Model, Cone]:
    """A tiny model of a family with a dog and a hat, whose subjects fill their halves."""
    model = Model.from_pretrained(str(save(FAMILIES[family](folder), folder / "base")))
    monkeypatch.setattr(type(model.family), "max_tokens", 32, raising=False)
    monkeypatch.setattr(regions, "_SCALE", 1.0)
    return model, random_cone(model, "dog", "hat", density=0.3)


@pytest.mark.usefixtures("halves")
@pytest.mark.parametrize("family", FAMILIES)
def test_each_answer_is_that_of_the_concept_whose_region_it_is(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit that of its picture alone, left and right, in every family, and in a wide picture."""
    model, cone = prepared(family, tmp_path, monkeypatch)
    monkeypatch.setattr(regions, "_START", 2.0)  # no call has so much noise
    before = bits(model)
    common: dict[str, Any] = {"steps": 2, "size": (64, 32)}
    with recorded(model.pipe.scheduler, "step") as whole:
        drawn = render(model, PROMPT, cone, seeds=[3], regions=True, **common)
    assert bits(model) == before
    asked = whole[len(whole) * 3 // 4]  # the first answer of the picture; the scene and two concepts came before
    alone = []
    for concept in cone.concepts:
        with apply_cones(model, extract(cone, concept.name)), recorded(model.pipe.scheduler, "step") as kept:
            sample(model, [f"a photo of a {concept.phrase}"], [3], **common)
        alone.append(kept[0])
    left, right = (across(each) for each in alone)
    middle = across(asked)
    half = middle.shape[-1] // 2
    assert torch.equal(middle[..., :half], left[..., :half]) and torch.equal(middle[..., half:], right[..., half:])
    assert not torch.equal(left[..., half:], right[..., half:]) and not torch.equal(left[..., :half], right[..., :half])
    assert drawn[0].record["regions"] is True


@pytest.mark.usefixtures("halves")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_that_follows_its_collage_becomes_it(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every family, whatever its schedule, its packing and its guidance."""
    model, cone = prepared(family, tmp_path, monkeypatch)
    monkeypatch.setattr(regions, "_START", 0.0)
    encoded: list[Tensor] = []

    def encode(*given: Any) -> Tensor:
        encoded.append(encode_whole(*given))
        return encoded[-1]

    monkeypatch.setattr(regions, "encode_whole", encode)
    with recorded(model.pipe.vae, "decode") as finished:
        render(model, PROMPT, cone, seeds=[3], regions=True, steps=8, size=(64, 32))
    vae = model.pipe.vae.config
    told = (finished[-1] - (vae.get("shift_factor") or 0)) * vae.scaling_factor
    collage = encoded[-1]
    rest = schedule_of(model).sigmas[0] if model.pipe.scheduler.config.get("set_alpha_to_one") is False else 0.0
    allowed = float(0.05 * collage.std() + 1.2 * rest)  # some schedulers leave the first timestep's noise
    assert rms(told - collage) < allowed < rms(told - collage.roll(1, -1))


def rms(values: Tensor) -> float:
    """The root of the mean square."""
    return float(values.square().mean().sqrt())


def across(answer: Tensor) -> Tensor:
    """The answer to a picture twice as wide as high, as (b, c, h, w), also where it is one of patches in order."""
    if answer.dim() == 4:
        return answer
    height = int((answer.shape[1] / 2) ** 0.5)
    return answer.mT.reshape(*answer.mT.shape[:2], height, 2 * height)


def test_a_region_of_all_is_the_concept_and_one_of_nothing_the_base_model(
    model: Model, cone: Cone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between them nothing is left over."""
    dog = extract(cone, "dog")
    expected = {True: render(model, "a dog", dog)[0], False: render(model, "a sks dog")[0]}
    for everywhere, told in expected.items():
        region = torch.full((8, 8), everywhere)
        monkeypatch.setattr(regions, "find_regions", lambda *_, region=region, **__: [region])
        [drawn] = render(model, "a dog", dog, regions=True)
        assert drawn.image.tobytes() == told.image.tobytes()
    assert expected[True].image.tobytes() != expected[False].image.tobytes()


@pytest.mark.usefixtures("halves")
def test_the_record_repeats_it(model: Model, cone: Cone, tmp_path: Path) -> None:
    """With its strengths; older records have no regions."""
    [drawn] = render(model, PROMPT, cone, seeds=[5], strength={"hat": 0.5}, regions=True)
    (tmp_path / "a.png").write_bytes(png_bytes(drawn.image, drawn.record))
    record = read_record(tmp_path / "a.png")
    again = replay(model, record, cone)
    assert again.image.tobytes() == drawn.image.tobytes() and again.record == drawn.record
    everywhere = replay(model, record, cone, regions=False)
    [expected] = render(model, PROMPT, cone, seeds=[5], strength={"hat": 0.5})
    assert everywhere.image.tobytes() == expected.image.tobytes() != drawn.image.tobytes()
    del record["regions"]
    assert replay(model, record, cone).image.tobytes() == everywhere.image.tobytes()


@pytest.mark.usefixtures("halves")
def test_pictures_do_not_depend_on_their_neighbours(model: Model, cone: Cone) -> None:
    """Several prompts and seeds; whatever `batch` says, one is drawn at a time, and progress counts them."""
    seen: list[tuple[int, int]] = []
    prompts = [PROMPT, "a hat on a dog"]
    drawn = render(model, prompts, cone, seeds=[0, 1], regions=True, batch=4, progress=lambda *pair: seen.append(pair))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {each.record["batch"] for each in drawn} == {1}
    [alone] = render(model, "a hat on a dog", cone, seeds=[1], regions=True)
    assert alone.image.tobytes() == drawn[3].image.tobytes()


def test_without_concepts_there_are_no_regions(model: Model) -> None:
    """It is the base model's picture."""
    [drawn] = render(model, "a dog", regions=True)
    assert drawn.image.tobytes() == render(model, "a dog")[0].image.tobytes() and drawn.record["regions"] is False


def test_a_concept_without_words_is_refused_before_anything_is_drawn(model: Model, cone: Cone) -> None:
    """It would have no region; so is another base model, as ever."""
    calls: list[object] = []
    hook = model.denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(PromptError, match="does not name hat") as told:
        render(model, [PROMPT, "a dog"], cone, regions=True)
    hook.remove()
    assert not calls and told.value.hint


def test_another_base_model_is_refused(model: Model, cone: Cone, v_folder: Path) -> None:
    """As it is without regions."""
    other = Model.from_pretrained(str(v_folder))
    with pytest.raises(BaseModelMismatchError, match="another model"):
        render(other, PROMPT, cone, regions=True)
    [forced] = render(other, PROMPT, cone, regions=True, allow_base_mismatch=True, steps=1)
    assert forced.record["regions"] is True


@pytest.mark.usefixtures("halves")
@pytest.mark.parametrize("turn", [1, 4, 5], ids=["alone", "the other alone", "in the picture"])
def test_stopping_half_way_leaves_no_trace(model: Model, cone: Cone, turn: int) -> None:
    """Weights and hooks are as before, also after an interrupt within a concept's turn."""
    before, turns = bits(model), 0

    def hooks() -> tuple[int, int]:
        return len(model.denoiser._forward_hooks), len(model.denoiser._forward_pre_hooks)

    def stop(*_: object) -> None:
        nonlocal turns
        turns += bits(model) != before
        if turns == turn:
            raise KeyboardInterrupt

    registered = hooks()
    hook = model.denoiser.get_submodule("conv_in").register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        render(model, PROMPT, cone, regions=True, steps=2)
    hook.remove()
    assert turns == turn and bits(model) == before and hooks() == registered


def test_applied_in_turn_is_exact(model: Model, cone: Cone) -> None:
    """Each turn has one concept's zeroes, as `apply_cones` makes them."""
    before = bits(model)
    with applied_in_turn(model, cone, {"hat": 0.5}) as zeroed:
        assert bits(model) == before
        for name, strength in (("dog", 1.0), ("hat", 0.5), ("dog", 1.0)):
            with zeroed(name):
                inside = bits(model)
            assert bits(model) == before != inside
            with apply_cones(model, extract(cone, name), strength=strength):
                assert bits(model) == inside


def test_bare_prompt_takes_identifiers_away(cone: Cone) -> None:
    """In every number and case; what else stands there stays."""
    typed = "Two dogs in a hat, a photo of a dog"
    assert bare_prompt(rewrite(typed, cone.concepts), cone) == typed
    assert bare_prompt("a SKS dog by a zwx  hat", cone) == "a dog by a hat"
    with pytest.raises(PromptError, match="does not name dog"):
        bare_prompt("a dog in a zwx hat", cone)


def test_what_the_base_model_leaves_out_is_not_drawn(model: Model, cone: Cone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn of it alone, and the others stay in their parts."""
    drawn: list[str] = []

    def watched(given: Model, prompts: list[str], seeds: list[int], **common: Any) -> list[Image.Image]:
        drawn.extend(prompts)
        return sample(given, prompts, seeds, **common)

    def found(*given: Any, **_: bool) -> list[Tensor]:
        there = torch.zeros(2, 8, 8, dtype=torch.bool)
        there[0, 2:6, 2:6] = True
        return list(there[: len(given[-1].names)])

    monkeypatch.setattr(regions, "sample", watched)
    monkeypatch.setattr(regions, "find_regions", found)
    [there] = render(model, PROMPT, cone, regions=True, steps=2)
    assert drawn == [PROMPT, "a photo of a sks dog", SENT]
    assert there.image.tobytes() != render(model, SENT, steps=2, literal=True)[0].image.tobytes()


def test_own_prompt_keeps_what_is_said_around_all_concepts(cone: Cone) -> None:
    """From the first to the last name one stands alone, in whatever order they come."""
    sent = "a photo of a sks dog in a red ZWX hat at night"
    assert own_prompt(sent, cone, "dog") == "a photo of a sks dog at night"
    assert own_prompt(sent, cone, "hat") == "a photo of a ZWX hat at night"
    assert own_prompt("a sks dog", extract(cone, "dog"), "dog") == "a sks dog"


def test_pocket_knows_where_its_things_are(pocket: Model) -> None:
    """Of a dog and a car the dog is left of the car, in three of three pictures."""
    both = random_cone(pocket, "dog", "car", density=0.01)
    bare = "a photo of a dog and a car"
    for seed in range(3):
        [scene] = sample(pocket, [bare], [seed])
        sent = rewrite(bare, both.concepts)
        found = dict(zip(both.names, regions.find_regions(pocket, scene, sent, both), strict=True))
        columns = {name: np.nonzero(region.numpy())[1].mean() for name, region in found.items()}
        assert all(0.05 < region.float().mean() < 0.5 for region in found.values())
        assert columns["dog"] < 3.5 < columns["car"]


def test_a_cell_belongs_to_the_concept_that_matters_most_there() -> None:
    """Below 1 to none; around a region as far as `reach`, but not into another's; nothing for one that wins nowhere."""
    hat, dog, ghost = torch.zeros(3, 6, 6)
    dog[1:5, 1:3] = 3
    hat[0:2, 1:3] = 4  # over the dog's head
    ghost[2, 2] = 2
    ghost[5, 5] = 0.9
    found = regions.share_out(torch.stack([hat, dog, ghost]), 1)
    assert found.sum(0).max() == 1
    assert found[0][0:2, 1:3].all() and found[1][2:5, 1:3].all() and not found[2].any()
    assert found[1][3:6, 0:4].all() and not found[:, :, 4:].any()
    assert found[0][0, 0] and found[0][0, 3] and found[:, 2, 0].sum() == 1


def test_a_picture_of_another_shape_has_regions_of_that_shape(pocket: Model) -> None:
    """Nothing is cut off: in a wide picture things stand as far out as they do in it."""
    cone = random_cone(pocket, "dog", "car", density=0.01)
    [scene] = sample(pocket, ["a dog and a car"], [0], size=(96, 64), steps=5)
    assert regions.find_regions(pocket, scene, rewrite("a dog and a car", cone.concepts), cone).shape == (2, 8, 12)


def test_a_worn_thing_has_a_region_of_its_own(pocket: Model) -> None:
    """A hat's is above that of the dog that wears it, in three of three pictures."""
    both = random_cone(pocket, "dog", "hat", density=0.01)
    for seed in range(3):
        [scene] = sample(pocket, ["a dog in a hat"], [seed])
        found = regions.find_regions(pocket, scene, rewrite("a dog in a hat", both.concepts), both)
        rows = {name: np.nonzero(region.numpy())[0].mean() for name, region in zip(both.names, found, strict=True)}
        assert rows["hat"] + 1 < rows["dog"]
