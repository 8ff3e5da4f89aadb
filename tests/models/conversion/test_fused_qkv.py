"""SD3 and Flux in their original layouts, held against diffusers' own conversions; what has no such layout; LoRAs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.loaders import single_file_utils as reader
from safetensors.torch import load_file, save_file
from torch import Tensor

from conestool.apply import apply_cones, checkpoint_notes, write_checkpoint, write_lora
from conestool.apply.export_lora import Target, kohya_name, named
from conestool.errors import ModelLoadError, UsageError
from conestool.models.conversion.fused_qkv import DENOISER_PREFIX, to_original_state_dict
from conestool.models.model import Model
from tests.support.model_files import FAMILIES, VARIANTS
from tests.support.tiny_models import random_cone, save

SD3 = {
    "num_layers": 3,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 8,
    "dual_attention_layers": (0, 1),
    "qk_norm": "rms_norm",
}
FLUX = {"num_layers": 2, "num_single_layers": 2, "guidance_embeds": True}
KNOWN = {
    "sd3": {
        "x_embedder.proj.weight": (1536, 16, 2, 2),
        "joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536),
        "joint_blocks.1.x_block.attn2.qkv.bias": (4608,),
        "joint_blocks.2.context_block.attn.qkv.weight": (4608, 1536),
        "joint_blocks.2.context_block.adaLN_modulation.1.weight": (3072, 1536),
        "y_embedder.mlp.0.weight": (1536, 2048),
    },
    "flux": {
        "double_blocks.0.img_attn.qkv.weight": (9216, 3072),
        "double_blocks.1.txt_attn.norm.key_norm.scale": (128,),
        "single_blocks.0.linear1.weight": (21504, 3072),
        "single_blocks.1.linear2.weight": (3072, 15360),
        "guidance_in.in_layer.weight": (3072, 256),
        "vector_in.in_layer.weight": (3072, 768),
    },
}
"""Names and shapes in sd3.5_medium and flux1-dev."""


def real_width(family: str) -> Any:
    """A transformer without memory, of the real width and few layers."""
    with torch.device("meta"):
        return SD3Transformer2DModel(**SD3) if family == "sd3" else FluxTransformer2DModel(**FLUX)


def converted(family: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' conversion of a checkpoint."""
    kind = "sd3" if family == "sd3" else "flux"
    convert = getattr(reader, f"convert_{kind}_transformer_checkpoint_to_diffusers")
    return dict(convert({DENOISER_PREFIX + key: value for key, value in state.items()}))


@pytest.mark.parametrize("family", KNOWN)
def test_every_tensor_comes_back_under_its_name(family: str) -> None:
    """At the real widths; names and shapes are those of the published files, and every row returns to its place.

    What no original module has is not dropped in silence.
    """
    denoiser = real_width(family)
    state = denoiser.state_dict()
    original = to_original_state_dict(state, denoiser)
    assert {name: tuple(original[name].shape) for name in KNOWN[family]} == KNOWN[family]
    back = converted(family, original)
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in state.items()}
    columns = {key: torch.randn(value.shape[:1]) for key, value in state.items()}
    back = converted(family, to_original_state_dict(columns, denoiser))
    assert back.keys() == columns.keys() and all(torch.equal(back[key], value) for key, value in columns.items())
    for key in ("transformer_blocks.0.attn.extra.weight", "transformer_blocks.0.ff.net.1.weight"):
        with pytest.raises(UsageError, match=key):
            to_original_state_dict({key: torch.zeros(1)}, denoiser)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """Small models from folders; tests must leave them as they are."""
    found = {}
    for name, make in (FAMILIES | VARIANTS).items():
        if name in ("sd3", "flux", "flux-schnell", "pixart"):
            place = tmp_path_factory.mktemp(name)
            found[name] = Model.from_pretrained(str(save(make(place), place / "base")))
    return found


def folder_of(model: Model) -> Path:
    """Where a model came from."""
    assert model.path is not None
    return model.path


def same_parts(one: Any, other: Any) -> None:
    """Assert that all modules of two pipelines have equal weights."""
    for name, part in one.components.items():
        if isinstance(part, torch.nn.Module):
            state = other.components[name].state_dict()
            for key, value in part.state_dict().items():
                assert torch.equal(state[key], value), (name, key)


@pytest.mark.parametrize("family", KNOWN)
@pytest.mark.parametrize("prefix", ["", DENOISER_PREFIX])
def test_a_transformer_alone_takes_the_rest_from_its_configuration(
    models: dict[str, Model], tmp_path: Path, family: str, prefix: str
) -> None:
    """As Flux is published: the same model, patched in place, with nothing added to the file."""
    model = models[family]
    denoiser: Any = model.denoiser
    file = tmp_path / "alone.safetensors"
    save_file(
        {prefix + key: value for key, value in to_original_state_dict(denoiser.state_dict(), denoiser).items()}, file
    )
    alone = Model.from_pretrained(str(file), config=str(model.path))
    assert alone.info.digests == model.info.digests
    cone = random_cone(model, density=0.3)
    out = write_checkpoint(alone, cone, tmp_path / "out.safetensors", strength=0.5)
    assert load_file(out).keys() == load_file(file).keys()
    with apply_cones(model, cone, strength=0.5):
        same_parts(model.pipe, Model.from_pretrained(str(out), config=str(model.path)).pipe)


def test_says_what_a_file_and_its_configuration_lack(models: dict[str, Model], tmp_path: Path) -> None:
    """The part, and how to get it; never a pipeline that fails later."""
    import shutil

    denoiser: Any = models["flux"].denoiser
    file = tmp_path / "alone.safetensors"
    save_file(to_original_state_dict(denoiser.state_dict(), denoiser), file)
    bare = tmp_path / "bare"
    shutil.copytree(folder_of(models["flux"]), bare, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ModelLoadError, match="holds no vae") as caught:
        Model.from_pretrained(str(file), config=str(bare))
    assert "--config" in str(caught.value.hint)
    with pytest.raises(ModelLoadError, match="no place for guidance_in"):
        Model.from_pretrained(str(file), config=str(models["flux-schnell"].path))
    schnell: Any = models["flux-schnell"].denoiser
    save_file(to_original_state_dict(schnell.state_dict(), schnell), file)
    with pytest.raises(ModelLoadError, match="no tensor guidance_in"):
        Model.from_pretrained(str(file), config=str(models["flux"].path))


def test_notes_what_programs_cannot_tell(models: dict[str, Model], tmp_path: Path) -> None:
    """Another shift of latents, and a projection that sd3 files have no place for."""
    assert checkpoint_notes(models["sd3"]) == checkpoint_notes(models["flux"]) == []
    pipe = FAMILIES["sd3"](tmp_path)
    pipe.vae.register_to_config(shift_factor=0.5)
    with torch.no_grad():
        pipe.text_encoder.text_projection.weight.mul_(2)
    shift, projection = checkpoint_notes(Model.from_pipeline(pipe))
    assert "shifted by 0.5; programs assume 0.0609" in shift and "projects" in projection


def test_pixart_has_neither_checkpoint_nor_lora(models: dict[str, Model], tmp_path: Path) -> None:
    """Refused, with the packaging that works."""
    cone = random_cone(models["pixart"])
    for write in (write_checkpoint, write_lora):
        with pytest.raises(UsageError) as caught:
            write(models["pixart"], cone, tmp_path / "out.safetensors")
        assert "diffusers folder" in str(caught.value.hint)
    assert not (tmp_path / "out.safetensors").exists()


INVOKE = re.compile(
    r"lora_unet_(double|single)_blocks_\d+_"
    r"(img_attn|img_mlp|img_mod|txt_attn|txt_mlp|txt_mod|linear1|linear2|modulation)_?"
)
"""What every key of a Flux LoRA begins with for InvokeAI 6.14 (`flux_kohya_lora_conversion_utils.py`)."""


def with_lora(state: dict[str, Tensor], lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """The rule of ComfyUI 17358c8 (`comfy/lora.py`), Forge dfdcbab and sd-scripts 48d368f, for every transformer.

    A module of the original layout is lora_unet_ and its path with underscores; up @ down * alpha / rank is added.
    """
    modules = {"lora_unet_" + key.removesuffix(".weight").replace(".", "_"): key for key in state}
    out, left = dict(state), set(lora)
    for name in sorted({key.split(".")[0] for key in lora}):
        up, down, alpha = (lora[f"{name}.{end}"] for end in ("lora_up.weight", "lora_down.weight", "alpha"))
        out[modules[name]] = out[modules[name]] + up @ down * alpha / len(down)
        left -= {f"{name}.{end}" for end in ("lora_up.weight", "lora_down.weight", "alpha")}
    assert not left
    return out


@pytest.mark.parametrize("family", ["sd3", "flux", "flux-schnell"])
def test_programs_find_every_matrix_of_a_lora(models: dict[str, Model], tmp_path: Path, family: str) -> None:
    """At full rank the sum is the patched checkpoint, tensor by tensor; K and V of one stack are one matrix."""
    model = models[family]
    denoiser: Any = model.denoiser
    cone = random_cone(model, density=0.1)
    done = write_lora(model, cone, tmp_path / "lora.safetensors", rank=1000, strength=0.75)
    assert done.energy == pytest.approx(1, abs=1e-6)
    before = {key: value.clone() for key, value in to_original_state_dict(denoiser.state_dict(), denoiser).items()}
    summed = with_lora(before, load_file(done.path))
    with apply_cones(model, cone, strength=0.75):
        patched = {key: value.clone() for key, value in to_original_state_dict(denoiser.state_dict(), denoiser).items()}
    assert any(not torch.equal(patched[key], value) for key, value in before.items())
    for key, value in summed.items():
        torch.testing.assert_close(value, patched[key], rtol=1e-5, atol=1e-6)
    if family.startswith("flux"):
        assert all(INVOKE.match(key) for key in load_file(done.path))


def test_diffusers_takes_the_flux_lora_apart_as_it_was_put_together() -> None:
    """At the real width, which its conversion is written for: K, V and nothing else of a double and a single block."""
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    width, up, down = 3072, torch.randn(2 * 3072, 4), torch.randn(4, 3072)
    zero, k, v = torch.zeros(width, width), up[:width] @ down, up[width:] @ down
    blocks = {
        "double_blocks.1.txt_attn.qkv": ("transformer_blocks.1.attn.add_{}_proj", {}),
        "single_blocks.1.linear1": ("single_transformer_blocks.1.attn.to_{}", {"proj_mlp": zero.repeat(4, 1)}),
    }
    for name, (param, others) in blocks.items():
        rows = {param.format("k"): slice(width, 2 * width), param.format("v"): slice(2 * width, 3 * width)}
        target = Target(kohya_name(name), (3 * width) + sum(map(len, others.values())), rows)
        back = _convert_kohya_flux_lora_to_diffusers(named(target, up, down))
        expected = {param.format("q"): zero, param.format("k"): k, param.format("v"): v}
        expected |= {"single_transformer_blocks.1." + key: value for key, value in others.items()}
        assert {key.removeprefix("transformer.").rpartition(".lora_")[0] for key in back} == expected.keys()
        for key, value in expected.items():
            product = back[f"transformer.{key}.lora_B.weight"] @ back[f"transformer.{key}.lora_A.weight"]
            torch.testing.assert_close(product, value)
