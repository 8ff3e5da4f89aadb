"""Hostile words on their way through render, apply and find, on a small random base model."""

from __future__ import annotations

import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from conestool import format as cones_format
from conestool.cli import _options
from conestool.concept import Cone
from conestool.errors import UsageError
from conestool.models.model import Model
from tests.hostile.texts import POISON, WORDS, forge, leaks
from tests.support.command_line import Cones, concept, save_cone
from tests.support.tiny_models import random_cone

FIND = ("--num-class-images", "4", "--steps", "2", "--density", "0.02", "--device", "cpu")
FIND += ("--captions", "none", "--other-class-weight", "0")
NAME = POISON.replace("/", "").encode()[:120].decode(errors="ignore")


def stop(*_: object) -> None:
    """Instead of loading a base model."""
    raise UsageError("far enough")


@pytest.fixture
def folder(epsilon_folder: Path, work: Path, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the run, with dog.cone, whose words are as bad as the format allows."""
    monkeypatch.setenv("CONES_MODEL", str(epsilon_folder))
    (dog,) = random_cone(Model.from_pretrained(str(epsilon_folder), device="cpu"), "dog").concepts
    hostile = replace(dog, class_noun=WORDS[:64].strip(), identifier=WORDS[:40].strip())
    cones_format.save(Cone((hostile,)), work / "dog.cone")
    return work


def test_a_picture_of_hostile_words(folder: Path, cones: Cones) -> None:
    """Its name is letters, its text chunks are clean, its record is the truth, and the screen and JSON are clean."""
    done = cones("render", f"a dog {POISON}", "--negative", POISON, "--json")
    assert done.code == 0, done.err
    assert not leaks(done.out) and not leaks(done.err.encode())
    (told,) = done.json
    assert told["prompt"] == " ".join(f"a dog {POISON}".split())
    assert all(char.isalnum() or char in "-." for char in told["file"])
    with Image.open(folder / told["file"]) as image:
        chunks = dict(image.text)  # type: ignore[attr-defined]
    assert not any(leaks(chunk.encode()) for chunk in chunks.values())
    assert json.loads(chunks["cones"])["sent"] == told["sent"]
    again = cones("render", "--from", told["file"])
    assert again.code == 0, again.err
    assert not leaks(again.out) and not leaks(again.err.encode())
    sheet = cones("render", f"a dog {POISON}", "--compare", "-o", "sheet.png")
    assert sheet.code == 0, sheet.err


@pytest.mark.parametrize(
    "prompt", ["x" * 10_001, "caf\udce9", "dog " * 300], ids=["long", "not decoded", "long once rewritten"]
)
def test_prompts_that_cannot_be_used(prompt: str, folder: Path, cones: Cones) -> None:
    """Too long, or bytes that are no text in this locale: exit code 3, as prompt and as negative prompt."""
    done = cones("render", prompt)
    assert done.code == 3, done.err
    assert len(done.err) < 3000
    if not prompt.startswith("dog"):
        assert cones("render", "a dog", "--negative", prompt).code == 3


def test_a_hostile_base_model_in_a_hint(folder: Path, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id of the base model comes from the file; the command line that a hint suggests quotes it."""
    base = concept().base.model_copy(update={"id": "x/$(touch pwned)\x1b[2J"})
    save_cone(folder / "other.cone", replace(concept(), base=base))
    (folder / "forged.cone").write_bytes(forge())
    for name in ("other.cone", "forged.cone"):
        done = cones("render", "a dog", "-c", name)
        assert done.code == 5, done.err
        assert not leaks(done.err.encode())
        assert "--model $'" in done.err.splitlines()[-1]
    monkeypatch.delenv("CONES_MODEL")
    missing = cones("render", "a dog", "-c", "other.cone")
    assert missing.code == 7, missing.err
    assert not leaks(missing.err.encode())


def test_a_patched_model_tells_hostile_words_as_text(folder: Path, cones: Cones) -> None:
    """The model card's table keeps its cells, without HTML, code spans left open or controls."""
    done = cones("apply", "dog.cone", "-o", NAME)
    assert done.code == 0, done.err
    assert not leaks(done.err.encode())
    card = (folder / NAME / "README.md").read_bytes()
    assert not leaks(card)
    (row,) = [line for line in card.decode().splitlines() if line.startswith("| dog")]
    assert row.replace("\\|", "").count("|") == 6
    assert "<" not in row and row.count("`") - row.count("\\`") == 2


def test_photos_and_folders_with_hostile_names(folder: Path, cones: Cones) -> None:
    """Skipped, broken and missing photos are named in clean lines; a concept's name is made of letters alone."""
    place = folder / NAME
    place.mkdir()
    for number in range(2):
        Image.new("RGB", (40, 40 + number), "teal").save(place / f"{number}.png")
    (place / f"{NAME}.txt").write_text("no picture")
    shutil.copyfile(place / "0.png", place / f"1{NAME}.png")
    (place / f"2{NAME}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    broken = cones("find", place, "-o", "x.cone", *FIND)
    assert broken.code == 3, broken.err
    missing = cones("find", f"{NAME}2", "-o", "x.cone")
    assert missing.code == 3, missing.err
    found = cones("find", place, "--skip-broken", "--notes", POISON, *FIND)
    assert found.code == 0, found.err
    assert not any(leaks(done.err.encode()) for done in (broken, missing, found))
    assert all(char.isalnum() or char in "-.\n" for char in found.out.decode())
    (made,) = cones_format.load(folder / found.lines[0]).concepts
    assert made.origin.notes == POISON


@pytest.mark.parametrize(
    "option",
    [
        ("--notes", "caf\udce9"),
        ("--author", "x" * 100_001),
        ("--class-noun", "do\x1b[2Jg"),
        ("--class-noun", "d" * 65),
        ("--identifier", "s\udce9"),
        ("--name", "[red]"),
    ],
    ids=lambda option: option[0],
)
def test_words_that_no_file_can_hold_are_refused_before_the_search(
    option: tuple[str, str], folder: Path, cones: Cones, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after an hour of it."""
    monkeypatch.setattr(_options, "open_model", stop)
    Image.new("RGB", (40, 40), "teal").save(folder / "1.png")
    done = cones("find", "1.png", "-o", "cat.cone", *option)
    assert done.code == 2, done.err
    assert "far enough" not in done.err
    assert not leaks(done.err.encode())


def test_a_list_of_photos_with_hostile_names(folder: Path, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """NUL separates them, so that no name is split; bytes that are no UTF-8 are names like others."""
    names = [os.fsencode(f"a\n{NAME}.png"), b"b\xff\x1b.png"]
    for number, name in enumerate(names):
        with (folder / os.fsdecode(name)).open("wb") as file:
            Image.new("RGB", (40, 40 + number), "teal").save(file, "PNG")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\0".join(names))))
    monkeypatch.setattr(_options, "open_model", stop)
    found = cones("find", "-", "-o", "cat.cone", *FIND)
    assert (found.code, found.err) == (2, "cat: 2 photos of 'cat'\nerror: far enough\n")
