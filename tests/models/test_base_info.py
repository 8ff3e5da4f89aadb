"""The identity of a model: the same digests however it was loaded, cached by file, blind to nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from conestool.fingerprint import fingerprint
from conestool.models import base_info
from conestool.models.base_info import public_id
from conestool.models.kv_weights import kv_weights
from conestool.models.model import Model
from tests.support.tiny_models import save_pipeline


def test_is_the_digests_of_the_kv_weights(epsilon_folder: Path, tmp_path: Path) -> None:
    """Equal to those of the U-Net's weights by hand, whatever dtype it is loaded in, in one file or in shards."""
    model = Model.from_pretrained(str(epsilon_folder))
    expected = fingerprint({name: w.detach().numpy() for name, w in kv_weights(model.denoiser).items()})
    info = model.info
    assert info.model_dump(include=set(expected)) == expected
    assert (info.family, info.dtype, info.id) == ("stable-diffusion", "float32", epsilon_folder.name)
    assert all(
        Model.from_pretrained(str(epsilon_folder), dtype=dtype).info == info for dtype in ("float16", "bfloat16")
    )
    folder = Path(shutil.copytree(epsilon_folder, tmp_path / "shards"))
    shutil.rmtree(folder / "unet")
    model.denoiser.save_pretrained(folder / "unet", max_shard_size="40KB")  # type: ignore[operator]
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    assert Model.from_pretrained(str(folder)).info.digests == info.digests


def test_is_remembered_by_file_and_forgotten_when_it_changes(tmp_path: Path, own_cache: Path) -> None:
    """The second time nothing is hashed; a new time of change means hashing again, and so does a damaged cache."""
    folder = save_pipeline(tmp_path / "m")
    first = Model.from_pretrained(str(folder)).info
    [kept] = (own_cache / "identity").iterdir()
    kept.write_text(kept.read_text().replace(first.digests["f32"], "0" * 64))
    assert Model.from_pretrained(str(folder)).info.digests["f32"] == "0" * 64
    for content in ("", "{}", '{"digests": 3}', "[1]"):
        kept.write_text(content)
        assert Model.from_pretrained(str(folder)).info == first
    os.utime(folder / "unet" / "diffusion_pytorch_model.safetensors", (1, 1))
    assert Model.from_pretrained(str(folder)).info == first


def test_an_unwritable_cache_breaks_nothing(
    epsilon_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache folder may be a file, or below one, or on a file system that is read-only."""
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/below", "/proc/self/cones", "/dev/null/x"):
        monkeypatch.setenv("CONES_CACHE", str(place))
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
