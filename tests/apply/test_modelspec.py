"""What files tell programs of themselves: family, title, words of the prompt; and the JSON beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from conestool.apply import sidecar_path, write_checkpoint, write_denoiser, write_lora, write_sidecar
from conestool.errors import OutputExistsError
from conestool.models.model import Model
from tests.support.model_files import FAMILIES, VARIANTS
from tests.support.tiny_models import random_cone

STABILITY = "https://github.com/Stability-AI/generative-models"
FLUX = "https://github.com/black-forest-labs/flux"
EXPECTED = {
    "sd1": ("stable-diffusion-v1", STABILITY, "networks.lora", "sd_v1", "SD1"),
    "sd2": ("stable-diffusion-v2-768-v", STABILITY, "networks.lora", "sd_v2_v", "SD2"),
    "sdxl": ("stable-diffusion-xl-v1-base", STABILITY, "networks.lora", "sdxl_base_v1-0", "SDXL"),
    "sd3": ("stable-diffusion-3-5-medium", STABILITY, "networks.lora_sd3", "5-medium", None),
    "flux": ("flux-1-dev", FLUX, "networks.lora_flux", "flux1", "Flux"),
    "flux-schnell": ("flux-1-schnell", FLUX, "networks.lora_flux", "flux1", "Flux"),
}
"""Architecture, implementation, kohya's module and base model, and what A1111 and Forge call it."""


def make(family: str, folder: Path) -> Model:
    """A small model of a family; a 2.x is known by the width of its text, which the small one lacks."""
    model = Model.from_pipeline((FAMILIES | VARIANTS)[family](folder))
    if family == "sd2":
        model.pipe.unet.register_to_config(cross_attention_dim=1024)
    return model


def told(file: Path) -> dict[str, str]:
    """The metadata of a file."""
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


def forge_shows(metadata: dict[str, str]) -> str:
    """The family by the rules of Forge dfdcbab (`extensions-builtin/sd_forge_lora/network.py`, detect_version)."""
    architecture = metadata.get("modelspec.architecture", "")
    if metadata.get("modelspec.implementation") == FLUX or architecture == "flux-1-dev/lora":
        return "Flux"
    if architecture == "stable-diffusion-xl-v1-base/lora" or metadata.get("ss_base_model_version", "")[:5] == "sdxl_":
        return "SDXL"
    if metadata.get("ss_v2") == "True":
        return "SD2"
    return "SD1" if architecture == "stable-diffusion-v1/lora" else "Unknown"


@pytest.mark.parametrize("family", EXPECTED)
def test_a_lora_says_what_it_belongs_to(tmp_path: Path, family: str) -> None:
    """In ModelSpec's keys and in kohya's, so that Forge sorts it; with the words that draw the subject.

    The JSON beside it has the keys of A1111 1.10 and InvokeAI 6.14; a family without a name there is guessed.
    """
    architecture, implementation, module, version, shown = EXPECTED[family]
    model = make(family, tmp_path)
    cone = random_cone(model, "dog", "hat")
    found = told(write_lora(model, cone, tmp_path / "my dog.safetensors", rank=2).path)
    assert found["modelspec.sai_model_spec"] == "1.0.0"
    assert found["modelspec.architecture"] == f"{architecture}/lora"
    assert found["modelspec.implementation"] == implementation
    assert (found["modelspec.title"], found["modelspec.trigger_phrase"]) == ("dog, hat", "sks dog, zwx hat")
    assert found["modelspec.resolution"] == f"{model.defaults.size}x{model.defaults.size}"
    assert (found["ss_network_module"], found["ss_base_model_version"]) == (module, version)
    assert (found["ss_network_dim"], found["ss_network_alpha"], found["ss_output_name"]) == ("2", "2", "my dog")
    assert json.loads(found["ss_tag_frequency"]) == {"dog": {"sks dog": 1}, "hat": {"zwx hat": 1}}
    assert forge_shows(found) == (shown or "Unknown")
    path = write_sidecar(model, cone, tmp_path / "my.dog.safetensors")
    assert path == tmp_path / "my.dog.json" == sidecar_path(tmp_path / "my.dog.safetensors")
    beside = json.loads(path.read_text(encoding="utf-8"))
    assert beside.get("sd version") == shown
    assert beside["activation text"] == "sks dog, zwx hat" and "dog, hat on pipeline" in beside["description"]
    with pytest.raises(OutputExistsError):
        write_sidecar(model, cone, tmp_path / "my.dog.safetensors")
    write_sidecar(model, cone, tmp_path / "my.dog.safetensors", overwrite=True)


@pytest.mark.parametrize(
    ("family", "config", "expected"),
    [
        ("pixart", {}, "pixart"),
        ("sd2", {"prediction_type": "epsilon"}, "stable-diffusion-v2-512"),
        ("sd3", {"dual_attention_layers": ()}, "stable-diffusion-3-5-large"),
        ("sd3", {"dual_attention_layers": (), "qk_norm": None}, "stable-diffusion-3-medium"),
    ],
)
def test_variants_of_a_family_have_their_own_architecture(
    tmp_path: Path, family: str, config: dict[str, object], expected: str
) -> None:
    """As kohya tells them apart (`library/sd3_utils.py`): by the normalised keys, and by the second attention."""
    model = make(family, tmp_path)
    (model.pipe.scheduler if family == "sd2" else model.pipe.transformer).register_to_config(**config)
    found = told(write_denoiser(model, random_cone(model), tmp_path / "denoiser.safetensors"))
    assert found["modelspec.architecture"] == expected


def test_a_checkpoint_and_a_denoiser_say_it_too(tmp_path: Path) -> None:
    """Each with the layout that it has."""
    model = make("sd1", tmp_path)
    cone = random_cone(model)
    checkpoint = told(write_checkpoint(model, cone, tmp_path / "out.safetensors"))
    denoiser = told(write_denoiser(model, cone, tmp_path / "unet.safetensors"))
    for found in (checkpoint, denoiser):
        assert found["modelspec.architecture"] == "stable-diffusion-v1"
        assert (found["modelspec.title"], found["modelspec.trigger_phrase"]) == ("pipeline with dog", "sks dog")
    assert checkpoint["modelspec.implementation"] == STABILITY and denoiser["modelspec.implementation"] == "diffusers"
