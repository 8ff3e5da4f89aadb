"""Checkpoints in the original layout: loaded by diffusers they draw what `applied` draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conestool.diffusion.models import Model, load_model, wrap
from conestool.diffusion.sampling import sample
from conestool.errors import ModelLoadError, UsageError
from conestool.patch import applied, checkpoint_notes, write_checkpoint
from tests.ldm import save_original
from tests.tiny import random_cone

SETTINGS = {"steps": 2, "guidance": 2.0, "size": (32, 32)}
PARAM = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight"
ORIGINAL = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_k.weight"


def drawn(model: Model) -> bytes:
    """The pixels of one picture."""
    [picture] = sample(model, ["a sks dog"], [0], **SETTINGS)
    return bytes(picture.tobytes())


def test_a_folder_becomes_a_checkpoint_that_draws_alike(family_folder: Path, tmp_path: Path) -> None:
    """U-Net, autoencoder and text encoder of SD 1.x and 2.x, converted and read back by `from_single_file`."""
    model = load_model(str(family_folder))
    cone = random_cone(model, density=0.3)
    stored = {file: file.read_bytes() for file in sorted((family_folder / "unet").iterdir())}
    out = write_checkpoint(model, cone, tmp_path / "out.safetensors", strength=0.5)
    assert all(file.read_bytes() == data for file, data in stored.items())
    loaded = load_model(str(out), config=str(family_folder))
    with applied(model, cone, strength=0.5):
        for name in ("unet", "vae", "text_encoder"):
            for key, value in model.pipe.components[name].state_dict().items():
                assert torch.equal(loaded.pipe.components[name].state_dict()[key], value), key
        expected = drawn(model)
    assert drawn(loaded) == expected != drawn(model)


def test_a_pipeline_in_memory_becomes_the_same_checkpoint(family_folder: Path, tmp_path: Path) -> None:
    """Whether the weights come from files or from memory."""
    model = load_model(str(family_folder))
    cone = random_cone(model)
    files = write_checkpoint(model, cone, tmp_path / "files.safetensors")
    memory = write_checkpoint(wrap(model.pipe), cone, tmp_path / "memory.safetensors")
    one, other = load_file(files), load_file(memory)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.fixture
def single(family_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint in float16 with tensors that no program reads, and the folder of its configuration."""
    file = save_original(load_model(str(family_folder), dtype="float16").pipe, tmp_path / "half.safetensors")
    tensors = load_file(file) | {"alphas_cumprod": torch.rand(7), "model_ema.num_updates": torch.tensor(3)}
    save_file(tensors, file, {"format": "pt", "modelspec.title": "mine", "modelspec.hash_sha256": "0x1"})
    return file, family_folder


def test_a_checkpoint_is_copied_but_for_its_neurons(single: tuple[Path, Path], tmp_path: Path) -> None:
    """Order, dtypes and all other bytes stay; the neurons are +0; metadata is added to, and a stale hash goes."""
    file, config = single
    model = load_model(str(file), config=str(config))
    cone = random_cone(model, density=0.3)
    out = write_checkpoint(model, cone, tmp_path / "out.safetensors")
    old, new = load_file(file), load_file(out)
    with safe_open(file, "pt") as before, safe_open(out, "pt") as after:
        assert list(after.keys()) == list(before.keys())
        metadata = after.metadata()
    assert metadata["modelspec.title"] == "mine" and "modelspec.hash_sha256" not in metadata
    assert json.loads(metadata["cones"])[0]["id"] == cone["dog"].id
    changed = {key for key in old if old[key].numpy().tobytes() != new[key].numpy().tobytes()}
    assert len(changed) == len(cone["dog"].indices) and all(".to_k." in key or ".to_v." in key for key in changed)
    expected = old[ORIGINAL].clone()
    expected.view(-1)[torch.from_numpy(cone["dog"].indices[PARAM].copy())] = 0
    assert new[ORIGINAL].numpy().tobytes() == expected.numpy().tobytes()
    written = load_model(str(out), config=str(config))
    with applied(model, cone):
        assert drawn(written) == drawn(model)


def test_refuses_a_checkpoint_without_the_weights(single: tuple[Path, Path], tmp_path: Path) -> None:
    """A file that changed since it was loaded: no output, an error that names the tensor."""
    file, config = single
    model = load_model(str(file), config=str(config))
    cone = random_cone(model)
    tensors = load_file(file)
    del tensors[ORIGINAL]
    save_file(tensors, file)
    with pytest.raises(ModelLoadError, match=ORIGINAL):
        write_checkpoint(model, cone, tmp_path / "out.safetensors", force_model=True)
    assert not (tmp_path / "out.safetensors").exists()


def test_notes_what_programs_cannot_tell(family_folder: Path) -> None:
    """Velocity is expected of SD 2.x files alone, and one scaling of latents."""
    pipe = load_model(str(family_folder)).pipe
    assert checkpoint_notes(pipe) == []
    pipe.text_encoder.config.hidden_act = "quick_gelu"
    pipe.scheduler.register_to_config(prediction_type="v_prediction")
    pipe.vae.register_to_config(scaling_factor=0.5)
    assert ["scaled by 0.5" in note or "v_prediction" in note for note in checkpoint_notes(pipe)] == [True, True]


def test_refuses_parts_without_a_place(family_folder: Path, tmp_path: Path) -> None:
    """Another kind of text encoder is named, and nothing is left behind."""
    model = load_model(str(family_folder))
    cone = random_cone(model)
    model.pipe.text_encoder.config.model_type = "t5"
    with pytest.raises(UsageError, match="t5"):
        write_checkpoint(model, cone, tmp_path / "out.safetensors")
    assert [item.name for item in tmp_path.iterdir() if "out" in item.name] == []
