"""`find` on a small random pipeline: what it records, restores, resumes and refuses."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from conestool._layers import is_cross
from conestool.concept import Cone, Losses
from conestool.errors import PhotoError, UsageError
from conestool.format import dumps
from conestool.images.photos import as_photo
from conestool.models.model import Model
from conestool.models.prompts import identifiers
from conestool.search.batches import Batch
from conestool.search.config import SearchConfig
from conestool.search.context import SearchContext
from conestool.search.events import Event, LogEvent, Progress
from conestool.search.find import find, resolve_names
from conestool.search.loss_terms import SubjectPrompts, prepare, unbound_prompts
from conestool.search.memory import search_mode
from conestool.search.prior_images import draw_prior_images
from conestool.search.report import quality_warnings
from conestool.search.subject import split_photos
from tests.support.searches import quick

EXAMPLES = Path(__file__).parents[2] / "examples" / "openmoji"


@pytest.fixture(scope="module")
def model(v_folder: Path) -> Model:
    return Model.from_pretrained(str(v_folder))


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    return [Image.open(EXAMPLES / "dog" / f"{number}.jpg") for number in range(1, 6)]


@pytest.fixture(autouse=True)
def own_cache(shared_cache: Path, few_probes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONES_CACHE", str(shared_cache))


def search(
    model: Model,
    photos: list[Image.Image],
    method: str = "mask",
    steps: int = 6,
    *,
    density: float | None = None,
    whole: bool = False,
    **options: Any,
) -> Cone:
    """A short search; `whole` with what takes most of its time: words for the photos, and pictures of other things."""
    more = {"other_class_weight": 1.0, "captions": "auto"} if whole else {}
    return find(model, photos, "dog", config=quick(method, steps, density=density, num_crops=1, **more), **options)


def test_find_fills_in_the_whole_origin(model: Model, photos: list[Image.Image]) -> None:
    (concept,) = search(model, photos, method="taylor", density=0.02, identifier="sks").concepts
    origin = concept.origin
    assert (concept.name, concept.class_noun, concept.identifier) == ("dog", "dog", "sks")
    assert (origin.instance_prompt, origin.class_prompt) == ("a photo of a sks dog", "a photo of a dog")
    assert (origin.method, origin.seed, origin.held_out, len(origin.photos)) == ("taylor", 0, 1, 5)
    assert origin.parameters["steps"] == 6
    assert origin.parameters["density_rule"] == "given"
    assert origin.losses is not None
    assert None not in origin.losses.model_dump().values()
    assert 0 < concept.density < 0.0201


def test_the_base_model_is_the_one_before_the_search(model: Model, photos: list[Image.Image]) -> None:
    """Also where its identity is read from weights in memory, which the search has zeroed by the end."""
    concept = search(Model.from_pipeline(model.pipe), photos, steps=1, method="taylor")["dog"]
    assert concept.base == Model.from_pipeline(model.pipe).info
    assert concept.origin.parameters["density_rule"] == "loss" and concept.neurons > 0


def test_the_same_seed_gives_the_same_file(model: Model, photos: list[Image.Image]) -> None:
    first, second = (search(model, given, whole=True) for given in (photos, list(reversed(photos))))
    assert dumps(first) == dumps(second)


def test_resumed_search_gives_the_same_file(model: Model, photos: list[Image.Image], tmp_path: Path) -> None:
    """With other photos or class images it is refused."""

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "search" and event.done == 3:
            signal.raise_signal(signal.SIGINT)

    state = tmp_path / "dog.cone.state"
    with pytest.raises(KeyboardInterrupt):
        search(model, photos, checkpoint_path=state, callback=stop)
    for given, others in ((photos[:4], None), (photos, photos[:4])):
        with pytest.raises(UsageError, match="other photos, settings or base model"):
            search(model, given, checkpoint_path=state, resume_from_checkpoint=True, class_images=others)
    seen: list[Event] = []
    resumed = search(model, photos, checkpoint_path=state, resume_from_checkpoint=True, callback=seen.append)
    assert LogEvent("resumed after step 3 of 6") in seen
    assert dumps(resumed) == dumps(search(model, photos))


def test_one_photo_works_and_warns(model: Model, photos: list[Image.Image]) -> None:
    seen: list[Event] = []
    concept = search(model, photos[:1], callback=seen.append)["dog"]
    assert any(isinstance(event, LogEvent) and event.warning and "one photo" in event.text for event in seen)
    assert concept.origin.held_out == 0
    with pytest.raises(PhotoError, match="no photos"):
        search(model, [])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"held_out_before": 1.0, "held_out_after": 0.99, "random_after": 1.0}, "no better than random"),
        ({"held_out_before": 1.0, "held_out_after": 0.7, "random_after": 0.69}, "no better than random"),
        ({"class_before": 1.0, "class_after": 1.5}, "the class itself changed"),
    ],
)
def test_doubtful_results_are_named(values: dict[str, float], words: str) -> None:
    good = {"held_out_before": 1.0, "held_out_after": 0.8, "random_after": 1.0, "class_before": 1.0, "class_after": 1.0}
    assert not quality_warnings(Losses(**good))
    (warning,) = quality_warnings(Losses(**{**good, **values}))
    assert words in warning


@pytest.mark.parametrize(
    "wrong",
    [
        {"density": 0.0},
        {"density": 1.5},
        {"batch_size": 0},
        {"prior_loss_weight": -1.0},
        {"num_validation_images": -1},
        {"timestep_range": (0.8, 0.8)},
        {"num_negative_identifiers": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SearchConfig(**wrong)


def test_a_search_that_cannot_be_saved_goes_on(
    model: Model, photos: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a warning: the disk may have room again by the end."""
    monkeypatch.setattr("conestool.search.loop.SAVE_SECONDS", -1.0)
    events: list[Event] = []
    state = tmp_path / "nowhere" / "dog.cone.checkpoint"
    search(model, photos, steps=2, density=0.1, callback=events.append, checkpoint_path=state)
    warnings = [event.text for event in events if isinstance(event, LogEvent) and event.warning]
    assert any("continues unsaved" in text and "nowhere" in text for text in warnings)


def test_cross_attention_is_searched_unless_all_is_asked_for(model: Model, photos: list[Image.Image]) -> None:
    """And a density is of all K/V weights, whichever are searched."""
    found = [find(model, photos, "dog", config=quick("taylor", 2, layers=layers))["dog"] for layers in ("cross", "all")]
    assert [all(is_cross(name) for name in concept.indices) for concept in found] == [True, False]
    assert [concept.density for concept in found] == pytest.approx([0.02, 0.02], rel=0.01)
    with pytest.raises(UsageError, match="cross, all"):
        SearchConfig(layers="self")


def test_the_subject_s_cells_have_their_share_of_a_photo_s_loss(model: Model, photos: list[Image.Image]) -> None:
    """On photos with and without the identifier; pictures of the class, and photos where 0 is asked, count evenly."""

    def drawn(share: float) -> tuple[Tensor | None, list[Batch]]:
        config = quick(num_crops=1, subject_share=share)
        context, split = SearchContext(model=model, config=config), split_photos([as_photo(p) for p in photos], config)
        subject, priors = resolve_names(model, "dog", None, None), draw_prior_images(context, "dog", photos)
        with search_mode(model, context.resources) as params:
            objective, _ = prepare(context, params, subject, split, priors)
            assert [term.name for term in objective.terms] == ["instance", "class", "unbound"]
            draws = [objective.draw(each, 8, torch.Generator().manual_seed(0), (0.0, 1.0)) for each in objective.terms]
        return objective.terms[0].subject_mask, draws

    masks, (instance, of_class, unbound) = drawn(0.9)
    assert masks is not None and len(masks) == 8 and 0 < float(masks.mean()) < 0.9
    for batch in (instance, unbound):
        assert torch.allclose(batch.cell_weights.mean((1, 2, 3)), torch.ones(8), atol=1e-5)
        most = batch.cell_weights.amax((1, 2, 3), keepdim=True)
        assert torch.allclose((batch.cell_weights * (batch.cell_weights == most)).mean((1, 2, 3)), torch.tensor(0.9))
    assert bool((of_class.cell_weights == 1).all())
    assert all(bool((batch.cell_weights == 1).all()) for batch in drawn(0.0)[1])


def test_half_of_the_unbound_prompts_name_no_identifier_and_half_another_one() -> None:
    """The subject's own identifier is in none, the others are as many as asked for, and a seed draws the same."""
    model = Model.from_pretrained("pocket")
    words = SubjectPrompts(name="dog", class_noun="dog", identifier="sks")
    config = SearchConfig(num_negative_identifiers=5)
    prompts = unbound_prompts(model, words, config, "on the beach")
    bare = [prompt for prompt in prompts if prompt.removesuffix(" on the beach") in words.class_prompts]
    assert all(prompt.endswith(" on the beach") for prompt in prompts)
    negatives = {prompt.split()[-5] for prompt in prompts} & set(identifiers(model))
    assert len(bare) * 2 == len(prompts)
    assert len(negatives) == 5
    assert "sks" not in negatives
    assert prompts == unbound_prompts(model, words, config, "on the beach")
    assert set(unbound_prompts(model, words, SearchConfig(num_negative_identifiers=0), "")) == set(words.class_prompts)
