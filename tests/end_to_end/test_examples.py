"""The examples, script and notebook, with a small random model in pocket's place and a short search."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import conestool
from tests.support.command_line import environment
from tests.support.searches import quick

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
STEPS, POCKET = "STEPS, CLASS_IMAGES = 100, 32", 'Model.from_pretrained("pocket")'


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_pipeline_makes_concepts_a_table_and_pictures(epsilon_folder: Path, tmp_path: Path) -> None:
    """With `cones` and `python` found on the PATH; what was found before is not searched for again."""
    photos = [Image.open(path) for path in sorted((EXAMPLES / "rex").glob("*.jpg"))]
    config = quick(steps=2)
    dog = conestool.find(conestool.Model.from_pretrained(str(epsilon_folder)), photos, "dog", config=config)
    (tmp_path / "out").mkdir()
    conestool.save(dog, tmp_path / "out" / "dog.cone")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in {"cones": f"{sys.executable} -m conestool", "python": sys.executable}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (programs / name).chmod(0o755)
    changes = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "CONES_MODEL": str(epsilon_folder),
        "FIND": f"--steps 2 --density 0.02 --captions none --other-class-weight 0 --class-images {EXAMPLES / 'cat'}",
    }
    command = ["bash", str(EXAMPLES / "pipeline.sh"), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment(**changes), capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert conestool.extract(conestool.load(tmp_path / "out" / "both.cone"), "dog") == dog
    table = [line.split("\t") for line in (tmp_path / "out" / "losses.tsv").read_text().splitlines()]
    assert [row[0] for row in table] == ["dog", "hat"] and all(row[1].endswith("%") for row in table)
    listed = (tmp_path / "out" / "pictures.txt").read_text().split("\n")[:-1]
    assert len(listed) == 2 and all((tmp_path / "out" / name).is_file() for name in listed)


def notebook() -> dict[str, Any]:
    """The notebook as JSON."""
    return dict(json.loads((EXAMPLES / "concepts.ipynb").read_text(encoding="utf-8")))


@pytest.mark.usefixtures("few_probes")
def test_the_notebook_runs(epsilon_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code cells in order in one namespace, as a kernel runs them; they have no magics, so none is needed."""
    for name in ("rex", "hat"):
        shutil.copytree(EXAMPLES / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    cells = ["".join(cell["source"]) for cell in notebook()["cells"] if cell["cell_type"] == "code"]
    assert STEPS in cells[0] and POCKET in cells[0]
    cells[0] = (
        cells[0]
        .replace(STEPS, "STEPS, CLASS_IMAGES = 2, 8")
        .replace(POCKET, f"Model.from_pretrained({str(epsilon_folder)!r})")
    )
    space: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number}", "exec"), space)  # noqa: S102
    assert conestool.load("both.cone") == space["both"]
    bare, both, half = space["rows"].values()
    assert both[0].tobytes() not in (bare[0].tobytes(), half[0].tobytes())
    assert space["draw"]("a dog in a hat")[0].tobytes() == bare[0].tobytes()


def test_the_notebook_is_one_without_outputs() -> None:
    """Version 4.5 with ids, and no picture that goes stale with the next weights of pocket."""
    book = notebook()
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    assert all(cell["outputs"] == [] for cell in book["cells"] if cell["cell_type"] == "code")
