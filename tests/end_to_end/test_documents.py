"""The commands of the README and of docs/tasks, run as a reader would run them, and what the pages say of programs."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

import conestool
from conestool import format as cones_format
from conestool.models.conversion.fused_qkv import LAYOUTS
from conestool.models.families import FAMILIES as ADAPTERS
from conestool.models.model import Model
from tests.support.command_line import ROOT, Cones, Outcome
from tests.support.hub_server import WRITER, Hub, serving
from tests.support.ldm_writer import save_original
from tests.support.model_files import FAMILIES
from tests.support.tiny_models import random_cone, save

README, PAGES, PROGRAMS = ROOT / "README.md", ROOT / "docs" / "tasks", ROOT / "docs" / "other-programs.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MAKE = re.compile(r"^make (\w+)", re.MULTILINE)
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
QUICK = ["--steps", "2", "--density", "0.02", "--other-class-weight", "0", "--captions", "none"]
"""What `find` is told on the pages of tasks so that it ends soon."""
MADE = {
    "own-photos": ("dog-preview.png", "dog.cone", "dog-report.html", "rex.cone", "beach.png"),
    "mac": ("dog.cone", "a-dog-in-the-snow.png"),
    "small-card": ("dog.cone",),
    "many-subjects": ("found/dog-1.cone", "pictures/dog-2-0002.png", "reports/dog-1.json"),
    "serving": (),
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
NAMES = {
    "stable-diffusion": "Stable Diffusion 1.x, 2.x, XL",
    "stable-diffusion-xl": "Stable Diffusion 1.x, 2.x, XL",
    "stable-diffusion-3": "Stable Diffusion 3, 3.5",
    "flux": "Flux",
    "pixart": "PixArt",
}
"""The families' rows in the table of other programs."""


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return [body for kind, body in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


@pytest.mark.parametrize("page", [README, PROGRAMS, *sorted(PAGES.glob("*.md"))], ids=lambda page: page.stem)
def test_links_lead_somewhere_and_python_names_what_exists(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")
        for names in re.findall(r"from conestool import (.*)", block):
            assert all(hasattr(conestool, name.strip()) for name in names.split(","))
    assert {page.stem for page in PAGES.glob("*.md")} == set(MADE), "no page is left out"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with photos/ and hats/, in which the README's shell blocks have run in order."""
    here = tmp_path_factory.mktemp("readme")
    for subject, name in (("rex", "photos"), ("hat", "hats")):
        shutil.copytree(ROOT / "examples" / subject, here / name)
    script = "set -euo pipefail\n" + "\n".join(block for block in blocks(README, "sh") if not MAKE.search(block))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "CONES_CACHE": str(here / ".cache")}
    done = subprocess.run(["bash", "-c", script], cwd=here, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return here


@pytest.mark.timeout(900)
@pytest.mark.skipif(
    os.environ.get("CONES_TEST_README") != "1", reason="two whole searches, which take minutes: CONES_TEST_README=1"
)
def test_the_readmes_lines_make_a_picture_and_beat_the_random_control(folder: Path) -> None:
    assert {"dog.cone", "hat.cone", "dog+hat.cone"} <= {path.name for path in folder.iterdir()}
    with Image.open(min(folder.glob("*.png"))) as picture:
        assert picture.size == (64, 64) and "dog" in picture.info["cones"]
    for concept in conestool.load(folder / "dog+hat.cone").concepts:
        losses = concept.origin.losses
        assert losses and losses.held_out_before and losses.held_out_after and losses.random_after
        assert losses.held_out_after < 0.95 * min(losses.held_out_before, losses.random_after)
        assert concept.density < 0.05


def test_every_make_target_that_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    wanted = {name for block in blocks(README, "sh") for name in MAKE.findall(block)}
    assert {"demo", "test"} <= wanted
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in wanted)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Stable Diffusion 1.x as the folder `sd15` and the file `sd15.safetensors`, and two concepts of it.

    Tests must not change them.
    """
    place = tmp_path_factory.mktemp("tasks")
    model = Model.from_pretrained(str(save(FAMILIES["sd1"](place), place / "sd15")))
    (place / "sd15" / "pocket.json").write_text('{"num_inference_steps": 2}')
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
    for name in ("dog-1", "dog-2"):
        shutil.copytree(work / "photos", work / "pets" / name)
    (work / "reports.csv").write_text("cones,quick\nfound/dog-1.cone,yes\n")
    (work / "prompts-for-all.txt").write_text("a {} on the beach\n")
    for name in ("dog.cone", "hat.cone"):
        shutil.copyfile(base / name, work / name)
    for name in ("sd15", "sd15.safetensors"):
        (work / name).symlink_to(base / name)
    (work / "prompts.txt").write_text("".join(blocks(PAGES / "prompts.md", "text")))
    for name in (
        "ComfyUI/models/checkpoints",
        "ComfyUI/models/loras",
        "stable-diffusion-webui/models/Stable-diffusion",
    ):
        (work / name).mkdir(parents=True)
    return work


def fitted(words: list[str]) -> list[str]:
    """A command for this machine: the small checkpoint, the CPU, few steps, and over the concepts that lie there."""
    out = ["sd15" if word == SD15 else word for word in words[1:]]
    out = ["cpu" if word.startswith(("cuda", "mps")) else word for word in out]
    out = ["float32" if word == "float16" else word for word in out]
    if out[0] == "batch" and "--task" not in out:
        out += [*QUICK, "--num-class-images", "4"]
    if out[0] == "find":
        out += [*QUICK, "--no-sheet", "--overwrite"]
        out += [] if "--class-images" in out else ["--class-images", "photos"]
    return out


def carry_out(words: list[str], cones: Cones, monkeypatch: pytest.MonkeyPatch, stdin: bytes = b"") -> Outcome | None:
    """Run one line; None if it only sets a variable."""
    if words[0] == "export":
        name, value = words[1].split("=")
        monkeypatch.setenv(name, "sd15" if value == SD15 else value)
        return None
    if words[0] == "torchrun":  # one process here; tests/search/test_distributed.py launches several
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
    lines = [line for body in blocks(PAGES / f"{page}.md", "sh") for line in body.splitlines() if line != "wait"]
    with serving(Hub({}, place=tmp_path / "served"), tmp_path / "hub", monkeypatch):
        monkeypatch.setenv("HF_TOKEN", WRITER)
        for line in lines:
            carry_out(shlex.split(line.removesuffix("&")), cones, monkeypatch)
    assert [name for name in MADE[page] if not (desk / name).exists()] == []
    assert all(cones_format.load(desk / name).concepts for name in MADE[page] if name.endswith(".cone"))


def test_the_table_of_other_programs_has_a_row_for_every_output() -> None:
    """With one word a program, of those that the page explains; what is not written is said to be so."""
    text = PROGRAMS.read_text(encoding="utf-8")
    lines = text[text.index("| base model | output |") :].split("\n\n")[0].splitlines()
    (_, _, *programs), _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    [version] = re.findall(r"^diffusers==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"diffusers {version}" in programs
    rows: dict[tuple[str, str], list[str]] = {}
    family = ""
    for name, outputs, *cells in body:
        family = name or family
        rows |= {(family, output): cells for output in outputs.split(", ")}
    kinds = ("folder", "checkpoint", "denoiser", "LoRA")
    assert rows.keys() == {(NAMES[each.name], kind) for each in ADAPTERS for kind in kinds}
    for (family, output), cells in rows.items():
        assert len(cells) == len(programs)
        assert set(cells) <= {"tested", "run", "rule", "no", "", "not written"}
        assert ("not written" in cells) == (family == "PixArt" and output not in ("folder", "denoiser"))
    assert all(f"**{word}**" in text for word in ("tested", "run", "rule", "no"))
    assert len(LAYOUTS) == 2  # the transformers with checkpoint and LoRA; a third needs a row of its own


def test_the_example_of_a_checkpoint_works(cones: Cones, work: Path) -> None:
    """pocket with another autoencoder: Python, then the command, as they stand on the page."""
    code = next(block for block in blocks(PROGRAMS, "python") if "AutoencoderKL" in block)
    exec(compile(code, "other-programs.md", "exec"), {})  # noqa: S102
    cones_format.save(random_cone(Model.from_pretrained("pocket")), work / "dog.cone")
    [line] = re.findall(r"^cones (apply dog.cone --model pocket-kl .*)$", PROGRAMS.read_text("utf-8"), re.MULTILINE)
    done = cones(*line.split())
    assert (done.code, done.lines) == (0, ["dog.safetensors", "dog.json"]), done.err
    with safe_open(work / "dog.safetensors", "pt") as opened:
        parts = {key.split(".")[0] for key in opened.keys()}  # noqa: SIM118
    assert parts == {"model", "first_stage_model", "cond_stage_model"}
