"""The identity of a model: one ladder however it was loaded, cached by file, and blind to nothing that matters."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conestool.fingerprint import Level, fingerprint, match
from conestool.models import base_info
from conestool.models.base_info import public_id
from conestool.models.kv_weights import kv_weights
from conestool.models.model import Model
from tests.support.tiny_models import save_pipeline

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def test_is_the_ladder_over_the_kv_weights(epsilon_folder: Path) -> None:
    """Equal to the ladder fed by hand with the U-Net's weights."""
    model = Model.from_pretrained(str(epsilon_folder))
    expected = fingerprint({name: w.detach().numpy() for name, w in kv_weights(model.denoiser).items()})
    info = model.info
    assert info.model_dump(include=set(expected)) == expected
    assert (info.family, info.dtype, info.id) == ("stable-diffusion", "float32", epsilon_folder.name)


def test_folder_and_memory_agree(epsilon_folder: Path) -> None:
    """The files and the loaded pipeline are the same model."""
    model = Model.from_pretrained(str(epsilon_folder))
    assert Model.from_pipeline(model.pipe).info.digests == model.info.digests


def test_does_not_depend_on_the_dtype_it_was_loaded_in(epsilon_folder: Path) -> None:
    """A model from a folder is known by what is stored."""
    infos = [Model.from_pretrained(str(epsilon_folder), dtype=dtype).info for dtype in DTYPES]
    assert infos[0] == infos[1] == infos[2]


def test_shards_agree_with_one_file(tmp_path: Path, epsilon_folder: Path) -> None:
    """Packaging is no part of the identity."""
    folder = Path(shutil.copytree(epsilon_folder, tmp_path / "shards"))
    pipe = Model.from_pretrained(str(folder)).pipe
    whole = Model.from_pretrained(str(folder)).info
    shutil.rmtree(folder / "unet")
    pipe.unet.save_pretrained(folder / "unet", max_shard_size="40KB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    assert Model.from_pretrained(str(folder)).info.digests == whole.digests


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_rounded_copy_is_equal_at_its_dtype(tmp_path: Path, epsilon_folder: Path, dtype: str) -> None:
    """Saved in 16 bits, and saved so and cast up again, both match the original at that rung."""
    original = Model.from_pretrained(str(epsilon_folder))
    pipe = Model.from_pretrained(str(epsilon_folder), dtype=dtype).pipe
    half, up = tmp_path / "half", tmp_path / "up"
    pipe.save_pretrained(half)
    pipe.to(torch.float32).save_pretrained(up)
    for copy in (half, up):
        found = match(original.info, Model.from_pretrained(str(copy)).info)
        assert found.level is Level.EQUAL_AT and found.text == f"equal at {dtype}"


@pytest.mark.parametrize("noise", [1e-4, 1e-3])
def test_a_fine_tune_is_another_model(tmp_path: Path, epsilon_folder: Path, noise: float) -> None:
    """One changed matrix of 28 is enough, at any rung."""
    folder = Path(shutil.copytree(epsilon_folder, tmp_path / "tuned"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if name.endswith("attn2.to_v.weight"))
    tensors[name] += noise * torch.randn_like(tensors[name])
    save_file(tensors, file, {"format": "pt"})
    assert not match(Model.from_pretrained(str(epsilon_folder)).info, Model.from_pretrained(str(folder)).info).accepted


def test_is_remembered_by_file_and_forgotten_when_it_changes(tmp_path: Path, own_cache: Path) -> None:
    """The second time nothing is hashed; a new time of change means hashing again."""
    folder = save_pipeline(tmp_path / "m")
    first = Model.from_pretrained(str(folder)).info
    [kept] = (own_cache / "identity").iterdir()
    kept.write_text(kept.read_text().replace(first.digests["f32"], "0" * 64))
    assert Model.from_pretrained(str(folder)).info.digests["f32"] == "0" * 64
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    os.utime(file, (1, 1))
    assert Model.from_pretrained(str(folder)).info == first


@pytest.mark.parametrize("content", ["", "{}", '{"digests": 3}', "[1]"])
def test_a_damaged_cache_is_passed_over(tmp_path: Path, own_cache: Path, content: str) -> None:
    """Whatever stands in the cache file, the answer is right."""
    folder = save_pipeline(tmp_path / "m")
    first = Model.from_pretrained(str(folder)).info
    [kept] = (own_cache / "identity").iterdir()
    kept.write_text(content)
    assert Model.from_pretrained(str(folder)).info == first


def test_an_unwritable_cache_breaks_nothing(
    epsilon_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache folder may be a file, or below one."""
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        monkeypatch.setenv("CONES_CACHE", str(tmp_path / place))
        assert Model.from_pretrained(str(epsilon_folder)).info.digests


def test_memory_is_hashed_anew_after_a_change(epsilon_folder: Path) -> None:
    """A pipeline that someone trains on does not keep its old identity."""
    pipe = Model.from_pretrained(str(epsilon_folder)).pipe
    before = Model.from_pipeline(pipe).info
    weight = next(iter(kv_weights(pipe.unet).values()))
    with torch.no_grad():
        weight[0, 0] += 0.5
    assert Model.from_pipeline(pipe).info.digests != before.digests
    with torch.no_grad():
        weight[0, 0] -= 0.5
    assert Model.from_pipeline(pipe).info.structure == before.structure


def test_an_absolute_path_is_no_part_of_the_id() -> None:
    """Names of people's folders stay with them; ids and relative paths are kept as given."""
    assert public_id("/home/jane/models/sd15") == "sd15"
    assert public_id("~/sd15") == "sd15"
    assert public_id("models/sd15") == "models/sd15" and public_id("pocket") == "pocket"


def test_other_content_under_the_same_size_and_time_is_another_model(tmp_path: Path, own_cache: Path) -> None:
    """As archives and container images leave it, which give all files one time."""
    for number in range(2):
        save_pipeline(tmp_path / str(number), seed=number)
    weights = Path("unet") / "diffusion_pytorch_model.safetensors"
    first, second = (tmp_path / str(number) / weights for number in range(2))
    os.utime(first, ns=(10**18, 10**18))
    before = Model.from_pretrained(str(tmp_path / "0"), device="cpu").info
    first.write_bytes(second.read_bytes())
    os.utime(first, ns=(10**18, 10**18))
    assert Model.from_pretrained(str(tmp_path / "0"), device="cpu").info.digests != before.digests


def test_files_replaced_while_they_are_hashed_are_not_remembered(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the old files' name would carry the new ones' identity."""
    folder = save_pipeline(tmp_path / "model")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    real = base_info.folder_weights

    def slow(files: list[Path], wanted: set[str]) -> Any:
        yield from real(files, wanted)
        weights.touch()

    monkeypatch.setattr(base_info, "folder_weights", slow)
    assert Model.from_pretrained(str(folder), device="cpu").info
    assert not (own_cache / "identity").exists()
