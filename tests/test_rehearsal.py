"""A rehearsal of all that is done on a GPU, on a card that is none: see tests/support/pretend_card.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conestool import apply_cones, find, merge, render
from conestool import format as cones_format
from conestool.cli._selection import Chosen
from conestool.cli.render import Look, draw, sized
from conestool.evaluation import Plan, evaluate
from conestool.images.photos import as_photo
from conestool.models.devices import DTYPES, move_to_device
from conestool.models.dit import Flux, PixArtAlpha, StableDiffusion3
from conestool.models.kv_weights import kv_weights
from conestool.models.model import Defaults, Model
from conestool.search.config import SearchConfig
from conestool.search.context import SearchContext
from conestool.search.loss_terms import SubjectPrompts
from conestool.search.memory import dry_run
from conestool.search.methods import METHODS
from conestool.search.methods.joint_mask import JointMaskConfig
from conestool.search.tune import TuneConfig, tune
from tests.support.command_line import Cones
from tests.support.model_files import FAMILIES, denoiser_file
from tests.support.photos import noisy_photos as photos
from tests.support.pretend_card import PretendCard, pretend_card
from tests.support.searches import quick
from tests.support.tiny_models import random_cone, save_pipeline

WAYS = [
    ("flux", "cuda", "bfloat16", True),
    ("pixart", "mps", "float32", False),
]
"""Two transformers, on a card and on a Mac; test_card.py has a U-Net."""
MORE = [
    ("sd1", "cuda", "float16", False),
    ("sd1", "cuda", "float32", True),
    ("sd1", "mps", "float32", False),
    ("sd2", "cuda", "bfloat16", True),
    ("sd2", "mps", "float16", False),
    ("sdxl", "cuda", "float16", True),
    ("sdxl", "mps", "bfloat16", False),
    ("pixart", "cuda", "float32", False),
    ("sd3", "cuda", "float32", False),
    ("sd3", "cuda", "bfloat16", False),
    ("sd3", "mps", "float16", False),
    ("flux", "mps", "bfloat16", False),
]
"""Every family on both kinds of device, every dtype, with and without offload."""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """T5 reads few tokens, and losses are measured on few samples."""
    for family in (PixArtAlpha, StableDiffusion3, Flux):
        monkeypatch.setattr(family, "max_tokens", 16)
    monkeypatch.setattr("conestool.search.loss_terms.NUM_EVAL_SAMPLES", 2)
    monkeypatch.setattr("conestool.search.tune.NUM_COMPARED", 2)


def on_card(family: str, place: Path, dtype: str, card: PretendCard, offload: bool) -> Model:
    """A small model of the family on the card, that draws in two steps."""
    pipe: Any = FAMILIES[family](place).to(DTYPES[dtype])
    model = Model.from_pipeline(move_to_device(pipe, torch.device(card.kind), offload))
    model.defaults = Defaults(2, model.defaults.guidance, 32)
    return model


@pytest.mark.parametrize(
    ("family", "kind", "dtype", "offload"),
    [*WAYS, *(pytest.param(*way, marks=pytest.mark.long) for way in MORE)],
    ids=lambda each: str(each),
)
def test_everything_on_a_card(family: str, kind: str, dtype: str, offload: bool, tmp_path: Path) -> None:
    """Search, tuning, drawing and measuring mix no devices, and on MPS make no float64 and ask for no missing kernel.

    The weights are afterwards what they were, bit for bit.
    """
    with pretend_card(kind) as card:
        model = on_card(family, tmp_path, dtype, card, offload)
        assert model.device.type == kind
        before = {name: weight.detach().cpu().clone() for name, weight in kv_weights(model.denoiser).items()}
        pictures = photos()
        for method in METHODS if (family, kind) == ("sd1", "mps") else ("mask",):
            whole = method == "mask" and family in ("sd1", "sd2", "sdxl")
            given = None if whole else pictures
            dog = find(model, pictures, "dog", config=small(method, whole), identifier="zwx", class_images=given)
        both = merge(dog, random_cone(model, "hat"))
        images = {"dog": pictures, "hat": pictures}
        joint = TuneConfig(mask=JointMaskConfig(steps=1), composite_weight=1.0, search=small())
        assert tune(model, both, images, config=joint, class_images=images).names == ("dog", "hat")
        with apply_cones(model, both):
            assert not same(before, model)
        assert same(before, model)
        assert render(model, "a dog in a hat", both, seeds=range(2))[0].image.size == (32, 32)
        assert render(model, "a dog in a hat", both, regions=True)[0].image.size == (32, 32)
        plan = Plan(("{}",), (0,), 2, 2, 1)
        evaluate(model, dog, {"dog": [as_photo(each) for each in pictures[:2]]}, plan=plan)
        subject = SubjectPrompts(name="dog", class_noun="dog", identifier="sks")
        context = SearchContext(model=model, config=small())
        assert dry_run(context, [as_photo(each) for each in pictures[:2]], subject, pictures).samples == 3
        assert same(before, model)
        assert card.launches and (offload or next(model.pipe.vae.parameters()).device.type == kind)


def test_the_card_refuses_what_a_card_refuses() -> None:
    """A tensor of the CPU beside its own, and float64 if it is a Mac's."""
    with pretend_card("mps"):
        there = torch.zeros(2, device="mps")
        with pytest.raises(TypeError, match="float64"):
            there.double()
        with pytest.raises(RuntimeError, match="expected all tensors on"):
            there + torch.zeros(2)


def test_render_measures_once_how_many_pictures_go_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A line says it, and drawing does as it says; a number that was given is taken without a word."""
    look = Look(seeds=range(6), literal=False, allow_base_mismatch=False, batch=None)
    with pretend_card("cuda") as card:
        model = on_card("sd1", tmp_path, "float32", card, offload=False)
        found = sized(model, look, 6)
        [*drawn] = draw(model, [Chosen("a dog", tuple(look.seeds))], found, "pictures")
    assert found.batch == 6 and [each.record["batch"] for each in drawn] == [6] * 6
    assert capfd.readouterr().err.count("6 of 6 pictures at once: ") == 1
    assert sized(model, found, 6) is found and "at once" not in capfd.readouterr().err


def small(method: str = "mask", whole: bool = False) -> SearchConfig:
    """A search of one step, `whole` with captions and pictures of other things."""
    return quick(method, 1, captions="auto" if whole else "none", batch_size=1, other_class_weight=float(whole))


def same(before: dict[str, torch.Tensor], model: Model) -> bool:
    """Whether the K/V weights are those, bit for bit."""
    return all(torch.equal(weight.detach().cpu(), before[name]) for name, weight in kv_weights(model.denoiser).items())


def test_an_export_has_no_part_in_a_card(cones: Cones, work: Path, tmp_path: Path) -> None:
    """`apply` rounds nothing of a float32 file that a card would take for bfloat16, and keeps all but the concept."""
    folder = save_pipeline(tmp_path / "base")
    model = Model.from_pretrained(str(folder))
    cones_format.save(random_cone(model), work / "dog.cone")
    with pretend_card("cuda") as card:
        words = ("apply", "dog.cone", "--as", "denoiser", "-o", "unet.safetensors", "--model", folder)
        done = cones(*words, "--dtype", "bfloat16")
        assert done.code == 0, done.err
        assert not card.launches
    stored, written = load_file(denoiser_file(folder)), load_file(work / "unet.safetensors")
    assert stored.keys() == written.keys()
    touched = {name for name, value in stored.items() if not torch.equal(value, written[name])}
    assert touched == set(model.info.tensors)
