"""Real failures to allocate: a line that says so, and options of that very command that help."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conestool import format as cones
from conestool.cli.main import HELPS
from conestool.models.model import Model
from tests.support.command_line import environment
from tests.support.photos import noisy_photos as photos
from tests.support.tiny_models import random_cone

ROOT = Path(__file__).parents[2]
BARE = ("--captions", "none")
COMMANDS = {
    "find": ["find", "photos", "-o", "new-dog.cone", "--class-images", "photos", *BARE, "--other-class-weight", "0"],
    "tune": ["tune", "dog.cone", "--photos", "dog=photos", "--num-class-images", "4", "-o", "tuned.cone", *BARE],
    "render": ["render", "a dog", "--no-cones", "--size", "1024", "--batch", "2", "-o", "out.png"],
    "eval": ["eval", "dog.cone", "--photos", "photos", "--quick"],
}


@pytest.fixture(scope="module")
def starved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and stderr of every command under a limit on its address space, and nothing written."""
    folder = tmp_path_factory.mktemp("starved")
    cones.save(random_cone(Model.from_pretrained("pocket"), "dog"), folder / "dog.cone")
    (folder / "photos").mkdir()
    for number, photo in enumerate(photos()):
        photo.save(folder / "photos" / f"{number}.png")
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.starving", str(folder)],
        input=json.dumps(list(COMMANDS.values())),
        env=environment(PYTHONPATH=str(ROOT), CONES_CACHE=str(folder / "cache"), MALLOC_ARENA_MAX="1"),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not [path for path in folder.iterdir() if path.name in ("new-dog.cone", "tuned.cone", "out.png")]
    return dict(zip(COMMANDS, json.loads(done.stdout), strict=True))


@pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc").exists(), reason="needs Linux's limits and fork")
@pytest.mark.parametrize("name", COMMANDS)
def test_running_out_of_memory_says_what_helps(name: str, starved: dict[str, tuple[int, str]]) -> None:
    """Exit code 6, one error, and the command's own options that lower the memory of the machine."""
    code, said = starved[name]
    assert code == 6, said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "memory" in line
    named = set(re.findall(r"--[a-z-]+", said.partition("what helps: ")[2]))
    possible = set(re.findall(r"--[a-z-]+", " ".join(HELPS[name]))) | ({"--batch"} if name == "render" else set())
    assert named == possible - {"--device", "--offload-scores", "--offload"}
