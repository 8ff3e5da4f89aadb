"""Rendering: the right words and weights go in, and the record brings the same picture back."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conestool.apply import apply_cones
from conestool.concept import Cone
from conestool.errors import BaseModelMismatchError, PromptError, UsageError
from conestool.models.base_info import file_sha256
from conestool.models.model import Model
from conestool.models.sampling import sample
from conestool.ops import extract
from conestool.rendering import Rendering, png_bytes, read_record, render, replay
from tests.support.tiny_models import random_cone


@pytest.fixture(scope="module")
def cone(model: Model) -> Cone:
    """Two concepts of random neurons: dog (sks) and hat (zwx)."""
    return random_cone(model, "dog", "hat", density=0.3)


def test_draws_the_rewritten_prompt_with_the_concepts_applied(model: Model, cone: Cone) -> None:
    """Equal to doing both by hand; the model is itself again afterwards."""
    [drawn] = render(model, ["a  dog in a hat "], cone, seeds=[3])
    with apply_cones(model, cone):
        [expected] = sample(model, ["a sks dog in a zwx hat"], [3])
    assert drawn.image.tobytes() == expected.tobytes()
    assert (drawn.record["prompt"], drawn.record["sent"]) == ("a dog in a hat", "a sks dog in a zwx hat")
    [bare] = render(model, ["a dog in a hat"], seeds=[3])
    assert bare.image.tobytes() == sample(model, ["a dog in a hat"], [3])[0].tobytes() != drawn.image.tobytes()
    assert bare.record["concepts"] == [] and bare.record["sent"] == "a dog in a hat"


def test_every_prompt_with_every_seed(model: Model, cone: Cone) -> None:
    """Prompts outermost; a picture does not depend on its neighbours."""
    seen: list[tuple[int, int]] = []
    drawn = render(model, ["a dog", "a hat"], cone, seeds=[0, 1], progress=lambda *pair: seen.append(pair))
    expected = [(sent, seed) for sent in ("a sks dog", "a zwx hat") for seed in (0, 1)]
    assert [(each.record["sent"], each.record["seed"]) for each in drawn] == expected
    assert drawn[3].image.tobytes() == render(model, ["a hat"], cone, seeds=[1])[0].image.tobytes()
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_strength_per_concept_and_literal_prompts(model: Model, cone: Cone) -> None:
    """Strength 0 of one concept is the other alone; the record tells each. Literally, they are applied all the same."""
    [half] = render(model, ["a dog"], cone, strength={"hat": 0})
    [alone] = render(model, ["a dog"], extract(cone, "dog"))
    assert half.image.tobytes() == alone.image.tobytes()
    assert [(used["name"], used["strength"]) for used in half.record["concepts"]] == [("dog", 1.0), ("hat", 0.0)]
    [literal] = render(model, ["a dog"], cone, literal=True)
    assert literal.record["sent"] == "a dog" and len(literal.record["concepts"]) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"strength": {"dog": 0.5}, "seeds": [11], "negative": "a red hat", "steps": 3, "guidance": 1.5},
        {"size": (48, 32), "scheduler": "EulerDiscrete"},
        {"scheduler": "DDPMScheduler", "literal": True},
    ],
)
def test_the_record_brings_the_picture_back(model: Model, cone: Cone, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Through the file, pixel by pixel, also with a scheduler that draws noise at every step; a setting may change."""
    [drawn] = render(model, ["a dog in a hat"], cone, **settings)
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(drawn.image, drawn.record))
    again = replay(model, read_record(path), cone)
    assert again.image.tobytes() == drawn.image.tobytes()
    assert png_bytes(again.image, again.record) == path.read_bytes()
    other = replay(model, drawn.record, cone, seeds=[9])
    assert other.record == drawn.record | {"seed": 9} and other.image.tobytes() != drawn.image.tobytes()
    assert drawn.record["model"]["digests"] == model.info.digests
    assert str(Path(model.id).parent) not in str(drawn.record), "no path of this machine"


def test_replay_refuses_other_models_and_missing_concepts(model: Model, cone: Cone, v_folder: Path) -> None:
    """It says which; forced, it draws what it can."""
    [drawn] = render(model, ["a dog"], cone)
    with pytest.raises(BaseModelMismatchError):
        replay(Model.from_pretrained(str(v_folder)), drawn.record, cone)
    with pytest.raises(UsageError, match="missing: dog, hat"):
        replay(model, drawn.record)
    with pytest.raises(UsageError, match="missing: hat"):
        replay(model, drawn.record, extract(cone, "dog"))
    assert isinstance(replay(model, drawn.record, extract(cone, "dog"), allow_mismatch=True), Rendering)


def test_replay_applies_what_the_picture_has_and_nothing_else(model: Model, cone: Cone) -> None:
    """From a file with more concepts, and under another name; forced, a concept of the name stands for another."""
    [drawn] = render(model, ["a dog"], extract(cone, "dog"), strength=0.5)
    renamed = Cone((replace(cone["dog"], name="rex"),))
    for given in (cone, renamed):
        again = replay(model, drawn.record, given)
        assert again.image.tobytes() == drawn.image.tobytes()
        assert [used["strength"] for used in again.record["concepts"]] == [0.5]
    other = Cone((replace(cone["hat"], name="dog", identifier="qyx"), replace(cone["dog"], name="hat")))
    names = [used["name"] for used in replay(model, drawn.record, other, allow_mismatch=True).record["concepts"]]
    assert names == ["dog", "hat"]


def test_says_what_the_text_encoder_cuts(model: Model, cone: Cone) -> None:
    """Of the prompt as sent, because that is what is read."""
    prompt = "a dog " + " ".join(["red"] * 19) + " In a hat"
    [drawn] = render(model, [prompt], cone)
    assert drawn.record["sent"].startswith("a sks dog red") and drawn.cut == "In a zwx hat"
    assert render(model, ["a dog"], cone)[0].cut == ""


def test_refuses_before_drawing(model: Model, cone: Cone, v_folder: Path) -> None:
    """Empty prompts, another base model, unknown schedulers; a scheduler is put back afterwards."""
    with pytest.raises(PromptError):
        render(model, ["a dog", "  "], cone)
    with pytest.raises(BaseModelMismatchError):
        render(Model.from_pretrained(str(v_folder)), ["a dog"], cone)
    before = model.pipe.scheduler
    with pytest.raises(UsageError, match="is not known"):
        render(model, ["a dog"], scheduler="NoSuch", steps=1)
    assert model.pipe.scheduler is before


@pytest.mark.parametrize(("guidance", "used"), [(1.0, ""), (0.5, ""), (1.5, "grass")])
def test_a_negative_prompt_without_effect_is_not_recorded(model: Model, guidance: float, used: str) -> None:
    """Without guidance there is nothing to guide away from; what changed nothing is said, and not written down."""
    [drawn] = render(model, ["a dog"], negative="grass", guidance=guidance)
    [plain] = render(model, ["a dog"], guidance=guidance)
    assert (drawn.image.tobytes() == plain.image.tobytes()) is (used == "")
    assert drawn.record["negative"] == used
    assert [text.split(":")[0] for text in drawn.unused] == ["the negative prompt has no effect"] * (used == "")


def test_the_record_has_the_hash_of_a_single_file(model: Model, tmp_path: Path) -> None:
    """As other programs compute it, once a file; a folder has none."""
    assert render(model, ["a dog"], steps=1)[0].record["model"]["file_sha256"] is None
    file = tmp_path / "model.safetensors"
    for content in (b"one", b"other"):
        file.write_bytes(content)
        for _ in range(2):
            assert file_sha256(replace(model, path=file)) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": [-1]}, "seed -1: "),
        ({"seeds": [1 << 63]}, "seed 9223372036854775808: "),
        ({"steps": 0}, "steps 0: "),
        ({"steps": 20_000}, "steps 20000: "),
        ({"guidance": float("nan")}, "guidance nan: "),
        ({"batch": 0}, "batch 0: "),
        ({"size": (30, 30)}, "size 30x30: "),
    ],
)
def test_refuses_settings_that_no_picture_has(model: Model, settings: dict[str, Any], message: str) -> None:
    """Before drawing, with the setting and its value."""
    with pytest.raises(UsageError, match=f"^{message}"):
        render(model, ["a dog"], **settings)
