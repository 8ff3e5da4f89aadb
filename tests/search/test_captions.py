"""Words for what photos show besides the subject: the model's own, and what becomes of them in a search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from conestool import find
from conestool.images.photos import Photo, as_photo
from conestool.models.model import Model
from conestool.search.config import Resources, SearchConfig
from conestool.search.context import SearchContext
from conestool.search.events import Event, LogEvent
from conestool.search.find import add_captions
from conestool.search.loss_terms import COMMON_BACKGROUNDS, background_phrases, caption_photos

SHORT: dict[str, Any] = {"num_class_images": 4, "other_class_weight": 0, "num_crops": 0, "method": "mask,steps=1"}


@pytest.fixture(scope="module")
def pocket() -> Model:
    return Model.from_pretrained("pocket")


def on(colour: str | tuple[int, int, int]) -> Photo:
    """A brown disc on a plain colour."""
    image = Image.new("RGB", (64, 64), colour)
    ImageDraw.Draw(image).ellipse((14, 14, 50, 50), fill=(125, 72, 32))
    return as_photo(image)


def test_pocket_recognises_plain_backgrounds(pocket: Model) -> None:
    """With less memory too; a caption that is given stays."""
    colours = {"red": (214, 30, 36), "green": (40, 160, 50)}
    photos = [*map(on, colours.values()), replace(on("red"), caption="on a sofa")]
    told = caption_photos(SearchContext(model=pocket), photos, "bear")
    assert [photo.caption for photo in told] == [*(f"on a {name} background" for name in colours), "on a sofa"]
    few = SearchContext(model=pocket, resources=Resources(micro_batch=1))
    assert caption_photos(few, photos[:1], "bear") == told[:1]


def test_phrases_are_the_models_own_or_common_ones(pocket: Model, epsilon_folder: Path) -> None:
    assert {"on the beach", "on an orange background"} <= set(background_phrases(pocket))
    assert background_phrases(Model.from_pretrained(str(epsilon_folder))) == list(COMMON_BACKGROUNDS)


def test_settings_say_where_captions_come_from(pocket: Model) -> None:
    events: list[Event] = []
    bare, given = on((214, 30, 36)), replace(on("blue"), caption="in a room")
    for captions, expected in {
        "auto": ["on a red background", "in a room"],
        "given": ["", "in a room"],
        "none": ["", ""],
    }.items():
        config = SearchConfig(captions=captions)
        context = SearchContext(model=pocket, config=config, callback=events.append)
        told = add_captions(context, [bare, given], "bear")
        assert [photo.caption for photo in told] == expected
    assert [event.text for event in events if isinstance(event, LogEvent)] == [
        "around the subject the model sees: on a red background"
    ]


def test_captions_change_what_is_found(epsilon_folder: Path) -> None:
    model, photos = Model.from_pretrained(str(epsilon_folder)), [on("red"), on("blue")]
    one, same, other = (
        find(model, [replace(p, caption=caption) for p in photos], "bear", config=SearchConfig(density=0.01, **SHORT))
        for caption in ("on the beach", "on the beach", "in the snow")
    )
    assert one["bear"].id == same["bear"].id != other["bear"].id
