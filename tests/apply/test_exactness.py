"""What an export does not mean to change is as it was stored, bit for bit, whatever it was loaded in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conestool.apply import write_checkpoint, write_denoiser, write_folder
from conestool.apply.edits import apply_edit_, weight_edits
from conestool.concept import Cone
from conestool.models.conversion.fused_qkv import DENOISER_PREFIX
from conestool.models.devices import DTYPES
from conestool.models.model import Model
from tests.support.ldm_writer import save_original
from tests.support.model_files import FAMILIES, recast
from tests.support.tiny_models import random_cone, save

STRENGTH = 0.3
HALVES = ("bfloat16", "float16")


@pytest.fixture(scope="module")
def packagings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """By stored dtype the same model as a folder and as a single file; "mixed" is float16 beside a float32 VAE."""
    place = tmp_path_factory.mktemp("exact")
    pipe = FAMILIES["sd1"](place)
    folder, single = save(pipe, place / "base"), save_original(pipe, place / "base.safetensors")
    found = {"float32": (folder, single)}
    for name in HALVES:
        made = recast(folder, place / name, DTYPES[name]), recast(single, place / f"{name}.safetensors", DTYPES[name])
        found[name] = made
    mixed = recast(folder, place / "mixed", torch.float16)
    exact = "vae/diffusion_pytorch_model.safetensors"
    (mixed / exact).write_bytes((folder / exact).read_bytes())
    narrow, wide = load_file(place / "float16.safetensors"), load_file(single)
    both = {key: (wide if key.startswith("first_stage_model.") else narrow)[key] for key in wide}
    save_file(both, place / "mixed.safetensors", {"format": "pt"})
    return found | {"mixed": (mixed, place / "mixed.safetensors")}


def tensors_of(path: Path) -> dict[str, Tensor]:
    """All tensors of a file or folder, by component and name."""
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    return {
        key if path.is_file() else f"{file.parent.name}.{key}": value
        for file in files
        for key, value in load_file(file).items()
    }


def check(written: Mapping[str, Tensor], stored: Mapping[str, Tensor], cone: Cone, prefix: str) -> None:
    """The same tensors with the same values, but for those of the concept, and these at its indices alone."""
    assert written.keys() == stored.keys()
    edits = {prefix + param: edit for param, edit in weight_edits(cone, STRENGTH).items()}
    for name, value in stored.items():
        expected = value.clone()
        if name in edits:
            apply_edit_(expected, edits[name])
            assert not torch.equal(expected, value)
        assert torch.equal(written[name].to(torch.float64), expected.to(torch.float64)), name


@pytest.mark.parametrize("stored", ["float32", *HALVES, "mixed"])
@pytest.mark.parametrize("single", [False, True], ids=["folder", "single file"])
def test_exports_are_what_is_stored(
    packagings: dict[str, tuple[Path, Path]], stored: str, single: bool, tmp_path: Path
) -> None:
    """As folder, checkpoint and denoiser, from weights that were rounded where they were loaded."""
    folder, file = packagings[stored]
    cone = random_cone(Model.from_pretrained(str(folder)))
    for dtype in ("float16" if stored == "bfloat16" else "bfloat16", "float32")[: 2 if stored == "mixed" else 1]:
        model = Model.from_pretrained(str(file if single else folder), dtype=dtype, config=str(folder))
        place = tmp_path / dtype
        place.mkdir()
        check(
            tensors_of(write_folder(model, cone, place / "out", strength=STRENGTH)), tensors_of(folder), cone, "unet."
        )
        whole = {key.removeprefix("unet."): value for key, value in tensors_of(folder).items() if key[:5] == "unet."}
        made = write_denoiser(model, cone, place / "unet.safetensors", strength=STRENGTH)
        check(tensors_of(made), whole, cone, "")
        made = write_checkpoint(model, cone, place / "one.safetensors", strength=STRENGTH)
        rest = {key: value for key, value in tensors_of(made).items() if not key.startswith(DENOISER_PREFIX)}
        check(rest, {key: value for key, value in tensors_of(file).items() if key in rest}, cone, "unet.")
        again = Model.from_pretrained(str(made), config=str(folder), dtype="float32")
        check(again.denoiser.state_dict(), whole, cone, "")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_pipeline_in_memory_is_written_as_it_is(tmp_path: Path, dtype: str) -> None:
    """It was never stored: its own weights count, in their own dtype."""
    model = Model.from_pipeline(FAMILIES["sd1"](tmp_path).to(DTYPES[dtype]))
    cone = random_cone(model)
    written = tensors_of(write_folder(model, cone, tmp_path / "out", strength=STRENGTH))
    stored = {
        f"{name}.{key}": value
        for name in ("unet", "vae")
        for key, value in model.pipe.components[name].state_dict().items()
    }
    check({key: written[key] for key in stored}, stored, cone, "unet.")
    assert written["unet.conv_in.weight"].dtype == DTYPES[dtype]
