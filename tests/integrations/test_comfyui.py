"""The node pack for ComfyUI: its map of names, and its nodes inside ComfyUI itself.

The latter runs where COMFYUI_PATH is a checkout of ComfyUI and COMFYUI_PYTHON the Python that has its requirements
(default: this one). It needs 1.5 GB of disk and no GPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.configurations import CLIP_L, SD1, UNETS, VAE
from conestool import save
from conestool.apply.edits import apply_edit_, weight_edits
from conestool.concept import BaseModelInfo, Cone
from conestool.fingerprint import fingerprint
from conestool.models.conversion.fused_qkv import has_layout, to_original_state_dict
from conestool.models.conversion.ldm import clip_state_dict, unet_state_dict, vae_state_dict
from conestool.models.kv_weights import KV_SUFFIXES, kv_weights
from tests.support.cones import concept
from tests.support.model_files import FAMILIES, VARIANTS

PACK = Path(__file__).parents[2] / "integrations" / "comfyui"
DRIVER = Path(__file__).with_name("comfyui_driver.py")
COMFYUI = os.environ.get("COMFYUI_PATH")
inside = pytest.mark.skipif(
    COMFYUI is None,
    reason="ComfyUI itself was not run: COMFYUI_PATH names no checkout of it (integrations/comfyui/README.md)",
)
REAL = {
    **{name: (UNet2DConditionModel, config) for name, config in UNETS.items()},
    "sd3.5-medium": (
        SD3Transformer2DModel,
        {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384}
        | {"dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"},
    ),
    "flux-dev": (FluxTransformer2DModel, {"num_layers": 19, "num_single_layers": 38, "guidance_embeds": True}),
    "pixart-sigma": (PixArtTransformer2DModel, {"caption_channels": 4096, "sample_size": 128}),
}
"""Every layout at its real size."""


def kv_places(shapes: Any) -> Any:
    """The pack's own function; the pack as a whole can be imported in ComfyUI alone."""
    spec = importlib.util.spec_from_file_location("kv_keys", PACK / "kv_keys.py")
    assert spec and spec.loader
    module = sys.modules["kv_keys"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.kv_places(shapes)


def original(denoiser: Any) -> dict[str, Tensor]:
    """A denoiser's tensors in its original layout, without prefix; of PixArt's those that matter here."""
    state = denoiser.state_dict()
    if has_layout(denoiser):
        return to_original_state_dict(state, denoiser)
    if isinstance(denoiser, UNet2DConditionModel):
        return unet_state_dict(state, denoiser.config)
    out = {"t_block.1.weight": state["adaln_single.linear.weight"], "pos_embed": torch.zeros(1, 64 * 64, 1)}
    for number in range(denoiser.config.num_layers):
        block = f"transformer_blocks.{number}"
        three = [state[f"{block}.attn1.to_{each}.weight"] for each in "qkv"]
        out[f"blocks.{number}.attn.qkv.weight"] = torch.cat(three)
        out[f"blocks.{number}.cross_attn.q_linear.weight"] = state[f"{block}.attn2.to_q.weight"]
        two = [state[f"{block}.attn2.to_{each}.weight"] for each in "kv"]
        out[f"blocks.{number}.cross_attn.kv_linear.weight"] = torch.cat(two)
    return out


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_every_weight_is_found_in_the_original_layout(family: str, tmp_path: Path) -> None:
    """All K/V weights of every family under their names in diffusers, bit for bit, and nothing else."""
    pipe = (FAMILIES | VARIANTS)[family](tmp_path)
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    tensors = original(denoiser)
    places, weights = kv_places({key: value.shape for key, value in tensors.items()}), kv_weights(denoiser)
    assert places.keys() == weights.keys()
    for name, (key, start, rows) in places.items():
        assert torch.equal(tensors[key][start : start + rows], weights[name]), name


@pytest.fixture(scope="module")
def real() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Of each layout at its real size the original keys and the K/V weights of diffusers, with their shapes."""
    found = {}
    for family, (kind, config) in REAL.items():
        with torch.device("meta"):
            denoiser = kind(**config)
            shapes = {key: list(value.shape) for key, value in original(denoiser).items()}
        weights = {key: list(value.shape) for key, value in denoiser.state_dict().items() if key.endswith(KV_SUFFIXES)}
        found[family] = shapes, weights
    return found


def test_so_are_they_at_the_real_sizes(real: dict[str, Any]) -> None:
    """The blocks of Stable Diffusion 1.5, 2.1, XL and 3.5, Flux and PixArt, with the shapes that diffusers gives."""
    for family, (shapes, weights) in real.items():
        places = kv_places(shapes)
        assert {name: [at.rows, shapes[at.key][1]] for name, at in places.items()} == weights, family


def drive(step: str, folder: Path, **told: Any) -> Any:
    """What a step of the driver answers, in a process of ComfyUI's Python."""
    (folder / "told.json").write_text(json.dumps(told))
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    path = str(Path(__file__).parents[2])
    done = subprocess.run(
        [python, DRIVER, step, folder],
        env=os.environ | {"PYTHONPATH": path, "COMFYUI_PATH": str(COMFYUI)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads((folder / "answer.json").read_text())


@inside
def test_comfyui_calls_the_weights_the_same(real: dict[str, Any], tmp_path: Path) -> None:
    """ComfyUI recognises every layout, and its own maps of LoRA names put each weight where the pack does."""
    answer = drive("names", tmp_path, families=real)
    assert answer == {family: len(weights) for family, (_, weights) in real.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ComfyUI takes for its own: a random checkpoint of the 1.x layout in fp16, and concepts for it.

    The widths are those of Stable Diffusion 1.5, by which ComfyUI knows it; the U-Net has two levels of one layer.
    """
    folder = tmp_path_factory.mktemp("comfyui")
    for name in ("models/checkpoints", "models/cones", "models/loras", "custom_nodes"):
        (folder / name).mkdir(parents=True)
    shutil.copytree(PACK, folder / "custom_nodes" / "conestool")
    torch.manual_seed(0)
    small = {"block_out_channels": (320, 640), "layers_per_block": 1}
    kinds = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    unet = UNet2DConditionModel(**SD1 | small | kinds)
    for weight in kv_weights(unet).values():  # halves of what is left are exact in fp16
        weight.data[weight.abs() < 2**-13] = 0
    texts = CLIPTextModel(CLIPTextConfig(vocab_size=49408, projection_dim=768, **CLIP_L))
    vae = AutoencoderKL(latent_channels=4, **VAE)
    weights = {name: weight.detach() for name, weight in kv_weights(unet).items()}
    info = BaseModelInfo(
        id="tiny-sd", family="stable-diffusion", dtype="float32",
        **fingerprint((name, weight.numpy()) for name, weight in weights.items()),
    )  # fmt: skip
    dog, hat = (concept(*each, info=info, share=0.2, seed=n) for n, each in enumerate([("dog", "sks"), ("hat", "zwx")]))
    other = concept(
        "cat", "vlk", info=info.model_copy(update={"id": "other-sd", "digests": dict.fromkeys(info.digests, "0" * 64)})
    )
    for each in (dog, hat, other):
        save(Cone((each,)), folder / "models" / "cones" / f"{each.name}.cone")
    (folder / "models" / "cones" / "broken.cone").write_bytes((folder / "models/cones/dog.cone").read_bytes()[:-40])
    parts = {"model.diffusion_model.": unet_state_dict(unet.state_dict(), unet.config)}
    parts["first_stage_model."] = vae_state_dict(vae.state_dict(), vae.config)
    parts["cond_stage_model.transformer."] = clip_state_dict(texts.state_dict())
    state = {
        place + key: value.detach().half().contiguous() for place, part in parts.items() for key, value in part.items()
    }
    save_file(state, folder / "models" / "checkpoints" / "base.safetensors")
    edits = weight_edits(Cone((dog, hat)), {"dog": 0.5, "hat": 1.0})
    unet.half()
    for name, weight in kv_weights(unet).items():
        apply_edit_(weight.data, edits[name])
    edited = unet_state_dict(unet.state_dict(), unet.config)
    state |= {"model.diffusion_model." + key: value.contiguous() for key, value in edited.items()}
    save_file(state, folder / "models" / "checkpoints" / "edited.safetensors")
    return folder


@inside
def test_weights_are_patched_and_come_back(checkpoint: Path) -> None:
    """Through ModelPatcher every weight becomes that of `cones apply`, and its former bits return.

    The same with weights offloaded, with a LoRA before or after, and with what a merge of models takes over.
    """
    answer = drive("weights", checkpoint)
    assert answer["told"] == "dog: base model tiny-sd, equal at float16"
    assert answer["phrase"] == "sks dog, zwx hat"
    assert answer["prompt"] == "a photo of a sks dog in a zwx hat"
    assert answer["heavy"] == []
    assert answer["checks"] and all(answer["checks"].values()), answer["checks"]
    errors = answer["errors"]
    assert errors["other"] == (
        "cat was found on other-sd, and this model is another: different weights. "
        "Load other-sd, or set allow_other_base to try all the same."
    )
    assert "broken.cone: truncated" in errors["broken"]
    assert errors["name"] == "no concept named 'rex'; it holds: dog"
    assert "Load Concept Neurons" in errors["bare"]
    assert "names no concept" in errors["prompt"]


@inside
def test_a_workflow_draws_with_concepts(checkpoint: Path) -> None:
    """ComfyUI's server runs a workflow: the nodes draw what the edited checkpoint draws, and the bare model stays."""
    answer = drive("server", checkpoint)
    drawn = answer["pictures"]
    assert drawn["nodes"] == drawn["edited"] != drawn["base"] == drawn["base again"]
    assert answer["texts"]["prompt"] == "a photo of a sks dog in a zwx hat"
    assert "equal at float16" in answer["texts"]["told"]
    assert answer["error"].startswith("cat was found on other-sd")
