"""Every family from a folder and from a single file: find, inspect, merge, render, apply, and its digests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conestool import format as cones_format
from conestool.apply import check_base
from conestool.apply.export_checkpoint import original_state_dict
from conestool.errors import BaseModelMismatchError
from conestool.fingerprint import Level, match
from conestool.models.dit import Flux, PixArtAlpha, StableDiffusion3
from conestool.models.families import family_of
from conestool.models.model import Model
from conestool.models.sampling import sample
from tests.support.command_line import Cones
from tests.support.ldm_writer import save_original
from tests.support.model_files import FAMILIES, change_denoiser, denoiser_file, recast
from tests.support.photos import draw_photos, pixels
from tests.support.tiny_models import random_cone, save

FIND = ("--steps", "2", "--density", "0.02", "--class-images", "dog", "--other-class-weight", "0", "--no-sheet")
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Checkpoint:
    """One model as a diffusers folder, as a single file in the original layout, and loaded from the folder.

    PixArt, for which there is no such file, has the folder in its place.
    """

    folder: Path
    single: Path
    model: Model

    def stored_at(self, path: Path) -> Model:
        """The model as if loaded from another folder or single file: its identity is read from there."""
        return replace(self.model, path=path)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """T5 reads 32 tokens instead of hundreds, and losses are of 2 samples: else most of the time would go there."""
    monkeypatch.setattr("conestool.search.loss_terms.NUM_EVAL_SAMPLES", 2)
    monkeypatch.setattr("conestool.search.tune.NUM_COMPARED", 2)
    for family in (PixArtAlpha, StableDiffusion3, Flux):
        monkeypatch.setattr(family, "max_tokens", 32)


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A small random checkpoint of each family; tests must not change its files."""
    place = tmp_path_factory.mktemp(request.param)
    folder = save(FAMILIES[request.param](place), place / "base")
    model = Model.from_pretrained(str(folder))
    return Checkpoint(folder, save_single(model.pipe, place / "base.safetensors") or folder, model)


def save_single(pipe: Any, path: Path) -> Path | None:
    """The pipeline as one file in its original layout, if it has one.

    For SD3 and Flux by the code under test, which tests/models/conversion/test_fused_qkv.py holds against
    diffusers' conversions.
    """
    if hasattr(pipe, "unet"):
        return save_original(pipe, path)
    if not family_of(pipe).key_prefixes:
        return None
    parts = {name: pipe.components[name].state_dict() for name in family_of(pipe).single_file_components}
    save_file(original_state_dict(pipe, pipe.transformer.state_dict(), parts), path)
    return path


def test_find_inspect_merge_render_apply(checkpoint: Checkpoint, cones: Cones, work: Path) -> None:
    """What is found on the single file merges with a concept of the folder, fits both, and draws alike on both.

    The patched folder, whose name may have a dot, has its weights at zero, and draws without concepts what the base
    model draws with them.
    """
    single = ("--model", checkpoint.single)
    draw_photos(work / "dog", "teal", 2)
    assert cones("find", "dog", *FIND, *single).code == 0
    cones_format.save(random_cone(checkpoint.model, "hat"), work / "hat.cone")
    assert cones("merge", "dog.cone", "hat.cone").lines == ["dog+hat.cone"]
    (check,) = [each["model_check"] for each in cones("inspect", "dog+hat.cone", *single, "--json").json]
    assert check["text"] == "equal"
    draw = ("render", "a dog in a hat", "--literal", "--steps", "2", "--guidance", "3", "-o", "-")
    alike = [cones(*draw, "--model", path, "-c", "dog+hat.cone").out for path in (checkpoint.folder, checkpoint.single)]
    assert cones("apply", "dog+hat.cone", *single, "-o", "patched1.5").lines == ["patched1.5"]
    weights = load_file(denoiser_file(work / "patched1.5"))
    for concept in cones_format.load(work / "dog+hat.cone").concepts:
        assert concept.neurons and all(
            (weights[p].view(-1)[torch.tensor(i)] == 0).all() for p, i in concept.indices.items()
        )
    assert Model.from_pretrained("patched1.5").defaults == checkpoint.model.defaults
    alike.append(cones(*draw, "--model", "patched1.5", "--no-cones").out)
    assert pixels(alike[0]) == pixels(alike[1]) == pixels(alike[2])


def test_tune_shows_the_subjects_together(
    checkpoint: Checkpoint, cones: Cones, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In composites that every family draws, and looks at, in its own way."""
    monkeypatch.setattr("conestool.images.class_images.sample", quickly)
    cones_format.save(random_cone(checkpoint.model, "dog", "hat"), work / "both.cone")
    photos = [
        f"--photos=dog={draw_photos(work / 'dog', 'teal', 2)}",
        f"--photos=hat={draw_photos(work / 'hat', 'red', 2)}",
    ]
    options = ["--steps", "1", "--num-class-images", "4", "--captions", "none", "--device", "cpu"]
    told = cones("tune", "both.cone", *photos, *options, "--model", checkpoint.folder, "-o", "tuned.cone")
    assert told.code == 0 and "composites: " in told.err
    assert cones_format.load(work / "tuned.cone").names == ("dog", "hat")


def quickly(model: Model, prompts: Any, seeds: Any, **options: Any) -> Any:
    """Two steps are enough for what these models draw."""
    return sample(model, prompts, seeds, **{**options, "steps": 2})


@pytest.mark.parametrize("checkpoint", ["sdxl", "sd3", "flux"], indirect=True)
def test_apply_writes_a_checkpoint_that_draws_alike(checkpoint: Checkpoint, cones: Cones, work: Path) -> None:
    """From folder and single file the same tensors, which diffusers' own reader takes, and `render`'s picture.

    tests/apply/test_export_checkpoint.py has the other families below the command.
    """
    cones_format.save(random_cone(checkpoint.model, "hat", density=0.3), work / "hat.cone")
    draw = ("render", "a hat", "--literal", "--steps", "2", "-o", "-")
    expected = pixels(cones(*draw, "--model", checkpoint.folder, "-c", "hat.cone").out)
    for number, source in enumerate((checkpoint.folder, checkpoint.single)):
        done = cones("apply", "hat.cone", "--model", source, "-o", f"{number}.safetensors")
        assert (done.code, done.lines) == (0, [f"{number}.safetensors"]), done.err
    one, other = (load_file(work / f"{number}.safetensors") for number in range(2))
    assert one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())
    written = ("--model", "0.safetensors", "--config", checkpoint.folder)
    assert pixels(cones(*draw, *written, "--no-cones").out) == expected
    changed = {key for key, value in load_file(checkpoint.single).items() if not torch.equal(value, one[key])}
    together = 1 if checkpoint.model.family.name == "stable-diffusion-xl" else 2  # K and V in one stack
    assert len(changed) * together == len(checkpoint.model.info.tensors)


def test_packagings_are_equal_and_rounded_copies_equal_at_their_dtype(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Folder, single file and memory; each rounded, and rounded and cast up again, in both packagings."""
    info = checkpoint.model.info
    assert match(info, checkpoint.stored_at(checkpoint.single).info).level is Level.EQUAL
    assert match(info, Model.from_pipeline(checkpoint.model.pipe).info).level is Level.EQUAL
    for source in {checkpoint.folder, checkpoint.single}:
        for name, dtype in HALVES.items():
            copy = recast(source, tmp_path / f"{name}-{source.name}", dtype)
            widened = recast(copy, tmp_path / f"wide-{name}-{source.name}", torch.float32)
            texts = {match(info, checkpoint.stored_at(path).info).text for path in (copy, widened)}
            assert texts == {f"equal at {name}"}, copy


def test_siblings_are_different(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A concept found on the float16 copy, used on the bfloat16 copy, folder and single file crossed."""
    half = recast(checkpoint.folder, tmp_path / "half", torch.float16)
    brain = recast(checkpoint.single, tmp_path / "brain.safetensors", torch.bfloat16)
    found = match(checkpoint.stored_at(half).info, checkpoint.stored_at(brain).info)
    assert found.level is Level.DIFFERENT


def noisy(tensor: Tensor) -> Tensor:
    """A light fine-tune."""
    return tensor + 1e-3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))


def test_another_model_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Exit code 5 for a fine-tuned model, also rounded, and whichever way round.

    tests/test_fingerprint.py has smaller changes and other models.
    """
    changed = change_denoiser(checkpoint.folder, tmp_path / "changed", noisy)
    for path in (changed, recast(changed, tmp_path / "half", torch.float16)):
        there = checkpoint.stored_at(path)
        for model, cone in ((there, random_cone(checkpoint.model)), (checkpoint.model, random_cone(there))):
            with pytest.raises(BaseModelMismatchError) as caught:
                check_base(model, cone)
            assert caught.value.exit_code == 5


def test_a_fine_tune_as_a_single_file_is_refused_by_the_command(
    checkpoint: Checkpoint, tmp_path: Path, cones: Cones, work: Path
) -> None:
    """Loaded for real: exit code 5, with a hint."""
    pipe: Any = Model.from_pretrained(str(change_denoiser(checkpoint.folder, tmp_path / "tuned", noisy))).pipe
    file = save_single(pipe, tmp_path / "tuned.safetensors") or tmp_path / "tuned"
    cones_format.save(random_cone(checkpoint.model), work / "dog.cone")
    done = cones("render", "a dog", "--model", file, "--config", checkpoint.folder)
    assert done.code == 5
    assert "--allow-base-mismatch" in done.err
