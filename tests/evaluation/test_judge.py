"""The judge of attributes: its file, and what it makes of prompts and readings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from conestool.errors import ModelLoadError
from conestool.evaluation.attribute_metric import AttributeMetric, attributes_of, kept
from conestool.evaluation.judge import AttributeJudge, Reading, load_judge, save_judge
from training.pocket.labels import WORLD


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
