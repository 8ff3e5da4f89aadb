"""Subjects among other things: the scenes that are planned, what is put into them, and what is learned from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from conestool.images.class_images import class_images
from conestool.images.photos import as_photo, read_photos
from conestool.models.model import Model
from conestool.models.noise_schedule import predict_noise
from conestool.models.prompts import encode
from conestool.search.composites import CompositeSpec, Subject, compose, sample_specs
from conestool.search.config import SearchConfig
from conestool.search.context import SearchContext
from conestool.search.find import resolve_names
from conestool.search.loss_terms import prepare, unbound_scene_prompts
from conestool.search.parameters import trainable_kv_weights
from conestool.search.prior_images import draw_prior_images, num_images_to_draw, num_scene_images
from conestool.search.subject import split_photos
from tests.support.photos import noisy_photos as photos

EXAMPLES = Path(__file__).parents[2] / "examples" / "openmoji"
OTHERS = ("tree", "cup", "car", "boat", "star")
FEW = SearchConfig(
    batch_size=2,
    num_class_images=4,
    num_crops=0,
    captions="none",
    other_class_weight=0.0,
    unbound_weight=0.0,
    composite_weight=3.0,
)


def test_scenes_show_the_subject_at_every_place_beside_others() -> None:
    """Two, three and four things, none twice, and the same ones every time."""
    scenes = sample_specs(("dog",), OTHERS, 24, 0)
    assert {len(scene.nouns) for scene in scenes} == {2, 3, 4}
    assert all(len(set(scene.nouns)) == len(scene.nouns) for scene in scenes)
    assert all([scene.nouns[place] for place in scene.subjects] == ["dog"] for scene in scenes)
    assert {place for scene in scenes for place in scene.subjects} == {0, 1, 2, 3}
    assert sample_specs(("dog",), OTHERS, 24, 0) == scenes != sample_specs(("dog",), OTHERS, 24, 1)


def test_several_subjects_meet_in_the_scenes_of_each() -> None:
    """All of them where there is room; the first always; of two of one class each has a place of its own."""
    scenes = sample_specs(("dog", "cat", "dog"), OTHERS, 12, 0)
    assert all(0 in scene.subjects.values() for scene in scenes)
    assert all(len(scene.subjects) == min(3, len(scene.nouns)) for scene in scenes)
    assert {number for scene in scenes for number in scene.subjects.values()} == {0, 1, 2}


def test_a_scene_in_words() -> None:
    """The classes, the subjects' phrases, and another noun in one's place."""
    scene = CompositeSpec(("cup", "dog", "owl"), {1: 0, 2: 1})
    subjects = [Subject("dog", "sks dog", ()), Subject("owl", "zwx owl", ())]
    assert scene.prompt() == "a photo of a cup, a dog and an owl"
    assert scene.instance_prompts(subjects) == [
        "a photo of a cup, a sks dog and a zwx owl",
        "a cup, a sks dog and a zwx owl",
        "a picture of a cup, a sks dog and a zwx owl",
    ]
    assert scene.prompt({0: "apple"}) == "a photo of an apple, a dog and an owl"
    assert CompositeSpec(("dog",), {0: 0}).prompt() == "a photo of a dog"


def test_a_subject_takes_its_class_s_place_and_nothing_else() -> None:
    """On pocket: the purple cat stands where the scene had its cat, and outside of its region no pixel differs."""
    pocket = Model.from_pretrained("pocket")
    scenes = [CompositeSpec(("cat", "boat"), {0: 0}), CompositeSpec(("boat", "cat"), {1: 0})]
    drawn = class_images(pocket, [scene.prompt() for scene in scenes], 2)
    cat = Subject("cat", "sks cat", [photo.image for photo in read_photos([EXAMPLES / "cat"])[0]])
    composites = compose(SearchContext(model=pocket), scenes, drawn, [cat], others=("dog", "car", "cup", "house"))
    for image, before, region, left in zip(
        composites.images, drawn, composites.subject_masks, (True, False), strict=True
    ):
        new, old = (np.asarray(each, dtype=np.int16) for each in (image, before))
        purple = (new[..., 2] > 150) & (new[..., 1] < 120) & (new[..., 0] > 90) & (new[..., 0] < 190)
        columns = purple.nonzero()[1]
        assert purple.sum() > 100 and (columns.mean() < 32) == left
        whole = np.kron(region[0].cpu().numpy() > 0, np.ones((8, 8), dtype=bool))
        assert np.abs(new - old)[~whole].max() == 0
        assert 0.03 < float(region.mean()) < 0.4


def test_scenes_are_drawn_once_and_fewer_for_each_of_many_subjects(model: Model, own_cache: Path) -> None:
    """As many as class images that are learned from, for two subjects each; to_draw counts them."""
    counts = [num_scene_images(SearchConfig(composite_weight=1.0), count) for count in (1, 2, 3, 4, 6, 9)]
    assert counts == [24, 24, 16, 12, 8, 8]
    context = SearchContext(model=model, config=FEW)
    assert num_scene_images(SearchConfig(composite_weight=0.0)) == 0
    assert num_images_to_draw(context, "dog", given=True) == 8
    priors = draw_prior_images(context, "dog", photos())
    assert len(priors.composite_specs) == len(priors.scene_images) == 3
    assert num_images_to_draw(context, "dog", given=True) == 0
    without = SearchContext(model=model, config=replace(FEW, composite_weight=0.0))
    assert not draw_prior_images(without, "dog", photos()).composite_specs


def test_noise_is_the_target_where_the_subject_is_and_the_plain_answer_elsewhere(model: Model, own_cache: Path) -> None:
    """So the subject is learned in its place, and what surrounds it is held as the model draws it for the class."""
    context = SearchContext(model=model, config=FEW)
    priors = draw_prior_images(context, "dog", photos())
    words, split = resolve_names(model, "dog", None, None), split_photos(list(map(as_photo, photos())), FEW)
    with trainable_kv_weights(model.denoiser) as params:
        objective, _ = prepare(context, params, words, split, priors)
        term, kept = objective.terms[-1], objective.frozen_targets["composites"]
        assert (term.name, term.weight, term.size, len(term.images)) == ("composites", 3.0, 2, 3)
        seed = objective.seed * 1_000_003 + 7 + len(objective.terms) - 1
        chosen = objective.pick(term, objective.num_frozen_targets, torch.Generator().manual_seed(seed))
        true = objective.draw(
            term, objective.num_frozen_targets, torch.Generator().manual_seed(seed), objective.timestep_range
        )
        specs, dog = [priors.composite_specs[int(row)] for row in chosen], [Subject("dog", words.phrase, ())]
        asked = [spec.instance_prompts(dog) for spec in specs]
        given = [phrasing_of(model, own, kept.conditioning.prompt_embeds[row]) for row, own in enumerate(asked)]
        plain = encode(model, [spec.prompts()[number] for spec, number in zip(specs, given, strict=True)])
        with torch.no_grad():
            answer = predict_noise(model, objective.schedule, kept.noisy_latents, kept.timesteps, plain)
    assert term.subject_mask is not None
    region = term.subject_mask[chosen]
    assert 0 < float(region.mean()) < 1
    inside, outside = (region == 1).expand_as(answer), (region == 0).expand_as(answer)
    assert torch.equal(kept.target[inside], true.target[inside])
    assert torch.allclose(kept.target[outside], answer[outside], atol=1e-5)
    assert not torch.allclose(kept.target[outside], true.target[outside], atol=1e-2)
    weights, area = kept.cell_weights, region.mean((1, 2, 3))
    assert torch.allclose(weights.mean((1, 2, 3)), torch.ones(len(kept)), atol=1e-5), "a picture counts as before"
    of_subjects = (weights * region).mean((1, 2, 3))
    soft = (region * (1 - region)).mean((1, 2, 3)) * weights.amax((1, 2, 3))  # edges are partly the subject's
    share = FEW.subject_share * (area / 0.02).clamp(max=1)
    assert bool((of_subjects + soft >= share - 1e-5).all()), "and the subject as nine tenths of it"
    assert torch.equal(true.cell_weights, weights)
    assert set(given) == {0, 1, 2}, "words have their meaning wherever they stand"


def phrasing_of(model: Model, prompts: list[str], embeds: torch.Tensor) -> int:
    """Which of the prompts was encoded to `embeds` (tokens, width); none fails."""
    return [torch.allclose(each, embeds, atol=1e-5) for each in encode(model, prompts).prompt_embeds].index(True)


def test_scenes_of_subjects_are_not_drawn_without_their_identifiers() -> None:
    """Half of the prompts have none; of the others half have strange ones, and half each subject that of the next."""
    pocket, config = Model.from_pretrained("pocket"), SearchConfig()
    rex, luna, cat = Subject("dog", "sks dog", ()), Subject("dog", "brz dog", ()), Subject("cat", "qyx cat", ())
    spec = CompositeSpec(("dog", "cup", "dog", "cat"), {0: 1, 2: 0, 3: 2})
    prompts = unbound_scene_prompts(pocket, [rex, luna, cat], config, spec)
    bare, turned = spec.prompts(), spec.prompts({0: "sks dog", 2: "qyx dog", 3: "brz cat"})
    counts = [sum(prompt in group for prompt in prompts) for group in (bare, turned)]
    assert counts == [len(prompts) // 2, len(prompts) // 4]
    strange = [prompt for prompt in prompts if prompt not in (*bare, *turned)]
    assert not any(word in prompt.split() for prompt in strange for word in ("sks", "brz", "qyx"))
    assert len({prompt.split()[-2] for prompt in strange}) > 4, "many identifiers"
    alone = unbound_scene_prompts(pocket, [cat], config, CompositeSpec(("cup", "cat"), {1: 0}))
    assert len(alone) == len(prompts) and "a cup and a qyx cat" not in alone
