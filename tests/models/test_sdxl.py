"""Stable Diffusion XL: two encoders, pooled text, and a denoiser that is told how its pictures were framed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from conestool.errors import ModelLoadError
from conestool.images.photos import to_latents
from conestool.models.conditioning import MicroConditioning
from conestool.models.model import Model
from conestool.models.prompts import encode
from conestool.models.sampling import sample
from conestool.search.config import SearchConfig
from conestool.search.find import find
from tests.support.ldm_writer import save_original
from tests.support.model_files import sdxl
from tests.support.tiny_models import save


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small random SDXL."""
    place = tmp_path_factory.mktemp("sdxl")
    return Model.from_pretrained(str(save(sdxl(place), place / "model")))


def told(model: Model, act: Any) -> list[dict[str, Tensor]]:
    """What the U-Net is told besides latents while `act()` runs, one dict per call."""
    calls: list[dict[str, Tensor]] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        calls.append({"embeds": kwargs["encoder_hidden_states"], **kwargs["added_cond_kwargs"]})

    hook = model.denoiser.register_forward_pre_hook(note, with_kwargs=True)
    try:
        act()
    finally:
        hook.remove()
    return calls


def test_a_prompt_is_what_the_pipeline_makes_of_it(model: Model) -> None:
    """The denoiser gets in `find` exactly what diffusers' own pipeline gives it for a whole picture of that size."""
    assert (model.family.name, model.defaults.size) == ("stable-diffusion-xl", 32)
    theirs = told(model, lambda: sample(model, ["a sks dog"], [0], steps=1, guidance=1.0))[0]
    ours = encode(model, ["a sks dog"])
    assert ours.added_cond_kwargs.keys() == {"text_embeds", "time_ids"}
    for key, value in {"embeds": ours.prompt_embeds, **ours.added_cond_kwargs}.items():
        assert torch.equal(theirs[key], value), key
    assert ours.prompt_embeds.shape[-1] == 16 + 24 and ours.added_cond_kwargs["time_ids"].tolist() == [
        [32, 32, 0, 0, 32, 32]
    ]


def test_an_empty_negative_prompt_is_none(model: Model) -> None:
    """As the model was trained: zeros, where the encoding of "" would draw another picture."""
    settings: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 5.0, "height": 32, "width": 32}
    drawn = []
    for negative in (None, ""):
        generator = torch.Generator("cpu").manual_seed(3)
        drawn.append(model.pipe("a dog", negative_prompt=negative, generator=generator, **settings).images[0].tobytes())
    ours = sample(model, ["a dog"], [3], steps=2, guidance=5.0)[0].tobytes()
    assert ours == drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((60, 40), (40, 60, 0, 8)), ((40, 60), (60, 40, 8, 0)), ((32, 32), (32, 32, 0, 0)), ((16, 8), (8, 16, 0, 16))],
    ids=["wide", "tall", "square", "enlarged"],
)
def test_a_frame_is_the_centre_square(model: Model, size: tuple[int, int], expected: tuple[int, ...]) -> None:
    """Original height and width; top and left after resizing; what is drawn. By hand: 60x40 becomes 48x32, 8 too wide
    on either side."""
    rows = model.family.micro_conditioning(model.pipe, [MicroConditioning.centre_crop(size, 32)])["time_ids"].tolist()
    assert rows == [[*expected, 32, 32]]


def test_find_tells_how_each_photo_was_framed(model: Model) -> None:
    """Photos by their own sizes, class images by theirs; none as if it had been whole."""
    photos = [Image.new("RGB", (60, 40), "teal"), Image.new("RGB", (40, 80), "red")]
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("navy", "gold")]
    settings = SearchConfig(
        method="taylor,steps=2",
        density=0.02,
        prior_loss_weight=0,
        other_class_weight=0,
        batch_size=2,
        num_crops=0,
        num_validation_images=0,
    )
    calls = told(model, lambda: find(model, photos, "dog", config=settings, class_images=pictures))
    seen = {tuple(int(value) for value in row) for call in calls for row in call["time_ids"].tolist()}
    assert {(40, 60, 0, 8, 32, 32), (80, 40, 16, 0, 32, 32), (32, 32, 0, 0, 32, 32)} <= seen


def test_a_float16_autoencoder_computes_in_float32_and_stays_float16(model: Model) -> None:
    """SDXL's overflows in float16, as its configuration says."""
    image = [Image.new("RGB", (32, 32), "teal")]
    before = to_latents(model, image)
    vae = model.pipe.vae.half()
    try:
        latents = to_latents(model, image)
        assert vae.dtype == torch.float16 and latents.dtype == torch.float32
        assert torch.allclose(latents, before, atol=1e-3) and vae.config.force_upcast
    finally:
        vae.float()


def test_a_single_file_with_the_configuration_of_another_family(model: Model, tmp_path: Path, v_folder: Path) -> None:
    """It says what the file is, and what the configuration is."""
    file = save_original(model.pipe, tmp_path / "xl.safetensors")
    with pytest.raises(ModelLoadError, match="it holds stable-diffusion-xl, and its configuration") as caught:
        Model.from_pretrained(str(file), config=str(v_folder))
    assert "--config" in str(caught.value.hint)
