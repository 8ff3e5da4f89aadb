"""An exported model can be trained further: adopted into a work folder and exported again it is the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conestool.models.loading import pocket_folder
from training.pocket import autoencoder, backgrounds, models, tokenizer
from training.pocket.adopt import adopt
from training.pocket.common import load_state, save_state
from training.pocket.export import write_model
from training.pocket.pool import load_autoencoder

DEVICE = torch.device("cpu")
PARTS = ("unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model")


def untrained(work: Path) -> None:
    """A work folder as training leaves it, with random weights."""
    torch.manual_seed(0)
    parts = torch.nn.ModuleDict({"unet": models.build_unet(), "text": models.build_text_encoder(tokenizer.build())})
    average = [p.detach().half().float() for p in parts.parameters()]
    state = {"model": parts.state_dict(), "average": average, "optimizers": [], "seen": 12, "steps": 1, "scale": 1.25}
    save_state(work / "train.pt", state)
    coded = {"model": autoencoder.build().state_dict(), "light": autoencoder.LightDecoder().state_dict(), "seen": 0}
    for name in ("autoencoder.pt", "decoder.pt"):
        save_state(work / name, coded)


def test_adopted_model_exports_with_the_same_weights(tmp_path: Path) -> None:
    """All of them in fp16 under 60 MB; a picture of the right size comes out; what is missing is named."""
    from diffusers import StableDiffusionPipeline

    with pytest.raises(SystemExit, match=r"train\.pt"):
        write_model(tmp_path, tmp_path / "model")
    untrained(tmp_path / "work")
    write_model(tmp_path / "work", tmp_path / "model")
    assert sum(path.stat().st_size for path in (tmp_path / "model").rglob("*.safetensors")) < 60e6
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a dog", num_inference_steps=2, height=64, width=64).images[0].size == (64, 64)
    assert adopt(tmp_path / "model", tmp_path / "other")["seen"] == 12
    with pytest.raises(SystemExit, match="holds a training already"):
        adopt(tmp_path / "model", tmp_path / "other")
    write_model(tmp_path / "other", tmp_path / "again")
    for part in PARTS:
        before = load_file(tmp_path / "model" / f"{part}.safetensors")
        after = load_file(tmp_path / "again" / f"{part}.safetensors")
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_training_goes_on_from_the_packaged_model(tmp_path: Path) -> None:
    """With its weights, and the number of images that it saw."""
    state, packaged = adopt(pocket_folder(), tmp_path), pocket_folder()
    assert state["seen"] == json.loads((packaged / "pocket.json").read_text(encoding="utf-8"))["images_seen"]
    for part, prefix in ((PARTS[0], "unet."), (PARTS[1], "text.")):
        weights = load_file(packaged / f"{part}.safetensors")
        assert all(torch.equal(state["model"][prefix + name], value.float()) for name, value in weights.items())


def test_other_latents_are_refused_and_an_autoencoder_stays(tmp_path: Path) -> None:
    untrained(tmp_path / "work")
    write_model(tmp_path / "work", tmp_path / "model")
    save_state(tmp_path / "other/scale.pt", {"scaling_factor": 0.5})
    with pytest.raises(SystemExit, match="other latents"):
        adopt(tmp_path / "model", tmp_path / "other")
    save_state(tmp_path / "other/scale.pt", {"scaling_factor": 1.26})
    save_state(tmp_path / "other/autoencoder.pt", {"seen": 5})
    adopt(tmp_path / "model", tmp_path / "other")
    assert load_state(tmp_path / "other/autoencoder.pt") == {"seen": 5}
    assert load_state(tmp_path / "other/scale.pt") == {"scaling_factor": 1.26}


def test_a_work_folder_begins_with_the_committed_latents(tmp_path: Path) -> None:
    """Scenes come back from them as they were when they were committed, and writing them again gives the same file."""
    autoencoder.read_latents(tmp_path)
    vae = load_autoencoder(tmp_path)
    images = (
        backgrounds.paint(["beach", "night", "red", "forest"], 64, torch.Generator().manual_seed(0), DEVICE) * 2 - 1
    )
    with torch.no_grad():
        again = vae.decode(autoencoder.encode(vae, images)).sample
    assert autoencoder.psnr(again, images) > 30
    autoencoder.write_latents(tmp_path, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == autoencoder.LATENTS.read_bytes()
    with pytest.raises(SystemExit, match="already"):
        autoencoder.read_latents(tmp_path)
