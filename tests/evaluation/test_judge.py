"""Pocket's judge: its file, what it makes of prompts, and whether it tells subjects from each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from conestool.errors import ModelLoadError
from conestool.evaluation.alignment import JudgeMetric, judge_for
from conestool.evaluation.judge import judge_path, load_judge, save_judge
from conestool.evaluation.prompts import Prompt
from conestool.models.model import Model
from conestool.models.sampling import sample

EXAMPLES = Path(__file__).parents[2] / "examples" / "openmoji"


@pytest.fixture(scope="module")
def judge() -> JudgeMetric:
    return JudgeMetric(load_judge())


def photos(name: str) -> list[Image.Image]:
    return [Image.open(EXAMPLES / name / f"{number}.jpg").convert("RGB") for number in range(1, 6)]


def recoloured(images: list[Image.Image]) -> list[Image.Image]:
    """The same drawings in other colours: red, green and blue change places."""
    return [Image.merge("RGB", [image.getchannel(name) for name in "BRG"]) for image in images]


def test_the_file_holds_the_judge_and_its_words(judge: JudgeMetric, tmp_path: Path) -> None:
    path = tmp_path / "judge.safetensors"
    path.write_bytes(save_judge(judge.judge))
    again = load_judge(path)
    assert again.labels == judge.judge.labels
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(judge.judge(images), again(images), strict=True))
    assert judge_path().stat().st_size < 2_500_000
    path.write_bytes(b"nothing")
    with pytest.raises(ModelLoadError, match="not a judge"):
        load_judge(path)


def test_it_serves_models_whose_objects_it_knows() -> None:
    assert judge_for({"objects": ["dog", "house"]}) is not None
    assert judge_for({"objects": ["dog", "teapot"]}) is None
    assert judge_for({}) is None


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("a {} on the beach", [(1, ("beach",))]),
        ("a {} on a yellow background", [(1, ("yellow",))]),
        ("a photo of a {}", []),
        ("a red {}", [(2, ("red",))]),
        ("a {} in a top hat at night", [(1, ("night",)), (0, ("top hat",))]),
        ("a {} in a hat", [(0, ("top hat", "sun hat", "cap"))]),
        ("a {} in a green field", [(1, ("field",))]),
    ],
)
def test_the_rest_of_a_prompt_is_read(judge: JudgeMetric, template: str, wanted: list[object]) -> None:
    labels = judge.judge.labels
    heads = (labels.nouns, labels.places, labels.colours)
    found = [
        (head, tuple(heads[head][i] for i in columns))
        for head, columns in judge.asked(Prompt(template, "").background_text)
    ]
    assert found == wanted


def test_text_alignment_tells_backgrounds(judge: JudgeMetric) -> None:
    """The first photo of the dog is at night, the fourth on yellow."""
    night, _, _, yellow, _ = photos("dog")
    texts = [
        Prompt("a {} at night", "dog"),
        Prompt("a {} on a yellow background", "dog"),
        Prompt("a photo of a {}", "dog"),
    ]
    right = judge.text([night, yellow, night], texts)
    wrong = judge.text([yellow, night, night], texts)
    assert right is not None and wrong is not None
    assert bool((right[:2] > 0.5).all()) and bool((wrong[:2] < 0.2).all())
    assert bool(right[2].isnan())


def test_image_alignment_ranks_the_subject_above_another_of_its_class(judge: JudgeMetric) -> None:
    """Photos of the subject, then those of the same drawing in other colours, then the base model's of the class."""
    bare = sample(Model.from_pretrained("pocket"), ["a photo of a dog"] * 3, range(3), steps=6, batch=3)
    real, other = photos("dog"), recoloured(photos("dog"))
    scores = [judge.image(images, real, bare) for images in (real, other, bare)]
    own, others, none = (float(score.mean()) for score in scores if score is not None)
    assert own > others + 0.15 > none
    assert abs(none) < 0.15


def test_presence_counts_pictures_with_the_thing(judge: JudgeMetric) -> None:
    blank = [Image.new("RGB", (64, 64), "white")] * 2
    assert judge.presence(blank, "dog") == 0
    assert judge.presence(blank, "teapot") is None
    assert judge.presence([], "dog") is None
