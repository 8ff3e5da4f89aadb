"""Samplers: every one that is offered draws, repeatably, and is what A1111 calls by that name."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, PNDMScheduler

from conestool.errors import UsageError
from conestool.models.loading import pocket_folder
from conestool.models.model import Model
from conestool.rendering import render, replay
from conestool.rendering.schedulers import SAMPLERS, a1111_name, find_sampler
from tests.support.model_files import FAMILIES

A1111 = {
    *("Euler", "Euler Karras", "Euler a", "Heun", "Heun Karras", "LMS", "LMS Karras", "DDIM", "PLMS", "LCM"),
    *("DPM2", "DPM2 Karras", "DPM2 a", "DPM2 a Karras", "UniPC", "UniPC Karras"),
    *("DPM++ 2M", "DPM++ 2M Karras", "DPM++ 2M SDE", "DPM++ 2M SDE Karras"),
}
"""Its names, those of a sampler and a schedule type together as it reads them from a picture."""


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small model that learned a flow."""
    place = tmp_path_factory.mktemp("flow")
    return Model.from_pipeline(FAMILIES["sd3"](place))


def test_every_sampler_draws_a_picture_that_can_be_repeated(model: Model, flow: Model) -> None:
    """Whatever noise it draws on the way; one whose package is missing names it."""
    for sampler in SAMPLERS:
        base = flow if sampler.flow else model
        if sampler.package and not importlib.util.find_spec(sampler.package):
            with pytest.raises(UsageError, match="needs a package") as caught:
                render(base, "a dog", scheduler=sampler.name)
            assert caught.value.hint == f"pip install {sampler.package}"
            continue
        (one,) = render(base, "a dog", scheduler=sampler.name, steps=4)
        again = replay(base, one.record)
        assert again.image.tobytes() == one.image.tobytes(), sampler
        assert again.record == one.record
        assert one.record["sampler"] == (sampler.name if sampler.known else None)
        assert len(one.image.getcolors(1 << 16) or []) > 8, sampler


@pytest.mark.parametrize("name", ["DPM++ 2M Karras", "Euler Karras", "DPM2 a Karras"])
def test_steps_that_round_to_one_timestep_are_all_taken(model: Model, name: str) -> None:
    """Pocket's noise ends so steeply that the first steps by Karras fall together: diffusers would run off the end."""
    before = model.pipe.scheduler
    model.pipe.scheduler = DDPMScheduler.from_pretrained(pocket_folder() / "scheduler")
    try:
        (one,) = render(model, "a dog", scheduler=name, steps=25)
        assert len(one.image.getcolors(1 << 16) or []) > 8
        assert "set_timesteps" not in vars(model.pipe.scheduler)
    finally:
        model.pipe.scheduler = before


def test_names_that_a1111_has_are_its_own() -> None:
    """Each once for a kind of model."""
    assert {sampler.name for sampler in SAMPLERS if sampler.known} == A1111
    names = [(sampler.name, sampler.flow) for sampler in SAMPLERS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("dpmpp_2m", "DPM++ 2M"),
        ("k_dpmpp_2m_karras", "DPM++ 2M Karras"),
        ("DPM++ 2M SDE Karras", "DPM++ 2M SDE Karras"),
        ("euler_a", "Euler a"),
        ("EulerDiscreteScheduler", "Euler"),
        ("eulerdiscrete", "Euler"),
        ("PNDM", "PLMS"),
        ("ddim", "DDIM"),
    ],
)
def test_spellings_of_a_name(typed: str, name: str) -> None:
    """Those of A1111, its older options, ComfyUI and diffusers."""
    assert find_sampler(typed, flow=False).name == name


@pytest.mark.parametrize("name", ["NoSuch", "UNet2DConditionModel", "UnCLIPScheduler", "DDIMInverse", ""])
def test_what_does_not_draw_is_refused_with_what_does(name: str) -> None:
    """Classes of diffusers that are made for something else among them."""
    with pytest.raises(UsageError, match="is not known, or does not draw") as caught:
        find_sampler(name, flow=False)
    assert "DPM++ 2M Karras" in str(caught.value.hint) and "FlowMatch" not in str(caught.value.hint)


def test_a_model_keeps_to_its_kind_of_noise(model: Model) -> None:
    """Euler is another scheduler for a flow."""
    assert find_sampler("Euler", flow=True).kind == "FlowMatchEulerDiscrete"
    with pytest.raises(UsageError, match="another kind of noise"):
        render(model, "a dog", scheduler="FlowMatchEulerDiscrete")
    with pytest.raises(UsageError, match="another kind of noise"):
        find_sampler("DDIM", flow=True)


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        (PNDMScheduler, {"skip_prk_steps": True}, "PLMS"),
        (PNDMScheduler, {"skip_prk_steps": False}, None),
        (DPMSolverMultistepScheduler, {}, "DPM++ 2M"),
        (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}, "DPM++ 2M Karras"),
        (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}, "DPM++ 2M SDE"),
        (DPMSolverMultistepScheduler, {"use_exponential_sigmas": True}, None),
    ],
)
def test_a_models_own_scheduler_is_known_by_its_settings(kind: Any, options: dict[str, Any], name: str | None) -> None:
    """None where A1111 has no name for them, and no wrong one."""
    assert a1111_name(kind(**options)) == name


def test_the_own_scheduler_stays_with_its_settings(model: Model) -> None:
    """Asked for by its class it is not replaced; A1111's name for other settings replaces it, and it comes back."""
    own = DPMSolverMultistepScheduler.from_config(model.pipe.scheduler.config, use_karras_sigmas=True)
    before, model.pipe.scheduler = model.pipe.scheduler, own
    try:
        records = [
            render(model, "a dog", scheduler=name)[0].record
            for name in (None, "DPMSolverMultistep", "DPM++ 2M Karras", "DPM++ 2M")
        ]
        kinds = ["DPMSolverMultistepScheduler"] * 3 + ["DPM++ 2M"]
        assert [record["scheduler"] for record in records] == kinds
        assert [record["sampler"] for record in records] == ["DPM++ 2M Karras"] * 3 + ["DPM++ 2M"]
        assert model.pipe.scheduler is own
        assert replay(model, records[3]).record == records[3]
    finally:
        model.pipe.scheduler = before
