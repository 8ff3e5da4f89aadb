"""`cones tune` from end to end, on a small random base model."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from conestool import format as cones_format
from conestool.models.model import Model
from tests.end_to_end.test_heavy import draw_photos
from tests.support.command_line import Cones
from tests.support.tiny_models import random_cone

TUNE = ("--num-class-images", "4", "--steps", "3", "--lr", "0.2", "--device", "cpu", "--captions", "none")
PHOTOS = ("--photos", "dog=dogs", "--photos", "hat=hats")


@pytest.fixture
def here(work: Path, cones: Cones, epsilon_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with both.cone and photos of its two subjects; the base model through CONES_MODEL."""
    monkeypatch.setenv("CONES_MODEL", str(epsilon_folder))
    cones_format.save(
        random_cone(Model.from_pretrained(str(epsilon_folder), device="cpu"), "dog", "hat"), work / "both.cone"
    )
    draw_photos(work / "dogs", "teal")
    draw_photos(work / "hats", "red")
    return work


def test_tune_writes_beside_and_reports_every_subject(
    cones: Cones, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """stderr has the losses beside their controls, stdout the JSON that agrees with the file; no checkpoint stays."""
    monkeypatch.setattr("conestool.search.loss_terms.NUM_EVAL_SAMPLES", 8)
    done = cones("tune", "both.cone", *PHOTOS, *TUNE, "--reopen-only", "--samples", "3", "--json", "-v")
    assert (done.code, done.json["output"]) == (0, "dog+hat-tuned.cone")
    for text in ("dog: 3 photos", "hat: 3 photos", "merged", "tuned", "random", "reopened"):
        assert text in done.err
    assert list(here.glob("*.checkpoint")) == []
    with Image.open(here / "dog+hat-tuned-samples.png") as strip:  # a row for each subject
        assert strip.width > 2 * 256 and strip.height > 2 * 256
    cone, record = cones_format.load(here / "dog+hat-tuned.cone"), done.json["tune"]["dog"]
    assert cone.names == ("dog", "hat")
    assert record["kept"] + record["zeroed"] == cone["dog"].neurons
    assert record["zeroed"] == 0
    assert record["reopened"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--photos", "dog=dogs"), 2, "no photos of hat"),
        (("--photos", "dog"), 2, "expected NAME=PATH"),
        ((*PHOTOS, "--photos", "cat=hats"), 2, "no concept named 'cat'"),
        ((*PHOTOS, "-o", "both.cone"), 2, "--overwrite"),
        ((*PHOTOS, "--lr", "0"), 2, "above 0"),
    ],
    ids=["a subject without photos", "no name", "an unknown name", "an existing output", "no rate"],
)
def test_tune_refuses_before_it_loads_a_model(
    cones: Cones, here: Path, arguments: tuple[str, ...], code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a base model that is not there, every one of these comes first."""
    monkeypatch.setenv("CONES_MODEL", "nowhere")
    done = cones("tune", "both.cone", *arguments)
    assert done.code == code
    assert words in done.err
