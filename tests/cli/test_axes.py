"""Sheets over two axes: `render --x strength=0:1:5 --y seed=0:4`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from conestool import Model
from conestool import format as cones_format
from conestool.cli._axes import parse_axes
from conestool.errors import UsageError
from conestool.rendering import read_sheet
from tests.support.command_line import Cones
from tests.support.tiny_models import random_cone


@pytest.fixture
def dogs(epsilon_folder: Path, work: Path, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of a dog, found by other methods."""
    monkeypatch.setenv("CONES_MODEL", str(epsilon_folder))
    cone = random_cone(Model.from_pretrained(str(epsilon_folder), device="cpu"), "dog", density=0.3)
    for method in ("mask", "taylor"):
        (concept,) = cone.concepts
        origin = concept.origin.model_copy(update={"method": method})
        cones_format.save(replace(cone, concepts=(replace(concept, origin=origin),)), work / f"{method}.cone")


def test_a_sheet_is_labelled_by_what_differs_and_can_be_repeated(dogs: None, cones: Cones, work: Path) -> None:
    """A column for each value of --x, a row for each of --y; --from draws the same bytes."""
    done = cones(
        "render", "a dog", "-c", "mask.cone", "--x", "strength=0:1:3", "--y", "seed=4:5", "--steps", "2", "-o", "s.png"
    )
    assert (done.code, done.lines) == (0, ["s.png"]), done.err
    sheet = read_sheet(work / "s.png")
    assert sheet["columns"] == ["strength 0", "strength 0.5", "strength 1"] and sheet["rows"] == ["seed 4", "seed 5"]
    found = [[(each["seed"], each["concepts"][0]["strength"]) for each in row] for row in sheet["pictures"]]
    assert found == [[(seed, strength) for strength in (0, 0.5, 1)] for seed in (4, 5)]
    assert cones("render", "--from", "s.png", "-o", "again.png").code == 0
    assert (work / "again.png").read_bytes() == (work / "s.png").read_bytes()


def test_files_methods_and_guidance_are_axes(dogs: None, cones: Cones, work: Path) -> None:
    """With several prompts a row says which; with one, the words sent where files differ in them."""
    more = ("--x", "guidance=1,7.5", "--steps", "1", "--json")
    done = cones(
        "render", "a dog", "dog at night", "-c", "mask.cone", "-c", "taylor.cone", "--y", "method=taylor,mask", *more
    )
    assert done.code == 0, done.err
    sheet = read_sheet(Path(done.json[0]["file"]))
    rows = [f"{prompt}, method {method}" for prompt in ("a dog", "dog at night") for method in ("taylor", "mask")]
    assert sheet["rows"] == rows and sheet["columns"] == ["guidance 1", "guidance 7.5"]
    assert [each["guidance"] for each in sheet["pictures"][0]] == [1, 7.5]
    files = cones("render", "a dog", "--x", "file=mask.cone,taylor.cone", "--steps", "1", "-o", "f.png")
    assert files.code == 0 and read_sheet(work / "f.png")["columns"] == ["file mask.cone", "file taylor.cone"]
    hat = random_cone(Model.from_pretrained(os.environ["CONES_MODEL"], device="cpu"), "hat", density=0.3)
    cones_format.save(hat, work / "hat.cone")
    words = cones("render", "a dog in a hat", "--y", "file=mask.cone,hat.cone", "--steps", "1", "-o", "w.png")
    assert words.code == 0 and read_sheet(work / "w.png")["rows"] == [
        "file mask.cone: a sks dog in a hat",
        "file hat.cone: a dog in a sks hat",
    ]
    wrong = cones("render", "a dog", "-c", "mask.cone", "--x", "method=cones")
    assert wrong.code == 2 and "no file of -c was found by it" in wrong.err and "they were: mask" in wrong.err


@pytest.mark.parametrize(
    "text",
    [
        "strength",
        "colour=1,2",
        "strength=0:2",
        "strength=1:0",
        "seed=0:1:x",
        "seed=-1",
        "steps=0",
        "file=a,a",
        "seed=,1",
        "guidance=nan",
        "seed=0:9:3:4",
    ],
)
def test_what_is_no_axis_is_refused(text: str) -> None:
    """With an example."""
    with pytest.raises(UsageError, match="--x ") as caught:
        parse_axes(text, None)
    assert "strength=0:1:5" in str(caught.value.hint)


def test_axes_exclude_what_they_replace(cones: Cones, work: Path) -> None:
    """--compare, -n, the same axis twice, and more pictures than a sheet is for."""
    for words in (("--compare",), ("-n", "2"), ("--y", "seed=0,1"), ("--y", "guidance=1:9:900")):
        assert cones("render", "a dog", "--x", "seed=0:3", *words).code == 2
    assert not list(work.iterdir())
