"""Which pictures a search learns from, and what it calls the subject."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from conestool.images.photos import Photo, as_photo
from conestool.search.config import SearchConfig
from conestool.search.find import photo_warnings
from conestool.search.subject import (
    captioned_prompts,
    class_prompts,
    crops,
    instance_prompts,
    noun_warnings,
    split_photos,
)


def make_photos(count: int) -> list[Photo]:
    return [as_photo(Image.new("RGB", (60 + number, 50), (number, 0, 0))) for number in range(count)]


@pytest.mark.parametrize(("count", "held_out"), [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (9, 1)])
def test_one_of_four_or_more_photos_is_held_out(count: int, held_out: int) -> None:
    parts = split_photos(make_photos(count), SearchConfig(num_crops=2))
    assert parts.held_out == held_out
    assert len(parts.train) == 3 * (count - held_out)
    assert parts.validation


def test_held_out_photos_are_never_learned_from() -> None:
    """In whatever order they come, and never all of them."""
    photos, config = make_photos(5), SearchConfig(num_crops=0, num_validation_images=2)
    parts, turned = split_photos(photos, config), split_photos(photos[::-1], config)
    learned = {as_photo(image).sha256 for image in parts.train}
    reported = {as_photo(image).sha256 for image in parts.validation}
    assert len(reported) == 2 and not learned & reported
    assert learned | reported == {photo.sha256 for photo in photos}
    assert [image.tobytes() for image in parts.train] == [image.tobytes() for image in turned.train]
    assert len(split_photos(make_photos(3), SearchConfig(num_crops=0, num_validation_images=9)).train) == 1


def test_crops_keep_at_least_four_fifths_of_each_side_and_repeat_by_seed() -> None:
    (photo,) = make_photos(1)
    first, again, other = crops(photo, 5, 1), crops(photo, 5, 1), crops(photo, 5, 2)
    assert [c.size for c in first] == [c.size for c in again]
    assert [c.size for c in first] != [c.size for c in other]
    assert all(c.width >= 48 and c.height >= 40 for c in first)


def test_a_crop_has_the_caption_of_its_photo() -> None:
    photos = [replace(photo, caption=f"number {place}") for place, photo in enumerate(make_photos(3))]
    parts = split_photos(photos, SearchConfig(num_crops=2, num_validation_images=0))
    assert len(parts.captions) == len(parts.train) == 9
    reds = {image.getpixel((0, 0)): caption for image, caption in zip(parts.train, parts.captions, strict=True)}
    assert reds == {(place, 0, 0): f"number {place}" for place in range(3)}


def test_a_caption_stands_behind_the_prompts_or_is_the_prompt_if_it_names_the_noun() -> None:
    assert instance_prompts("sks dog")[0] == "a photo of a sks dog" and class_prompts("owl")[0] == "a photo of an owl"
    prompts = instance_prompts("sks owl")
    assert captioned_prompts(prompts, "sks owl", "owl", "") == prompts
    assert captioned_prompts(prompts, "sks owl", "owl", "on a table")[0] == "a photo of a sks owl on a table"
    own = captioned_prompts(prompts, "sks owl", "owl", "An owl beside another owl")
    assert own == ["a sks owl beside another owl"] * len(prompts)
    assert captioned_prompts(prompts, "sks owl", "owl", "my brown Owl")[0] == "my brown sks owl"
    assert captioned_prompts(prompts, "owl", "owl", "an owl in a fowl house")[0] == "an owl in a fowl house"


@pytest.mark.parametrize(("count", "begins"), [(1, "one photo only"), (2, "2 photos only"), (3, ""), (5, "")])
def test_few_photos_are_warned_of(count: int, begins: str) -> None:
    """They share their background."""
    assert "".join(photo_warnings(make_photos(count))).startswith(begins)
    assert len(photo_warnings(make_photos(count))) == bool(begins)


@pytest.mark.parametrize(
    ("noun", "known"),
    [("dog", True), ("Dog", True), ("red dog", True), ("hat", True), ("top hat", True), ("zebra", False)],
)
def test_a_noun_that_the_model_was_not_made_to_draw_is_warned_of(noun: str, known: bool) -> None:
    """By the lists of its folder; a model without lists, as most are, says nothing."""
    settings = {"objects": ["dog", "cat"], "wearables": ["top hat"]}
    told = noun_warnings(settings, noun)
    assert (told == []) is known
    assert known or ("'zebra'" in told[0] and "dog, cat, top hat" in told[0])
    assert noun_warnings({}, noun) == []
