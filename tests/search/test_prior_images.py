"""What the base model draws for a search: pictures of the class, and of other things that it must not forget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from conestool.errors import PhotoError, UsageError
from conestool.evaluation.prompts import unrelated_nouns
from conestool.images.photos import as_photo
from conestool.models.model import Model
from conestool.search.config import SearchConfig
from conestool.search.context import SearchContext
from conestool.search.find import resolve_names
from conestool.search.loss_terms import prepare
from conestool.search.objective import Objective
from conestool.search.parameters import FlatParameters, trainable_kv_weights
from conestool.search.prior_images import draw_prior_images, num_images_to_draw, preserved_classes
from conestool.search.subject import split_photos
from tests.support.photos import noisy_photos as photos

FEW = SearchConfig(batch_size=2, num_class_images=4, num_crops=0, captions="none")


def context_of(model: Model, **changes: Any) -> SearchContext:
    """A short search."""
    return SearchContext(model=model, config=replace(FEW, **changes))


def make_objective(model: Model, config: SearchConfig, params: FlatParameters) -> Objective:
    """L_con of noisy photos of a dog."""
    context = SearchContext(model=model, config=config)
    split = split_photos(list(map(as_photo, photos())), config)
    priors = draw_prior_images(context, "dog")
    return prepare(context, params, resolve_names(model, "dog", None, None), split, priors)[0]


def test_class_images_and_other_things_share_the_samples_of_one_term(model: Model, own_cache: Path) -> None:
    """So that a step is as long with both as with one; a term without weight is not there."""

    def sizes(**changes: Any) -> dict[str, int]:
        with trainable_kv_weights(model.denoiser) as params:
            return {term.name: term.size for term in make_objective(model, replace(FEW, **changes), params).terms}

    assert sizes(batch_size=8) == {"instance": 8, "class": 4, "unbound": 8, "other_classes": 4}
    assert sizes(batch_size=8, other_class_weight=0.0) == {"instance": 8, "class": 8, "unbound": 8}
    assert sizes(batch_size=8, other_class_weight=0.0, term_weights={"unbound_weight": 0}).keys() == {
        "instance",
        "class",
    }
    with pytest.raises(UsageError, match="no loss term edges"):
        sizes(term_weights={"edges": 1.0})
    assert sizes(batch_size=1, unbound_weight=0.0) == {"instance": 1, "class": 1, "other_classes": 1}


FEW_OWN = ["dog", "cat", "rabbit", "bear", "pig", "car", "house"]
MANY_OWN = [*FEW_OWN, "fox", "frog", "cow", "tiger", "apple", "tree", "star", "balloon", "boat", "cake", "cup"]


@pytest.mark.parametrize("own", [[], FEW_OWN, MANY_OWN])
@pytest.mark.parametrize("noun", ["dog", "House", "hat"])
def test_an_evaluation_asks_for_other_nouns_than_the_search_held(own: list[str], noun: str) -> None:
    """And neither for the subject."""
    held, asked = preserved_classes({"objects": own}, noun), unrelated_nouns({"objects": own}, [noun], 3)
    assert 3 <= len(held) <= 8 and len(asked) == 3
    assert not set(held) & set(asked)
    assert noun.casefold() not in held


def test_what_there_is_to_draw_is_drawn_once(model: Model, own_cache: Path) -> None:
    """Groups of eight of the class and of the others; without the term or with given pictures only the rest."""
    assert num_images_to_draw(context_of(model), "dog", given=False) == 16
    assert num_images_to_draw(context_of(model), "dog", given=True) == 8
    assert num_images_to_draw(context_of(model, other_class_weight=0.0), "dog", given=False) == 8
    drawn = draw_prior_images(context_of(model), "dog")
    assert num_images_to_draw(context_of(model), "dog", given=False) == 0
    assert (len(drawn.class_images), len(drawn.other_images)) == (4, 3)
    assert [texts[0] for texts in drawn.other_prompts] == [f"a photo of a {noun}" for noun in drawn.other_classes[:3]]
    assert draw_prior_images(context_of(model, other_class_weight=0.0), "dog").other_images == []
    with pytest.raises(PhotoError, match="fewer than 2 class images of dog"):
        draw_prior_images(context_of(model), "dog", [Image.new("RGB", (16, 16))])


def test_the_search_holds_every_other_picture_under_its_own_prompt(model: Model, own_cache: Path) -> None:
    """The model's own answers for them are kept; without the weight the term is not there."""
    with trainable_kv_weights(model.denoiser) as params:
        objective = make_objective(model, replace(FEW, other_class_weight=2.0), params)
        without = make_objective(model, replace(FEW, other_class_weight=0.0), params)
        term = objective.terms[-1]
        kept = objective.frozen_targets["other_classes"]
        assert objective.loss(objective.weights, objective.sample_frozen(term, torch.Generator())) < 1e-9  # type: ignore[arg-type]
    assert (term.name, term.weight, term.target, len(term.images)) == ("other_classes", 2.0, "frozen", 3)
    assert term.prompt_choices is not None and term.prompt_choices.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert len(kept.noisy_latents) == objective.num_frozen_targets
    assert "other_classes" not in [each.name for each in without.terms]
