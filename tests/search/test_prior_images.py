"""What the base model draws for a search: pictures of the class, and of other things that it must not forget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from conestool.errors import PhotoError
from conestool.evaluate.prompts import unrelated_nouns
from conestool.images.photos import as_photo
from conestool.models.model import Model
from conestool.search import Settings
from conestool.search.events import ignore
from conestool.search.find import name_subject
from conestool.search.loss_terms import prepare
from conestool.search.parameters import borrowed
from conestool.search.prior_images import draw_priors, other_nouns, to_draw
from conestool.search.subject import split
from tests.search.test_memory import photos
from tests.support.tiny_models import save_pipeline

FEW = Settings(batch=2, class_images=4, crops=0, captions="none")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny model that names no objects."""
    return Model.from_pretrained(str(save_pipeline(tmp_path_factory.mktemp("priors") / "base")))


def test_class_images_and_other_things_share_the_samples_of_one_term() -> None:
    """So that a step is as long with both as with one; a term without weight has none."""
    assert Settings(batch=8).sizes() == {"instance": 8, "class": 4, "contrast": 8, "others": 4}
    assert Settings(batch=8, others=0.0).sizes() == {"instance": 8, "class": 8, "contrast": 8}
    assert Settings(batch=1, contrast=0.0).sizes() == {"instance": 1, "class": 1, "others": 1}


FEW_OWN = ["dog", "cat", "rabbit", "bear", "pig", "car", "house"]
MANY_OWN = [*FEW_OWN, "fox", "frog", "cow", "tiger", "apple", "tree", "star", "balloon", "boat", "cake", "cup"]


@pytest.mark.parametrize("own", [[], FEW_OWN, MANY_OWN])
@pytest.mark.parametrize("noun", ["dog", "House", "hat"])
def test_an_evaluation_asks_for_other_nouns_than_the_search_held(own: list[str], noun: str) -> None:
    """And neither for the subject."""
    held, asked = other_nouns({"objects": own}, noun), unrelated_nouns({"objects": own}, [noun], 3)
    assert 3 <= len(held) <= 8 and len(asked) == 3
    assert not set(held) & set(asked)
    assert noun.casefold() not in held


def test_what_there_is_to_draw_is_drawn_once(model: Model, own_cache: Path) -> None:
    """Groups of eight of the class and of the others; without the term or with given pictures only the rest."""
    assert to_draw(model, "dog", FEW, given=False) == 16
    assert to_draw(model, "dog", FEW, given=True) == 8
    assert to_draw(model, "dog", replace(FEW, others=0.0), given=False) == 8
    drawn = draw_priors(model, "dog", FEW)
    assert to_draw(model, "dog", FEW, given=False) == 0
    assert (len(drawn.of_class), len(drawn.others)) == (4, 3)
    assert [texts[0] for texts in drawn.prompts] == [f"a photo of a {noun}" for noun in drawn.nouns[:3]]
    assert draw_priors(model, "dog", replace(FEW, others=0.0)).others == ()
    with pytest.raises(PhotoError, match="fewer than 2 class images of dog"):
        draw_priors(model, "dog", FEW, [Image.new("RGB", (16, 16))])


def test_the_search_holds_every_other_picture_under_its_own_prompt(model: Model, own_cache: Path) -> None:
    """The model's own answers for them are kept; without the weight the term is not there."""
    priors = draw_priors(model, "dog", FEW)
    words, pictures = name_subject(model, "dog", None, None, ignore), split(list(map(as_photo, photos())), 0, None, 0)
    with borrowed(model.denoiser) as layout:
        objective, _ = prepare(model, layout, words, pictures, priors, replace(FEW, others=2.0))
        without, _ = prepare(model, layout, words, pictures, priors, replace(FEW, others=0.0))
        term = objective.terms[-1]
        kept = objective.kept["others"]
        assert objective.loss(objective.theta, objective.kept_sample(term, torch.Generator())) < 1e-9  # type: ignore[arg-type]
    assert (term.name, term.weight, term.keep, len(term.pictures)) == ("others", 2.0, True, 3)
    assert term.choices is not None and term.choices.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert len(kept.noisy) == objective.pool
    assert "others" not in [each.name for each in without.terms]
