"""An evaluation on a small random model: rows, controls, exact restore, gates, and what is said to be missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from conestool.concept import Cone, Provenance
from conestool.errors import BaseModelMismatchError, PromptError, UsageError
from conestool.evaluation import AttributeMetric, Gates, Plan, Report, check_templates, evaluate, load_dino
from conestool.evaluation.evaluate import caveats, split_by_origin
from conestool.evaluation.judge import load_judge
from conestool.evaluation.prompts import Prompt, joined, unrelated_nouns
from conestool.images.photos import Photo, as_photo
from conestool.models.model import Model
from tests.support.encoders import save_dino
from tests.support.tiny_models import random_cone

PLAN = Plan(("a photo of a {}", "a {} on the beach"), (3,), samples=4, drawings=2, unrelated=1)


def photos() -> list[Photo]:
    return [as_photo(Image.new("RGB", (32, 32), colour)) for colour in ("red", "teal", "white", "black")]


def known(cone: Cone, held_out: int) -> Cone:
    """The cone as if the search had seen `photos`, all but the first `held_out`."""
    origin = Provenance(photos=sorted(photo.sha256 for photo in photos()), held_out=held_out, seed=0)
    return Cone(tuple(replace(concept, origin=origin) for concept in cone.concepts))


@pytest.fixture(scope="module")
def report(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Two concepts, photos of the first alone."""
    dino = load_dino(str(save_dino(tmp_path_factory.mktemp("encoders") / "dino")))
    cone = known(random_cone(model, "dog", "hat"), 1)
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    found, sheets = evaluate(
        model.pipe,
        cone,
        {"dog": [photo.image for photo in photos()]},
        metrics=[AttributeMetric(load_judge()), dino],
        plan=PLAN,
    )
    assert all(torch.equal(value, before[name]) for name, value in model.denoiser.state_dict().items())
    assert [len(row) for row in sheets["dog"]] == [4, 2, 2, 2, 2]
    return found


def test_every_row_has_its_controls(report: Report) -> None:
    dog = report.concepts[0]
    names = ["concept", "no identifier", "all together", "random", "largest", "base model", "photos"]
    assert [row.name for row in dog.rows] == names
    assert set(dog.row("concept").losses) == {"held_out", "no_identifier", "class", "unrelated"}
    assert dog.row("concept").losses != dog.row("random").losses != dog.row("largest").losses
    assert dog.row("concept").subject == f"{dog.identifier} dog"
    assert dog.row("base model").subject == "dog"
    assert (dog.photos, dog.unseen) == (1, 1), "losses are of photos that the search did not see"
    assert (report.concepts[1].photos, report.concepts[1].unseen) == (0, 0)
    assert all(
        "DINO" in dog.row(name).score.image for name in ("concept", "no identifier", "random", "base model", "photos")
    )


def test_what_was_not_measured_is_said(report: Report) -> None:
    assert set(report.concepts[1].row("concept").losses) == {"class", "unrelated"}
    (text,) = report.missing
    assert text.startswith("hat: no photos")
    texts = caveats(report.concepts, [], None)
    assert any("no alignment" in text for text in texts)
    assert any("no presence" in text for text in texts)


def test_presence_is_told_of_all_together_of_the_bare_model_and_of_the_photos(report: Report) -> None:
    found = report.presence
    assert found is not None
    dog, hat = report.concepts
    assert found.prompt == f"a {dog.identifier} dog and a {hat.identifier} hat"
    assert found.pictures == 2
    assert (set(found.concepts), set(found.base_model), set(found.photos)) == ({"dog", "hat"}, {"dog", "hat"}, {"dog"})


def test_photos_of_the_search_flatter_and_say_so(model: Model) -> None:
    concept = known(random_cone(model, "dog"), 0)["dog"]
    learned, fresh = split_by_origin(concept, photos())
    assert (len(learned), len(fresh)) == (4, 0)
    new = as_photo(Image.new("RGB", (32, 32), "pink"))
    assert split_by_origin(concept, [new])[1] == [new]


def test_gates_name_what_falls_short(report: Report) -> None:
    only = replace(report, concepts=report.concepts[:1])
    row = only.concepts[0].row("concept")
    gain = -row.losses["held_out"]
    assert Gates(gain=gain - 0.01, image=min(row.score.image.values()) - 0.01).failures(only) == []
    failures = Gates(gain=gain + 0.01, image=1.1).failures(only)
    assert [text.split(" ")[1:3] for text in failures] == [
        ["gain", f"{gain:.3f}"],
        ["image", "(attributes)"],
        ["image", "(DINO)"],
    ]
    with pytest.raises(UsageError, match=r"--min-gain: it was not measured for hat"):
        Gates(gain=0.5).failures(report)


def test_what_cannot_be_measured_is_refused(model: Model, v_folder: Path) -> None:
    other = Model.from_pretrained(str(v_folder))
    with pytest.raises(BaseModelMismatchError):
        evaluate(other, random_cone(model, "dog"), {}, plan=PLAN)
    for texts in ([], ["a dog"], [" "]):
        with pytest.raises(PromptError):
            check_templates(texts)


def test_prompts_have_the_right_article_and_other_nouns() -> None:
    assert str(Prompt("a photo of a {}", "apple")) == "a photo of an apple"
    assert str(Prompt("my {} at night", "sks dog")) == "my sks dog at night"
    assert joined(["sks dog", "apple", "cat"]) == "a sks dog, an apple and a cat"
    assert joined(["dog"]) == "a dog"
    assert unrelated_nouns({"objects": ["dog", "cat", "car"]}, ["Cat"], 2) == ("dog", "car")
    assert "cat" not in unrelated_nouns({}, ["cat"], 5)
