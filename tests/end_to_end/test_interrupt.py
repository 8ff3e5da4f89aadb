"""Ctrl-C in the middle of find, and the pipelines of the contract, as a shell runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.command_line import COMMAND, environment
from tests.support.tiny_models import random_cone

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="needs signals")
WAIT = 200.0
FIND = "find photos -o dog.cone --num-class-images 4 --steps 1000000 --captions none --other-class-weight 0"


@contextmanager
def finding(folder: Path, model: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A `find` that takes far longer than any test; it is gone afterwards, whatever happened."""
    command = [*COMMAND, *FIND.split(), *arguments]
    env = environment(PYTHONPATH=str(ROOT), CONES_MODEL=str(model), CONES_CACHE=str(folder / "cache"))
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=env, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Lines of stderr up to the one that holds `words`."""
    assert process.stderr is not None
    seen, end = "", time.monotonic() + WAIT
    while words not in seen:
        line = process.stderr.readline()
        assert line and time.monotonic() < end, seen
        seen += line
    return seen


@posix
def test_ctrl_c_leaves_a_search_that_can_be_resumed(tmp_path: Path, epsilon_folder: Path) -> None:
    """Exit code 130, no half-written .cone, and the command line that goes on from there."""
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.new("RGB", (40, 40 + number), "teal").save(tmp_path / "photos" / f"{number}.png")
    with finding(tmp_path, epsilon_folder) as first:
        read_until(first, "search: about")
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=WAIT)
    assert (first.returncode, out) == (130, "")
    assert f"cones {FIND} --resume" in err
    assert "Traceback" not in err
    assert (tmp_path / "dog.cone.checkpoint").is_file()
    assert not (tmp_path / "dog.cone").exists()
    with finding(tmp_path, epsilon_folder, "--resume") as second:
        read_until(second, "resumed after step")
        second.send_signal(signal.SIGINT)
        second.communicate(timeout=WAIT)
    assert second.returncode == 130


@posix
def test_merge_pipes_into_render(tmp_path: Path, epsilon_folder: Path) -> None:
    """The pipeline of the manual, typed as it stands there, ends in a picture."""
    from conestool import format as cones
    from conestool.models.model import Model
    from conestool.ops import extract

    both = random_cone(Model.from_pretrained(str(epsilon_folder), device="cpu"), "dog", "hat")
    for name in both.names:
        cones.save(extract(both, name), tmp_path / f"{name[0]}.cone")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "cones").write_text(f'#!/bin/sh\nexec {sys.executable} -m conestool.cli "$@"\n')
    (tools / "cones").chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    env = environment(PYTHONPATH=str(ROOT), CONES_MODEL=str(epsilon_folder), PATH=path)
    line = 'cones merge d.cone h.cone -o - | cones render "a dog in a hat" -c - -o - > out.png'
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=env, capture_output=True, timeout=WAIT, check=True)
    assert done.stdout == b""
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (32, 32)
