"""Checkpoints in 8 bits: refused when they are opened if their K/V weights are, and with what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conestool.errors import ModelLoadError
from conestool.models.model import Model

KINDS = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
UNET = "model.diffusion_model."
SINGLE = (
    f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_k.weight",
    f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_v.weight",
    f"{UNET}joint_blocks.0.context_block.attn.qkv.weight",
    "double_blocks.0.img_attn.qkv.weight",
    "single_blocks.7.linear1.weight",
)
"""K/V weights in the layouts of Stable Diffusion, SD3 and Flux."""


def rounded(file: Path, dtype: torch.dtype, ending: str = "") -> None:
    """Store the tensors of a file whose names end so in another dtype."""
    tensors = load_file(file)
    changed = {key: value.to(dtype) for key, value in tensors.items() if key.endswith(ending)}
    save_file({**tensors, **changed}, file, {"format": "pt"})


@pytest.fixture
def folder(epsilon_folder: Path, tmp_path: Path) -> Path:
    """A copy of the small model, to be changed."""
    return Path(shutil.copytree(epsilon_folder, tmp_path / "model"))


@pytest.mark.parametrize("dtype", ["auto", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_with_kv_weights_in_eight_bits_is_refused(folder: Path, kind: str, dtype: str) -> None:
    """Whatever dtype is asked for: diffusers keeps some of them in 8 bits all the same."""
    rounded(folder / "unet" / "diffusion_pytorch_model.safetensors", KINDS[kind], "attn2.to_v.weight")
    with pytest.raises(ModelLoadError, match=rf"attn2\.to_v\.weight is stored as {kind}") as caught:
        Model.from_pretrained(str(folder), dtype=dtype)
    assert caught.value.exit_code == 7
    assert "float16, bfloat16 or float32 copy" in str(caught.value.hint) and "--dtype" in str(caught.value.hint)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SINGLE)
def test_a_single_file_in_eight_bits_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    """Before its configuration is looked for, so that nobody fetches that in vain."""
    file, rest = tmp_path / "model.safetensors", {key: torch.zeros(4, 4) for key in (f"{UNET}out.2.weight", "a.weight")}
    save_file({name: torch.zeros(4, 4, dtype=KINDS[kind]), **rest}, file)
    with pytest.raises(ModelLoadError, match=f"stored as {kind}") as caught:
        Model.from_pretrained(str(file))
    assert name in str(caught.value)


def test_eight_bits_elsewhere_are_no_obstacle(folder: Path) -> None:
    """A text encoder holds no concept neurons; it is computed in the dtype of the rest."""
    rounded(folder / "text_encoder" / "model.safetensors", torch.float8_e4m3fn, "weight")
    model = Model.from_pretrained(str(folder))
    assert {parameter.dtype for parameter in model.pipe.text_encoder.parameters()} == {torch.float32}
    assert model.stored_dtype == torch.float32
