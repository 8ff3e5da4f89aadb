"""Checkpoints in the original layout: loaded by diffusers they draw what `apply_cones` draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conestool.apply import apply_cones, checkpoint_notes, write_checkpoint
from conestool.errors import ModelLoadError, UsageError
from conestool.models.model import Model
from conestool.models.sampling import sample
from tests.support.ldm_writer import save_original
from tests.support.tiny_models import make_vae, random_cone

SETTINGS: dict[str, Any] = {"steps": 2, "guidance": 2.0, "size": (32, 32)}
PARAM = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight"
ORIGINAL = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_k.weight"


def folder_of(model: Model) -> Path:
    """Where the model came from."""
    assert model.path is not None
    return model.path


def drawn(model: Model) -> bytes:
    """The pixels of one picture."""
    [picture] = sample(model, ["a sks dog"], [0], **SETTINGS)
    return bytes(picture.tobytes())


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a_folder_becomes_a_checkpoint_that_draws_alike(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """U-Net, autoencoder and text encoder of SD 1.x and 2.x, converted and read back by `from_single_file`."""
    model: Model = request.getfixturevalue(family)
    folder = folder_of(model)
    cone = random_cone(model, density=0.3)
    stored = {file: file.read_bytes() for file in sorted((folder / "unet").iterdir())}
    out = write_checkpoint(model, cone, tmp_path / "out.safetensors", strength=0.5)
    assert all(file.read_bytes() == data for file, data in stored.items())
    loaded = Model.from_pretrained(str(out), config=str(folder))
    with apply_cones(model, cone, strength=0.5):
        for name in ("unet", "vae", "text_encoder"):
            for key, value in model.pipe.components[name].state_dict().items():
                assert torch.equal(loaded.pipe.components[name].state_dict()[key], value), key
        expected = drawn(model)
    assert drawn(loaded) == expected != drawn(model)


def test_a_pipeline_in_memory_becomes_the_same_checkpoint(sd2: Model, tmp_path: Path) -> None:
    """Whether the weights come from files or from memory."""
    cone = random_cone(sd2)
    files = write_checkpoint(sd2, cone, tmp_path / "files.safetensors")
    memory = write_checkpoint(Model.from_pipeline(sd2.pipe), cone, tmp_path / "memory.safetensors")
    one, other = load_file(files), load_file(memory)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.fixture
def half(sd1: Model, tmp_path: Path) -> Model:
    """A checkpoint in float16, with tensors that diffusers does not read and metadata of its own."""
    file = save_original(sd1.pipe, tmp_path / "half.safetensors")
    tensors = {key: value.half() for key, value in load_file(file).items()}
    tensors |= {"alphas_cumprod": torch.rand(7), "model_ema.num_updates": torch.tensor(3)}
    save_file(tensors, file, {"format": "pt", "modelspec.title": "mine", "modelspec.hash_sha256": "0x1"})
    return Model.from_pretrained(str(file), config=str(folder_of(sd1)))


def test_a_checkpoint_is_copied_but_for_its_neurons(half: Model, sd1: Model, tmp_path: Path) -> None:
    """Order, dtypes and all other bytes stay; the neurons are +0; metadata is added to, and a stale hash goes."""
    cone = random_cone(half, density=0.3)
    out = write_checkpoint(half, cone, tmp_path / "out.safetensors")
    old, new = load_file(folder_of(half)), load_file(out)
    with safe_open(folder_of(half), "pt") as before, safe_open(out, "pt") as after:
        assert list(after.keys()) == list(before.keys())
        metadata = after.metadata()
    assert metadata["modelspec.title"] == "mine" and "modelspec.hash_sha256" not in metadata
    assert json.loads(metadata["cones"])[0]["id"] == cone["dog"].id
    changed = {key for key in old if old[key].numpy().tobytes() != new[key].numpy().tobytes()}
    assert len(changed) == len(cone["dog"].indices) and all(".to_k." in key or ".to_v." in key for key in changed)
    expected = old[ORIGINAL].clone()
    expected.view(-1)[torch.from_numpy(cone["dog"].indices[PARAM].copy())] = 0
    assert new[ORIGINAL].numpy().tobytes() == expected.numpy().tobytes()
    written = Model.from_pretrained(str(out), config=str(folder_of(sd1)))
    with apply_cones(half, cone):
        assert drawn(written) == drawn(half)


def test_refuses_a_checkpoint_without_the_weights(half: Model, tmp_path: Path) -> None:
    """A file that changed since it was loaded: no output, an error that names the tensor."""
    cone = random_cone(half)
    tensors = load_file(folder_of(half))
    del tensors[ORIGINAL]
    save_file(tensors, folder_of(half))
    with pytest.raises(ModelLoadError, match=ORIGINAL):
        write_checkpoint(half, cone, tmp_path / "out.safetensors", allow_base_mismatch=True)
    assert not (tmp_path / "out.safetensors").exists()


def test_notes_what_programs_cannot_tell(sd1: Model, sd2: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Velocity is expected of SD 2.x files alone, and one scaling of latents."""
    assert checkpoint_notes(sd1.pipe) == checkpoint_notes(sd2.pipe) == []
    monkeypatch.setattr(sd1.pipe, "scheduler", sd2.pipe.scheduler)
    [note] = checkpoint_notes(sd1.pipe)
    assert "v_prediction" in note
    monkeypatch.setattr(sd2.pipe, "vae", make_vae(0, tiny=True))
    [note] = checkpoint_notes(sd2.pipe)
    assert "scaled by 0.8; programs assume 0.18215" in note


def test_refuses_parts_without_a_place(sd1: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another kind of text encoder is named, and nothing is left behind."""
    cone = random_cone(sd1)
    monkeypatch.setattr(sd1.pipe.text_encoder.config, "model_type", "t5")
    with pytest.raises(UsageError, match="t5"):
        write_checkpoint(sd1, cone, tmp_path / "out.safetensors")
    assert [item.name for item in tmp_path.iterdir() if "out" in item.name] == []
