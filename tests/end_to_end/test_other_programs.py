"""docs/other-programs.md: its table is about what is written, by the versions that tests run; its example works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors import safe_open

from conestool import format as cones_format
from conestool.models.conversion.fused_qkv import LAYOUTS
from conestool.models.families import FAMILIES
from conestool.models.model import Model
from tests.support.command_line import Cones
from tests.support.tiny_models import random_cone

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "other-programs.md").read_text(encoding="utf-8")
NAMES = {
    "stable-diffusion": "Stable Diffusion 1.x, 2.x, XL",
    "stable-diffusion-xl": "Stable Diffusion 1.x, 2.x, XL",
    "stable-diffusion-3": "Stable Diffusion 3, 3.5",
    "flux": "Flux",
    "pixart": "PixArt",
}
"""The families' rows."""


def table() -> tuple[list[str], dict[tuple[str, str], list[str]]]:
    """The programs, and by family and output what the table says of each."""
    lines = PAGE[PAGE.index("| base model | output |") :].split("\n\n")[0].splitlines()
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows: dict[tuple[str, str], list[str]] = {}
    family = ""
    for name, outputs, *cells in body:
        family = name or family
        rows |= {(family, output): cells for output in outputs.split(", ")}
    return head[2:], rows


def test_every_family_has_a_row_for_every_output() -> None:
    """With one word a program, of those that the page explains; what is not written is said to be so."""
    programs, rows = table()
    outputs = ("folder", "checkpoint", "denoiser", "LoRA")
    assert rows.keys() == {(NAMES[family.name], output) for family in FAMILIES for output in outputs}
    for (family, output), cells in rows.items():
        assert len(cells) == len(programs)
        assert set(cells) <= {"tested", "run", "rule", "no", "", "not written"}
        written = family != "PixArt" or output in ("folder", "denoiser")
        assert ("not written" in cells) != written
    assert all(f"**{word}**" in PAGE for word in ("tested", "run", "rule", "no"))
    assert len(LAYOUTS) == 2  # the transformers with checkpoint and LoRA; a third needs a row of its own


def test_the_version_of_diffusers_is_the_one_that_tests_run() -> None:
    """As constraints.txt has it."""
    [version] = re.findall(r"^diffusers==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"diffusers {version}" in table()[0]


def test_the_example_of_a_checkpoint_works(cones: Cones, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pocket with another autoencoder: Python, then the command, as they stand on the page."""
    monkeypatch.delenv("CONES_MODEL", raising=False)
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "AutoencoderKL" in block)
    exec(compile(code, "other-programs.md", "exec"), {})  # noqa: S102
    model = Model.from_pretrained("pocket")
    cones_format.save(random_cone(model), work / "dog.cone")
    [line] = re.findall(r"^cones (apply dog.cone --model pocket-kl .*)$", PAGE, re.MULTILINE)
    done = cones(*line.split())
    assert (done.code, done.lines) == (0, ["dog.safetensors", "dog.json"]), done.err
    with safe_open(work / "dog.safetensors", "pt") as opened:
        keys = set(opened.keys())
    assert {key.split(".")[0] for key in keys} == {"model", "first_stage_model", "cond_stage_model"}
