"""PixArt, SD3 and Flux: what `find` tells their transformers is what diffusers' own pipelines tell them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conestool.apply import apply_cones
from conestool.errors import ModelLoadError, UsageError
from conestool.images.photos import to_latents
from conestool.models.conditioning import MicroConditioning
from conestool.models.dit import pack_latents, unpack_latents
from conestool.models.kv_weights import kv_weights
from conestool.models.model import Model
from conestool.models.noise_schedule import predict_noise, schedule_of
from conestool.models.prompts import encode, identifiers, is_one_token, micro_conditioning, truncated_text
from conestool.models.sampling import initial_noise, sample
from conestool.rendering import render
from tests.support.model_files import FAMILIES, VARIANTS
from tests.support.tiny_models import random_cone, save

KINDS = {name: FAMILIES[name] for name in ("pixart", "sd3", "flux")} | VARIANTS


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small random model of each family with a transformer."""
    place = tmp_path_factory.mktemp(request.param)
    return Model.from_pretrained(str(save(KINDS[request.param](place), place / "model")))


def calls_of(model: Model, act: Any) -> list[tuple[dict[str, Any], Tensor]]:
    """What the transformer is told while `act()` runs, latents as `hidden_states`, and what it answers."""
    calls: list[tuple[dict[str, Any], Tensor]] = []

    def note(_module: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        told = dict(kwargs) | ({"hidden_states": args[0]} if args else {})
        told |= told.pop("added_cond_kwargs", {})
        calls.append((told, out[0]))

    hook = model.denoiser.register_forward_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            act()
    finally:
        hook.remove()
    return calls


def test_a_search_asks_what_the_pipeline_asks(model: Model) -> None:
    """Same prompt, noise and time: every argument of the transformer is equal, and so is its answer."""
    (theirs, answer), _ = calls_of(model, lambda: sample(model, ["a sks dog"], [5], steps=2, guidance=1.0))
    schedule, noise = schedule_of(model), initial_noise(model, [torch.Generator().manual_seed(5)], (32, 32))
    last = torch.tensor([len(schedule) - 1])
    at: dict[str, Any] = {"model": model, "schedule": schedule, "noisy_latents": noise, "t": last}
    ours: list[Tensor] = []
    [(told, _)] = calls_of(model, lambda: ours.append(predict_noise(**at, cond=encode(model, ["a sks dog"]))))
    for name, value in theirs.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(told[name].float(), value.float(), rtol=0, atol=0, msg=name)
        else:
            assert told.get(name) in (value, None), name
    whole = unpack_latents(answer, 8, 8) if model.family.name == "flux" else answer
    assert torch.equal(ours[0], whole[:, : noise.shape[1]]) and ours[0].shape == noise.shape


def test_which_weights_count_and_come_back(model: Model) -> None:
    """K and V of self- and cross-attention; of both streams of joint attention, and of both kinds of block.

    Applied at a strength, every one of them differs; afterwards every bit is back.
    """
    weights = kv_weights(model.denoiser)
    parts = {name.rsplit(".", 2)[1] for name in weights}
    joint = model.family.name != "pixart"
    assert parts == {"to_k", "to_v"} | ({"add_k_proj", "add_v_proj"} if joint else set())
    assert len(weights) == {"pixart": 2 * 2 * 2, "stable-diffusion-3": 2 * 4 + 2, "flux": 4 + 2 * 2}[model.family.name]
    cross = {name.rsplit(".", 2)[1] for name in kv_weights(model.denoiser, "cross")}
    assert cross == ({"add_k_proj", "add_v_proj"} if joint else {"to_k", "to_v"})
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    with apply_cones(model, random_cone(model, density=0.1), strength=0.7):
        assert not any(torch.equal(weight, before[name]) for name, weight in weights.items())
    assert all(torch.equal(weight, before[name]) for name, weight in weights.items())


def test_latents_are_what_the_pipeline_decodes(model: Model) -> None:
    """By hand: the posterior's mode, minus the shift, times the scale; decoding takes both back."""
    image = Image.new("RGB", (32, 32), (200, 40, 90))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    vae = model.pipe.vae
    with torch.no_grad():
        mode = vae.encode(pixels).latent_dist.mode()
    expected = (mode - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    torch.testing.assert_close(to_latents(model, [image]), expected, rtol=1e-3, atol=1e-3)


def test_the_flow_is_shifted_as_the_sampler_shifts_it(model: Model) -> None:
    """Every sigma of training is one that the scheduler itself makes for pictures of this size; the rest is DDPM's."""
    schedule, scheduler = schedule_of(model), model.pipe.scheduler
    if model.family.name == "pixart":
        assert schedule.prediction == "epsilon" and torch.equal(schedule.alphas, scheduler.alphas_cumprod.sqrt())
        return
    mu = {"mu": 0.5 + (1.15 - 0.5) * (16 - 256) / (4096 - 256)} if scheduler.config.use_dynamic_shifting else {}
    scheduler = type(scheduler).from_config(scheduler.config)
    scheduler.set_timesteps(sigmas=list(np.linspace(1.0, 1 / 1000, 1000)), **mu)
    torch.testing.assert_close(schedule.sigmas, scheduler.sigmas[:-1].flip(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(schedule.timesteps, scheduler.timesteps.flip(0), rtol=1e-5, atol=1e-3)
    z, eps, t = torch.ones(1, 16, 2, 2), torch.full((1, 16, 2, 2), 3.0), torch.tensor([499])
    assert schedule.prediction == "flow" and bool((schedule.target(z, eps, t) == 2).all())


def test_defaults_are_those_of_the_family(model: Model) -> None:
    """Steps, guidance and size, where the folder does not say otherwise; Flux's transformer does not know its size."""
    before = Model.from_pipeline(model.pipe).defaults
    expected = {
        "PixArtAlpha": (20, 4.5, 128 * 4),
        "PixArtSigma": (20, 4.5, 128 * 4),
        "StableDiffusion3": (28, 7.0, 8 * 4),
        "Flux": (28, 3.5, 128 * 4),
        "FluxSchnell": (4, 0.0, 128 * 4),
    }[type(model.family).__name__]
    plain = Model.from_pipeline(type(model.pipe)(**model.pipe.components)).defaults
    assert (before.steps, before.guidance, before.size) == (4, 3.0, 32)  # as the folder's pocket.json says
    assert (plain.steps, plain.guidance, plain.size) == expected


def test_long_prompts_are_cut_where_t5_stops(model: Model) -> None:
    """A hundred words are more than CLIP reads and less than T5; six hundred are too many for both."""
    assert truncated_text(model, "dog " * 100) == ""
    assert truncated_text(model, "dog " * 600).split() == ["dog"] * (
        600 - model.family.length_limits(model.pipe)[0][1] + 1
    )


def test_identifiers_are_single_tokens_for_every_encoder(model: Model) -> None:
    """Also in T5's vocabulary, whose words begin with a mark."""
    words = identifiers(model)
    assert "sks" in words and all(is_one_token(model, word) for word in words)
    assert not is_one_token(model, "cthulhu")


def test_refuses_what_its_pipeline_would_round_ignore_or_fail_at(model: Model) -> None:
    """Sizes that are no multiples of a patch, samplers of another kind of noise, and what one family lacks."""
    with pytest.raises(UsageError, match="multiples of 8"):
        sample(model, ["a dog"], [0], size=(36, 32))
    assert sample(model, ["a dog"], [0], steps=2, guidance=1.0, size=(40, 32))[0].size == (40, 32)
    other = "FlowMatchEulerDiscrete" if model.family.name == "pixart" else "DDIM"
    with pytest.raises(UsageError, match="another kind of noise"):
        render(model, ["a dog"], scheduler=other)
    if type(model.family).__name__ == "PixArtAlpha":
        with pytest.raises(UsageError, match="one step"):
            sample(model, ["a dog"], [0], steps=1)
    if model.family.name == "flux":
        with pytest.raises(UsageError, match="no negative prompt"):
            sample(model, ["a dog"], [0], negative="blur")


@pytest.mark.parametrize("model", ["pixart"], indirect=True)
def test_alpha_is_told_how_photos_were_framed(model: Model) -> None:
    """Its own height and width, and the ratio of the square that is shown."""
    told = micro_conditioning(model, [MicroConditioning.centre_crop((60, 40), 32), MicroConditioning.uncropped(32)])
    assert told["resolution"].tolist() == [[40, 60], [32, 32]] and told["aspect_ratio"].tolist() == [[1], [1]]


@pytest.mark.parametrize("model", ["sd3"], indirect=True)
def test_sd3_without_t5(model: Model) -> None:
    """Then CLIP limits the prompt, and the denoiser gets zeros in T5's place, as from the pipeline."""
    pipe = type(model.pipe)(**model.pipe.components | {"text_encoder_3": None, "tokenizer_3": None})
    small = Model.from_pipeline(pipe)
    assert small.family is model.family and len(truncated_text(small, "dog " * 100).split()) == 100 - 22
    embeds = encode(small, ["a dog"]).prompt_embeds
    assert not embeds[:, 24:].any() and embeds[:, :24].any()


def test_packing_is_undone() -> None:
    """A patch holds two by two neighbours of every channel; by hand for the second patch."""
    latents = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    patches = pack_latents(latents)
    assert torch.equal(unpack_latents(patches, 4, 6), latents) and patches.shape == (2, 6, 12)
    assert patches[0, 1].tolist() == latents[0, :, :2, 2:4].reshape(-1).tolist()


def test_a_transformer_with_a_picture_beside_the_latents_is_refused(tmp_path: Path) -> None:
    """Such as Flux Fill: its concepts would have to be sought with a mask."""
    pipe = FAMILIES["flux"](tmp_path)
    pipe.transformer.register_to_config(in_channels=96 * 4)
    with pytest.raises(ModelLoadError, match="known family"):
        Model.from_pipeline(pipe)
