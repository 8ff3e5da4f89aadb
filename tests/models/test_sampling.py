"""Sampling and class images: a seed is a picture, a cache is only a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from conestool.errors import UsageError
from conestool.images.class_images import class_images
from conestool.models.model import Model
from conestool.models.sampling import initial_noise, sample


def test_a_seed_is_the_picture_that_diffusers_draws(model: Model) -> None:
    """The same as calling the pipeline with a CPU generator of that seed."""
    [image] = sample(model, ["a dog"], [5], steps=3, guidance=2.0)
    generator = torch.Generator("cpu").manual_seed(5)
    arguments = {"num_inference_steps": 3, "guidance_scale": 2.0, "height": 32, "width": 32}
    expected = model.pipe("a dog", negative_prompt="", generator=generator, **arguments).images[0]
    assert image.tobytes() == expected.tobytes() and image.size == (32, 32)


def test_noise_is_the_same_in_every_dtype_and_batch(epsilon_folder: Path, model: Model) -> None:
    """It is drawn in fp32 on the CPU, picture by picture."""

    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    noise = initial_noise(model, generators(1, 2), (32, 48))
    assert noise.shape == (2, 4, 12, 8)
    assert torch.equal(noise[1:], initial_noise(model, generators(2), (32, 48)))
    half = initial_noise(Model.from_pretrained(str(epsilon_folder), dtype="bfloat16"), generators(1, 2), (32, 48))
    assert torch.equal(half, noise.bfloat16())


def test_batches_draw_the_same_pictures(model: Model) -> None:
    """Up to the last bits of arithmetic; progress counts pictures."""
    prompts, seeds, seen = ["a dog", "a hat", "a red cat"], [0, 1, 2], []
    one = sample(model, prompts, seeds)
    two = sample(model, prompts, seeds, batch=2, progress=lambda *pair: seen.append(pair))
    for a, b in zip(one, two, strict=True):
        assert np.asarray(ImageChops.difference(a, b)).max() <= 1
    assert seen == [(2, 3), (3, 3)]


def test_prompt_negative_steps_and_guidance_matter(model: Model) -> None:
    """None of them is dropped on the way."""
    pictures = [
        sample(model, ["a dog"], [0], **settings)[0].tobytes()
        for settings in ({}, {"negative": "a red hat"}, {"steps": 2}, {"guidance": 1.0}, {"guidance": 9.0})
    ]
    pictures.append(sample(model, ["a hat"], [0])[0].tobytes())
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("size", [(30, 32), (32, 0), (4, 4)])
def test_refuses_sizes_that_the_model_cannot_draw(model: Model, size: tuple[int, int]) -> None:
    """Before any work."""
    with pytest.raises(UsageError, match=f"size {size[0]}x{size[1]}"):
        sample(model, ["a dog"], [0], size=size)


def test_class_images_are_drawn_once(model: Model, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call draws what is missing; the pictures do not depend on how many; lost or damaged ones come back."""
    calls: list[int] = []

    def counted(*arguments: Any, **options: Any) -> list[Image.Image]:
        calls.append(1)
        return sample(*arguments, **options)

    monkeypatch.setattr("conestool.images.class_images.sample", counted)

    def drawn(count: int) -> list[bytes]:
        return [image.tobytes() for image in class_images(model, "a photo of a dog", count)]

    three = drawn(3)
    assert len(calls) == 1 and len(list(own_cache.rglob("*.png"))) == 8
    twelve = drawn(12)
    assert len(calls) == 2 and twelve[:3] == three
    files = sorted(own_cache.rglob("*.png"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:50])
    assert drawn(12) == twelve


def test_several_prompts_take_turns(model: Model, own_cache: Path) -> None:
    """Picture k is that of prompt k alone, of as many as there are, and then from the first again."""
    prompts = ["a photo of a dog", "a photo of a cat", "a car"]
    mixed = class_images(model, prompts, 8)
    for number, image in enumerate(mixed):
        alone = class_images(model, prompts[number % 3], 8)[number]
        assert np.abs(np.asarray(image, int) - np.asarray(alone, int)).max() <= 1


def test_class_images_differ_by_prompt_seed_and_model(model: Model, v_folder: Path) -> None:
    """None of them shares a cache entry with another."""
    other = Model.from_pretrained(str(v_folder))
    ask = [(model, "a dog", 0), (model, "a cat", 0), (model, "a dog", 1), (other, "a dog", 0)]
    pictures = {class_images(each, prompt, 1, seed)[0].tobytes() for each, prompt, seed in ask}
    assert len(pictures) == 4
