"""A dry run: it leaves all as it was, and what it says is near what a search takes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conestool.images.photos import as_photo
from conestool.models.memory import peak_memory
from conestool.models.model import Model
from conestool.search.config import Resources
from conestool.search.context import SearchContext
from conestool.search.loss_terms import SubjectPrompts
from conestool.search.memory import dry_run
from conestool.search.methods import METHODS
from tests.support.command_line import environment
from tests.support.model_files import FAMILIES
from tests.support.photos import noisy_photos as photos
from tests.support.searches import quick

ROOT = Path(__file__).parents[2]
DOG = SubjectPrompts(name="dog", class_noun="dog", identifier="sks")

LITTLE = Resources(micro_batch=1, gradient_checkpointing=True)


@pytest.mark.parametrize("method", METHODS)
def test_a_dry_run_leaves_the_model_as_it_was_and_writes_nothing(method: str, model: Model, own_cache: Path) -> None:
    """Bit for bit, without gradients and without checkpointing, by every method and, once, with every loss term."""
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    terms: dict[str, Any] = {"captions": "auto", "other_class_weight": 1.0, "composite_weight": 1.0}
    context = SearchContext(model=model, config=quick(method, **terms if method == "mask" else {}), resources=LITTLE)
    found = dry_run(context, [as_photo(each) for each in photos()], DOG)
    assert all(seconds > 0 for seconds in found.phases.values())
    assert json.loads(json.dumps(found.record()))["seconds"] == sum(found.phases.values())
    assert all(torch.equal(value, before[name]) for name, value in model.denoiser.state_dict().items())
    assert all(parameter.grad is None for parameter in model.denoiser.parameters())
    assert not model.denoiser.is_gradient_checkpointing
    assert not list(own_cache.rglob("*.png"))


def test_given_class_images_take_no_time(model: Model) -> None:
    """And a search of a step is estimated from that one, where no time goes into what fits."""
    whole = Resources(micro_batch=24)
    few, many = (replace(quick(), method=f"mask,steps={steps}") for steps in (1, 1000))
    contexts = [SearchContext(model=model, config=config, resources=whole) for config in (few, many)]
    one, all_steps = (dry_run(each, list(map(as_photo, photos())), DOG, photos()) for each in contexts)
    assert one.phases["class images"] == 0
    assert all_steps.phases["search"] > 10 * one.phases["search"]


@pytest.mark.parametrize("family", ["pixart", pytest.param("flux", marks=pytest.mark.long)])
def test_other_families_can_be_tried(family: str, tmp_path: Path) -> None:
    """PixArt-alpha draws in no single step, and Flux without a second pass for guidance."""
    base = Model.from_pipeline(FAMILIES[family](tmp_path))
    context = SearchContext(model=base, config=quick(), resources=Resources(micro_batch=24))
    found = dry_run(context, [as_photo(each) for each in photos()], DOG)
    assert found.phases["class images"] > 0 and found.memory


def test_memory_is_unknown_where_the_system_does_not_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has neither /proc nor the module `resource`; a Mac has the latter, which counts bytes there."""
    assert peak_memory(torch.device("cpu"))
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    monkeypatch.setattr(sys, "platform", "darwin")
    taken = peak_memory(torch.device("cpu"))
    assert taken and taken > 0
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory(torch.device("cpu")) is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to forget a peak of memory")
def test_an_estimate_on_pocket_is_near_what_happens(tmp_path: Path) -> None:
    """Memory beside that of the loaded model within a factor of 1.5, and time within one of 3."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.search.dry_run_on_pocket"],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT), CONES_CACHE=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["was"] / 1.5 < found["told"] < found["was"] * 1.5
    assert found["seconds_were"] / 3 < found["seconds_told"] < found["seconds_were"] * 3
