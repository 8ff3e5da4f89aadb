"""`cones eval` from end to end, on a small random base model."""

from __future__ import annotations

from pathlib import Path

import pytest

from conestool import format as cones_format
from conestool.cli.eval import read_photos
from conestool.concept import Cone
from conestool.models.model import Model
from tests.end_to_end.test_heavy import draw_photos
from tests.support.command_line import Cones
from tests.support.encoders import save_clip
from tests.support.tiny_models import random_cone


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the drawings of all tests here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(work: Path, cones: Cones, epsilon_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the run, with dog.cone, both.cone, photos/ and prompts.txt."""
    monkeypatch.setenv("CONES_MODEL", str(epsilon_folder))
    monkeypatch.setenv("CONES_CACHE", str(cache))
    both = random_cone(Model.from_pretrained(str(epsilon_folder)), "dog", "hat")
    cones_format.save(both, work / "both.cone")
    cones_format.save(Cone(both.concepts[:1]), work / "dog.cone")
    draw_photos(work / "photos", "teal")
    (work / "prompts.txt").write_text("a photo of a {}\n\n")
    return work


FAST = ("--quick", "--prompts", "prompts.txt", "--device", "cpu")


def test_eval_shows_tables_and_writes_json(cones: Cones, here: Path, tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip")
    done = cones("eval", "dog.cone", "--photos", "photos", "--clip", clip, "--pictures", "out", "--json", "-v", *FAST)
    assert done.code == 0
    (dog,) = done.json["concepts"]
    assert {row["name"] for row in dog["rows"]} >= {"concept", "random", "largest", "bare"}
    assert dog["rows"][0]["score"]["image"].keys() == dog["rows"][0]["score"]["text"].keys() == {"CLIP"}
    assert done.json["pictures"] == ["out/dog.png"]
    assert (here / "out" / "dog.png").read_bytes()[:4] == b"\x89PNG"
    for text in ("random indices", "base model", "image (CLIP)", "other nouns"):
        assert text in done.err


def test_a_gate_that_fails_gives_exit_code_1(cones: Cones, here: Path) -> None:
    done = cones("eval", "dog.cone", "--photos", "dog=photos", "--min-gain", "0.99", *FAST)
    assert (done.code, done.out) == (1, b"")
    assert "gate: dog: gain" in done.err


def test_several_concepts_need_to_be_told_apart(cones: Cones, here: Path) -> None:
    done = cones("eval", "both.cone", "--photos", "photos", *FAST)
    assert done.code == 3
    assert "no subfolder is named as a concept (dog, hat)" in done.err


def test_photos_belong_to_a_concept_by_name_or_by_subfolder(here: Path) -> None:
    both = cones_format.load(here / "both.cone")
    (here / "all").mkdir()
    (here / "photos").rename(here / "all" / "hat")
    assert set(read_photos(both, ["all"])) == {"hat"}
    assert set(read_photos(both, ["dog=all/hat"])) == {"dog"}
    assert len(read_photos(both, ["all", "dog=all/hat"])["dog"]) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["dog.cone", "--prompts", "nothing.txt"], 2, "nothing.txt: No such file"),
        (["dog.cone", "--prompts", "bad.txt"], 3, "has no {}"),
        (["dog.cone", "--photos", "nowhere"], 3, "nowhere"),
        (["dog.cone", "--pictures", "full"], 2, "exists already"),
        (["dog.cone", "--clip", "nowhere", *FAST], 2, "no such folder"),
        (["prompts.txt"], 4, "prompts.txt"),
    ],
)
def test_what_cannot_be_used_is_refused(cones: Cones, here: Path, arguments: list[str], code: int, words: str) -> None:
    (here / "bad.txt").write_text("a dog\n")
    (here / "full").mkdir()
    (here / "full" / "dog.png").write_bytes(b"")
    done = cones("eval", *arguments)
    assert done.code == code
    assert words in done.err


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ("--min-gain", "--min-gain: there are no photos of dog"),
        ("--min-text", "--min-text: nothing here measures it"),
    ],
)
def test_a_gate_on_what_cannot_be_measured_is_refused_before_the_work(
    cones: Cones, here: Path, gate: str, words: str
) -> None:
    done = cones("eval", "dog.cone", gate, "0.5", *FAST)
    assert done.code == 2
    assert words in done.err
    assert "drawings" not in done.err
