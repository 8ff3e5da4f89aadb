"""Single-file checkpoints in the original layout: where their configuration comes from, and what is written of them.

That they are the model of the folder is tests/end_to_end/test_families.py's to show.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from conestool.apply import apply_cones, write_denoiser, write_folder
from conestool.errors import ModelLoadError
from conestool.models.model import Model
from tests.support.ldm_writer import save_original
from tests.support.model_files import list_spare_parts
from tests.support.tiny_models import random_cone, save_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model with AutoencoderKL, as a diffusers folder."""
    return save_pipeline(tmp_path_factory.mktemp("single") / "base", tiny=False)


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    """The same model as one file in the original layout."""
    return save_original(Model.from_pretrained(str(folder)).pipe, folder.with_name("model.safetensors"))


def test_finds_the_configuration_beside_the_file(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    """A folder of the file's name serves; its weights are not read."""
    shutil.copyfile(checkpoint, tmp_path / "mine.safetensors")
    shutil.copytree(folder, tmp_path / "mine", ignore=shutil.ignore_patterns("*.safetensors"))
    assert (
        Model.from_pretrained(str(tmp_path / "mine.safetensors")).info.digests
        == Model.from_pretrained(str(folder)).info.digests
    )


def test_the_configuration_may_list_parts_that_nothing_needs(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    """As a published folder does, from which people leave out what only looks for pictures that are not safe."""
    config = Path(shutil.copytree(folder, tmp_path / "config"))
    list_spare_parts(config)
    pipe = Model.from_pretrained(str(checkpoint), config=str(config)).pipe
    assert pipe.safety_checker is None and pipe.feature_extractor is None


def test_without_configuration_says_which_is_needed(checkpoint: Path) -> None:
    """No download behind one's back."""
    with pytest.raises(ModelLoadError, match=r"model\.safetensors: the configuration of its family") as caught:
        Model.from_pretrained(str(checkpoint))
    assert "stable-diffusion-v1-5" in str(caught.value.hint)


def test_patched_outputs_keep_the_stored_dtype(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    """From a single file in float16 both outputs are float16 and draw what `apply_cones` draws."""
    file = save_original(Model.from_pretrained(str(folder), dtype="float16").pipe, tmp_path / "half.safetensors")
    model = Model.from_pretrained(str(file), config=str(folder))
    cone = random_cone(model, density=0.3)
    written = Model.from_pretrained(str(write_folder(model, cone, tmp_path / "out")))
    assert written.stored_dtype == torch.float16
    with apply_cones(model, cone):
        for key, value in model.denoiser.state_dict().items():
            assert torch.equal(written.denoiser.state_dict()[key], value), key
    single = write_denoiser(model, cone, tmp_path / "unet.safetensors")
    from safetensors.torch import load_file

    stored = load_file(single)
    assert all(value.dtype == torch.float16 for value in stored.values())
    assert all(torch.equal(stored[key].float(), value) for key, value in written.denoiser.state_dict().items())
