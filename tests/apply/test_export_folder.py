"""Diffusers folders: shards, names and dtypes stay, and a name is only ever that of a whole folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from conestool.apply import export_folder, write_folder
from conestool.apply._safetensors import copy_or_link
from conestool.concept import Concept, Cone
from conestool.models.model import Model
from tests.support.tiny_models import random_cone


def files(folder: Path) -> dict[str, Path]:
    """All files below a folder by relative name, but for the card."""
    found = sorted(item for item in folder.rglob("*") if item.is_file() and item.name != "README.md")
    return {str(item.relative_to(folder)): item for item in found}


@pytest.mark.parametrize("link", [False, True])
def test_keeps_the_shards_and_links_what_is_unchanged(sd1: Model, tmp_path: Path, link: bool) -> None:
    """Only the shards that hold neurons differ; with link the other weights are the same files, configurations not."""
    whole = random_cone(sd1)["dog"]
    param = min(whole.indices)
    cone = Cone((Concept("dog", "dog", "sks", {param: whole.indices[param]}, whole.base),))
    out = write_folder(sd1, cone, tmp_path / "out", link=link)
    assert sd1.path is not None
    old, new = files(sd1.path), files(out)
    assert new.keys() == old.keys() and len([name for name in new if name.startswith("unet/diff")]) > 3
    changed = [name for name, file in new.items() if file.read_bytes() != old[name].read_bytes()]
    [shard] = changed
    assert param in load_file(new[shard]) and new[shard].stat().st_size == old[shard].stat().st_size
    shared = {name for name, file in new.items() if file.samefile(old[name])}
    weights = {name for name in new if name.endswith(".safetensors")}
    assert shared == (weights - {shard} if link else set())
    with safe_open(new[shard], "pt") as written, safe_open(old[shard], "pt") as stored:
        assert list(written.keys()) == list(stored.keys()) and written.metadata() == stored.metadata()


def test_a_link_to_a_link_is_a_link_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's cache holds links to blobs; where no hard link can be made, as on another disk, the file is copied."""
    blob, copy = tmp_path / "blob", tmp_path / "copy"
    blob.write_text("weights")
    (tmp_path / "snapshot").symlink_to("blob")
    copy_or_link(tmp_path / "snapshot", tmp_path / "linked", link=True)
    assert not (tmp_path / "linked").is_symlink() and (tmp_path / "linked").samefile(blob)

    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    copy_or_link(blob, copy, link=True)
    assert copy.read_text() == "weights" and not copy.samefile(blob)


@pytest.mark.parametrize("stage", ["_copy_parts", "_patch_shards", "_model_card"])
def test_a_stopped_folder_never_has_the_name(
    sd1: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Ctrl-C at any stage leaves nothing, and a folder that was to be replaced stays whole."""
    cone = random_cone(sd1)
    work = getattr(export_folder, stage)

    def stop(*arguments: object) -> None:
        work(*arguments)
        assert not (tmp_path / "out").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export_folder, stage, stop)
        with pytest.raises(KeyboardInterrupt):
            write_folder(sd1, cone, tmp_path / "out")
        (tmp_path / "kept").mkdir()
        (tmp_path / "kept" / "mine").write_text("mine")
        with pytest.raises(KeyboardInterrupt):
            write_folder(sd1, cone, tmp_path / "kept", overwrite=True)
    names = sorted(item.name for item in tmp_path.iterdir())
    assert [name for name in names if name != "cones-cache"] == ["kept"]
    assert [item.name for item in (tmp_path / "kept").iterdir()] == ["mine"]
