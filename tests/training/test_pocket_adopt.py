"""The packaged model can be trained further: adopted into a work folder and exported again it is the same."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from conestool.diffusion.sources import pocket_folder
from conestool.evaluate.judge import load_judge
from training.pocket import evaluator
from training.pocket.adopt import adopt
from training.pocket.export import write_model

PARTS = ("unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model")


def test_adopted_model_exports_with_the_same_weights(tmp_path: Path) -> None:
    adopt(pocket_folder(), tmp_path / "work")
    write_model(tmp_path / "work", tmp_path / "model")
    judge, packaged = evaluator.load(tmp_path / "work", torch.device("cpu")).state_dict(), load_judge().state_dict()
    assert all(torch.equal(judge[name], packaged[name]) for name in packaged)
    for part in PARTS:
        before = load_file(pocket_folder() / f"{part}.safetensors")
        after = load_file(tmp_path / "model" / f"{part}.safetensors")
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
