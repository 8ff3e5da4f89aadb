"""The commands of the README, run as a reader would run them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MAKE = re.compile(r"^make (\w+)", re.MULTILINE)


SHORTER = f"""#!/bin/sh
test "$1" = find && set -- "$@" --steps 30 --num-class-images 16
exec {sys.executable} -m conestool "$@"
"""
"""`cones`, whose searches end sooner than by default."""


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in one language."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [body for kind, body in BLOCK.findall(text) if kind == language]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with photos/ and hats/, in which the README's shell blocks have run in order."""
    here = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples" / "openmoji" / "dog", here / "photos")
    shutil.copytree(ROOT / "examples" / "openmoji" / "hat", here / "hats")
    commands = [block for block in blocks("sh") if not MAKE.search(block)]
    script = "set -euo pipefail\n" + "\n".join(commands)
    (here / "bin").mkdir()
    (here / "bin" / "cones").write_text(SHORTER)
    (here / "bin" / "cones").chmod(0o755)
    path = os.pathsep.join([str(here / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "CONES_CACHE": str(here / ".cache")}
    done = subprocess.run(
        ["bash", "-c", script], cwd=here, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return here


@pytest.mark.timeout(900)
def test_the_three_lines_make_a_picture(folder: Path) -> None:
    assert {"dog.cone", "hat.cone", "dog+hat.cone"} <= {path.name for path in folder.iterdir()}
    pictures = sorted(folder.glob("*.png"))
    assert pictures
    with Image.open(pictures[0]) as picture:
        assert picture.size == (64, 64)
        assert "dog" in picture.info["cones"]


@pytest.mark.timeout(900)
def test_concepts_found_as_in_the_readme_beat_the_random_control(folder: Path) -> None:
    from conestool import load

    for concept in load(folder / "dog+hat.cone").concepts:
        losses = concept.origin.losses
        assert losses is not None
        before, after, random = losses.held_out_before, losses.held_out_after, losses.random_after
        assert before and after and random and after < 0.95 * min(before, random)
        assert concept.density < 0.05


def test_python_examples_are_valid_and_name_what_exists() -> None:
    import conestool

    for block in blocks("python"):
        compile(block, "README.md", "exec")
        for names in re.findall(r"from conestool import (.*)", block):
            assert all(hasattr(conestool, name.strip()) for name in names.split(","))


def test_every_make_target_that_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    wanted = {name for block in blocks("sh") for name in MAKE.findall(block)}
    assert {"demo", "test"} <= wanted
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in wanted)


def test_links_inside_the_repository_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
