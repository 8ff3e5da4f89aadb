"""Every command in docs/tasks, run in order on a small checkpoint, page by page."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

import conestool
from conestool import format as cones_format
from conestool.models.model import Model
from tests.support.command_line import Cones, Outcome
from tests.support.hub_server import WRITER, Hub, serving
from tests.support.ldm_writer import save_original
from tests.support.model_files import FAMILIES
from tests.support.tiny_models import random_cone, save

PAGES = Path(__file__).parents[2] / "docs" / "tasks"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
QUICK = ["--steps", "2", "--density", "0.02", "--other-class-weight", "0"]
"""What `find` is told here so that it ends soon."""
LAUNCHER = "torchrun"
FOLDERS = ("models/checkpoints", "models/loras")
MADE = {
    "own-photos": ("dog-preview.png", "dog.cone", "dog-report.html", "rex.cone", "beach.png"),
    "mac": ("dog.cone", "small.png"),
    "small-card": ("both.cone", "hat-again.cone", "dog.cone"),
    "several-gpus": ("dog+hat.cone", "out-0", "out-2"),
    "comfyui-a1111": ("ComfyUI/models/checkpoints/sd15-both.safetensors", "ComfyUI/models/loras/dog.safetensors"),
    "prompts": (
        "a-dog-in-a-hat.png",
        "beach.png",
        "many/1-a-dog-in-a-hat-0.png",
        "again.png",
        "quick.png",
        "strengths.png",
    ),
    "sharing": ("their-dog.cone", "again.cone", "both.cone"),
}
"""What the commands of a page leave."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Stable Diffusion 1.x as the folder `sd15` and the file `sd15.safetensors`, and two concepts of it.

    Tests must not change them.
    """
    place = tmp_path_factory.mktemp("tasks")
    model = Model.from_pretrained(str(save(FAMILIES["sd1"](place), place / "sd15")))
    save_original(model.pipe, place / "sd15.safetensors")
    both = random_cone(model, "dog", "hat")
    for name in both.names:
        cones_format.save(conestool.extract(both, name), place / f"{name}.cone")
    return place


@pytest.fixture
def desk(base: Path, work: Path, cones: Cones, few_probes: None) -> Path:
    """The folder of a reader: photos, two concepts, the checkpoint, and the folders of other programs."""
    for name in ("photos", "dog", "hat"):
        (work / name).mkdir()
        for number in range(3):
            Image.new("RGB", (40, 36), (80 * number, 90, 160)).save(work / name / f"{number}.jpg")
    for name in ("dog.cone", "hat.cone"):
        shutil.copyfile(base / name, work / name)
    for name in ("sd15", "sd15.safetensors"):
        (work / name).symlink_to(base / name)
    lines = [body for kind, body in BLOCK.findall((PAGES / "prompts.md").read_text("utf-8")) if kind == "text"]
    (work / "prompts.txt").write_text("".join(lines))
    for folder in (*(f"ComfyUI/{name}" for name in FOLDERS), "stable-diffusion-webui/models/Stable-diffusion"):
        (work / folder).mkdir(parents=True)
    return work


def commands(page: str) -> list[list[str]]:
    """The words of every command of a page; those to a pipe are split by "|"."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    lines = [line for kind, body in BLOCK.findall(text) if kind == "sh" for line in body.splitlines()]
    return [shlex.split(line.removesuffix("&")) for line in lines if line != "wait"]


def fitted(words: list[str]) -> list[str]:
    """A command for this machine: the small checkpoint, the CPU, few steps, and over the concepts that lie there."""
    out = ["sd15" if word == SD15 else word for word in words[1:]]
    out = ["cpu" if word.startswith(("cuda", "mps")) else word for word in out]
    out = ["float32" if word == "float16" else word for word in out]
    if out[0] == "find":
        out += QUICK + ([] if "--class-images" in out else ["--class-images", "photos"]) + ["--overwrite"]
    return out


def carry_out(words: list[str], cones: Cones, monkeypatch: pytest.MonkeyPatch, stdin: bytes = b"") -> Outcome | None:
    """Run one line; None if it only sets a variable."""
    if words[0] == "export":
        name, value = words[1].split("=")
        monkeypatch.setenv(name, "sd15" if value == SD15 else value)
        return None
    if words[0] == LAUNCHER:  # one process here; tests/search/test_distributed.py launches several
        words = ["cones", *words[words.index("conestool") + 1 :]]
    assert words[0] == "cones", words
    if "|" in words:
        cut = words.index("|")
        first = carry_out(words[:cut], cones, monkeypatch)
        assert first is not None
        return carry_out(words[cut + 1 :], cones, monkeypatch, first.out)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    done = cones(*fitted(words))
    assert done.code == 0, (words, done.err)
    return done


@pytest.mark.parametrize("page", MADE)
def test_the_commands_of_a_page_work(
    page: str, desk: Path, cones: Cones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, as a reader types them; what they make is there."""
    with serving(Hub({}, place=tmp_path / "served"), tmp_path / "hub", monkeypatch):
        monkeypatch.setenv("HF_TOKEN", WRITER)
        for words in commands(page):
            carry_out(words, cones, monkeypatch)
    assert [name for name in MADE[page] if not (desk / name).exists()] == []
    for name in MADE[page]:
        if name.endswith(".cone"):
            assert cones_format.load(desk / name).concepts


def test_every_page_is_tested_and_leads_somewhere() -> None:
    """No page is left out, links inside the repository exist, and Python blocks name what there is."""
    assert {page.stem for page in PAGES.glob("*.md")} == set(MADE)
    for page in PAGES.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (PAGES / target).exists(), (page, target)
        for kind, body in BLOCK.findall(text):
            if kind == "python":
                compile(body, page.name, "exec")
                for names in re.findall(r"from conestool import (.*)", body):
                    assert all(hasattr(conestool, name.strip()) for name in names.split(","))
