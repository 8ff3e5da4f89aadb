"""`cones eval` on a small random base model."""

from __future__ import annotations

from pathlib import Path

import pytest

from conestool import format as cones_format
from conestool.cli.eval import read_photos
from conestool.concept import Cone
from conestool.models.model import Model
from tests.support.command_line import Cones
from tests.support.encoders import save_clip
from tests.support.photos import draw_photos
from tests.support.tiny_models import random_cone

FAST = ("--quick", "--prompts", "prompts.txt", "--device", "cpu")


@pytest.fixture(autouse=True)
def desk(work: Path, cones: Cones, model: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the run, with dog.cone, both.cone, photos/ and prompts.txt."""
    monkeypatch.setenv("CONES_CACHE", str(shared_cache))
    both = random_cone(Model.from_pretrained(str(model)), "dog", "hat")
    cones_format.save(both, work / "both.cone")
    cones_format.save(Cone(both.concepts[:1]), work / "dog.cone")
    draw_photos(work / "photos", "teal")
    (work / "prompts.txt").write_text("a photo of a {}\n\n")
    (work / "bad.txt").write_text("a dog\n")
    (work / "full").mkdir()
    (work / "full" / "dog.png").write_bytes(b"")
    return work


def test_eval_shows_tables_and_writes_json(cones: Cones, desk: Path, tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip")
    done = cones("eval", "dog.cone", "--photos", "photos", "--clip", clip, "--pictures", "out", "--json", "-v", *FAST)
    assert done.code == 0
    (dog,) = done.json["concepts"]
    assert {row["name"] for row in dog["rows"]} >= {"concept", "random", "largest", "base model"}
    assert dog["rows"][0]["score"]["image"].keys() == dog["rows"][0]["score"]["text"].keys() == {"CLIP"}
    assert done.json["pictures"] == ["out/dog.png"]
    assert (desk / "out" / "dog.png").read_bytes()[:4] == b"\x89PNG"
    for text in ("random indices", "base model", "image (CLIP)", "other nouns"):
        assert text in done.err


def test_a_gate_that_fails_gives_exit_code_1(cones: Cones) -> None:
    done = cones("eval", "dog.cone", "--photos", "dog=photos", "--min-gain", "0.99", *FAST)
    assert (done.code, done.out) == (1, b"")
    assert "gate: dog: gain" in done.err


def test_photos_belong_to_a_concept_by_name_or_by_subfolder(desk: Path) -> None:
    both = cones_format.load(desk / "both.cone")
    (desk / "all").mkdir()
    (desk / "photos").rename(desk / "all" / "hat")
    assert set(read_photos(both, ["all"])) == {"hat"}
    assert set(read_photos(both, ["dog=all/hat"])) == {"dog"}
    assert len(read_photos(both, ["all", "dog=all/hat"])["dog"]) == 3


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("dog.cone --prompts nothing.txt", 2, "nothing.txt: No such file"),
        ("dog.cone --prompts bad.txt", 3, "has no {}"),
        ("dog.cone --photos nowhere", 3, "nowhere"),
        ("dog.cone --pictures full", 2, "exists already"),
        ("dog.cone --clip nowhere --quick", 2, "no such folder"),
        ("prompts.txt", 4, "prompts.txt"),
        ("both.cone --photos photos --quick", 3, "no subfolder is named as a concept (dog, hat)"),
        ("dog.cone --min-gain 0.5 --quick", 2, "--min-gain: there are no photos of dog"),
        ("dog.cone --min-text 0.5 --quick", 2, "--min-text: nothing here measures it"),
    ],
)
def test_what_cannot_be_used_is_refused_before_the_work(cones: Cones, line: str, code: int, words: str) -> None:
    done = cones("eval", *line.split())
    assert done.code == code and words in done.err and "drawings" not in done.err
