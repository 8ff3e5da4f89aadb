"""CLIP and DINO by folders that the user names: what they score, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from conestool.errors import ModelLoadError, UsageError
from conestool.evaluation.encoders import load_clip, load_dino
from conestool.evaluation.prompts import Prompt
from tests.support.encoders import save_clip, save_dino

COLOURS = ("red", "teal", "white")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("encoders") / "clip")


def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (40, 32), colour) for colour in COLOURS]


@pytest.mark.parametrize("second", [False, True])
def test_dino_gives_cosines_and_reads_no_text(tmp_path: Path, second: bool) -> None:
    dino = load_dino(str(save_dino(tmp_path / "dino", second)), offline=True)
    scores = dino.image(pictures(), pictures()[:1], [])
    assert scores is not None
    assert scores[0] == pytest.approx(1, abs=1e-4)
    assert bool((scores[1:] < 1).all())
    assert dino.text(pictures(), [Prompt("a {}", "dog")] * 3) is None


def test_clip_scores_pictures_against_photos_and_text(clip: Path) -> None:
    metric = load_clip(str(clip), offline=True)
    scores = metric.image(pictures(), pictures()[1:2], [])
    assert scores is not None
    assert scores[1] == pytest.approx(1, abs=1e-4)
    texts = [Prompt("a {} on the beach", "dog"), Prompt("a {} at night", "dog"), Prompt("a {}", "cat")]
    found = metric.text(pictures(), texts)
    assert found is not None
    swapped = metric.text(pictures(), texts[::-1])
    assert swapped is not None and not torch.allclose(found, swapped)
    photos = pictures()[:2]
    alone = metric.image(photos, photos, [])
    assert alone is not None and float(alone.max()) < 0.9999, "photos are not compared with themselves"
    seen = metric.preprocess([Image.new("RGB", (32, 32), "white")])
    assert torch.allclose(seen, torch.full_like(seen, 2.0)), "normalised as the folder says"


def test_clip_agrees_with_its_own_forward(clip: Path) -> None:
    """The cosine of picture and text is the logit of CLIPModel divided by its scale."""
    metric = load_clip(str(clip))
    text = Prompt("a {} on the beach", "dog")
    tokens = metric.tokenizer([str(text)], return_tensors="pt")
    logits = metric.model(pixel_values=metric.preprocess(pictures()[:1]), **tokens).logits_per_image
    expected = float(logits[0, 0].detach() / metric.model.logit_scale.exp().detach())
    assert float(metric.text(pictures()[:1], [text])[0]) == pytest.approx(expected, abs=1e-5)  # type: ignore[index]


def test_other_models_missing_folders_and_pickled_weights_are_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="says clip, expected vit or dinov2"):
        load_dino(str(clip))
    with pytest.raises(UsageError, match="no such folder"):
        load_clip(str(tmp_path / "nothing"))
    with pytest.raises(ModelLoadError, match="not on this machine"):
        load_clip("owner/name", offline=True)
    folder = save_dino(tmp_path / "dino")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        load_dino(str(folder))
