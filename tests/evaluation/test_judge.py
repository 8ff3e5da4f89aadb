"""The judge of attributes: its file, and what it makes of prompts and readings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from conestool.errors import ModelLoadError
from conestool.evaluation.attribute_metric import AttributeMetric, attributes_of, judge_for, kept
from conestool.evaluation.judge import AttributeJudge, Reading, judge_path, load_judge, save_judge
from conestool.evaluation.prompts import Prompt
from conestool.models.model import Model
from training.pocket.labels import WORLD

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def metric() -> AttributeMetric:
    torch.manual_seed(0)
    return AttributeMetric(AttributeJudge(WORLD).eval())


def thing(**values: str) -> dict[str, str]:
    return dict.fromkeys(WORLD.heads, "") | {"class": "dog", "main": "white"} | values


def test_the_file_holds_the_judge_and_its_world(metric: AttributeMetric, tmp_path: Path) -> None:
    path = tmp_path / "judge.safetensors"
    path.write_bytes(save_judge(metric.judge))
    again = load_judge(path)
    assert again.world == WORLD
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours, theirs = metric.judge.read_whole(images), again.read_whole(images)
    assert all(torch.allclose(a, b, atol=0.05) for a, b in zip(ours, theirs, strict=True))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelLoadError, match="not a judge"):
        load_judge(path)


@pytest.mark.parametrize(
    ("rest", "background", "things"),
    [
        ("a on the beach", "beach", []),
        ("a on a yellow background", "yellow", []),
        ("a photo of a", "", []),
        ("a in a top hat at night", "night", [("top hat",)]),
        ("a in a hat and a scarf", "", [("top hat", "cap", "beanie"), ("scarf",)]),
        ("a next to a car in the woods", "forest", [("car",)]),
        ("a teapot", "", []),
    ],
)
def test_the_rest_of_a_prompt_is_read(
    metric: AttributeMetric, rest: str, background: str, things: list[tuple[str, ...]]
) -> None:
    found, classes = metric.asked(rest)
    assert found == background
    assert sorted(classes) == sorted(things)


def test_obedience_is_the_share_of_what_was_asked(metric: AttributeMetric) -> None:
    seen = Reading(background="beach", things=(thing(headwear="cap"), thing(**{"class": "car"})))
    assert metric.obeyed(seen, "a in a hat on the beach") == 1
    assert metric.obeyed(seen, "a in a crown on the beach") == 0.5
    assert metric.obeyed(seen, "a next to a house at night") == 0
    assert math.isnan(metric.obeyed(seen, "a photo of a"))


def test_a_subject_is_what_most_photos_show() -> None:
    white, black = (Reading(background="plain", things=(thing(main=colour),)) for colour in ("white", "black"))
    wanted = attributes_of([white, black, white], ("class", "main", "ears"))
    assert wanted == {"class": "dog", "main": "white"}
    assert kept(thing(main="black"), wanted) == 0.5


def test_what_is_worn_makes_no_individual() -> None:
    assert set(WORLD.identity) & {"class", "main", "ears"}
    assert not any(name.startswith(("headwear", "other wear")) for name in WORLD.identity)


@pytest.fixture(scope="module")
def packaged() -> AttributeMetric:
    metric = judge_for(Model.from_pretrained("pocket").settings)
    assert metric is not None
    return metric


def photos(name: str) -> list[Image.Image]:
    return [Image.open(EXAMPLES / name / f"{number}.jpg").convert("RGB") for number in range(1, 6)]


def test_the_packaged_judge_serves_models_whose_objects_it_knows() -> None:
    assert judge_for({"objects": ["dog", "house"]}) is not None
    assert judge_for({"objects": ["dog", "teapot"]}) is None
    assert judge_for({}) is None
    assert judge_path().stat().st_size < 4_000_000 and load_judge().world == WORLD


def test_photos_show_who_they_are_of(packaged: AttributeMetric) -> None:
    """What rex is made of is read in its own photos, and little of it in those of another dog."""
    rex, luna = photos("rex"), photos("luna")
    own, other = packaged.image(rex, rex, ()), packaged.image(luna, rex, ())
    assert own is not None and other is not None
    assert own.mean() > 0.95 and other.mean() < 0.5
    wanted = attributes_of(packaged.read(rex), ("class", "main", "ears", "ear colour", "outline"))
    assert wanted == {"class": "dog", "main": "white", "ears": "floppy", "ear colour": "brown", "outline": "outlined"}


def test_places_are_told_and_presence_counts_pictures_with_the_thing(packaged: AttributeMetric) -> None:
    """The third photo of rex is before bricks, the fifth on the street."""
    _, _, bricks, _, street = photos("rex")
    places = [Prompt("a {} in front of a brick wall", "dog"), Prompt("a {} on the street", "dog")]
    right, wrong = packaged.text([bricks, street], places), packaged.text([street, bricks], places)
    assert right is not None and wrong is not None
    assert right.tolist() == [1, 1] and wrong.tolist() == [0, 0]
    assert packaged.presence(photos("rex"), "dog") == 1 and packaged.presence(photos("car"), "dog") == 0
    assert packaged.presence(photos("rex"), "teapot") is None and packaged.presence([], "dog") is None


def test_what_is_not_worn_has_no_colour() -> None:
    """Whatever the other heads say of it."""
    torch.manual_seed(0)
    judge = AttributeJudge(WORLD).eval()
    for head in ("headwear", "other_wear"):
        linear = judge.heads[head]
        assert isinstance(linear, torch.nn.Linear)
        linear.bias.data[0] = 100.0  # reads that nothing is worn, and a colour all the same
    for reading in judge.read(torch.rand(4, 3, 64, 64) * 2 - 1):
        for each in reading.things:
            assert not any(each[name] for wear in WORLD.wear for name in (wear, *WORLD.details(wear)))
    squares = judge.read_things(torch.rand(8, 3, 48, 48))
    assert squares["headwear main"].argmax(1).any()
