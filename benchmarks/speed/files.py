"""Concept files as large as those of Stable Diffusion 1.5, through the commands and the functions behind them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.format import shapes, uniform
from benchmarks.speed.clock import child_seconds, seconds
from conestool import format as cones
from conestool.cli._app import NAMES
from conestool.concept import BaseModelInfo, Concept, Cone

CONES = [sys.executable, "-m", "conestool"]
COMMANDS = ["", *NAMES]
"""All commands, and none for `cones` itself."""


def concept(number: int, tensors: Mapping[str, list[int]], density: float) -> Concept:
    """A random set of neurons, as many in each tensor as its size asks for."""
    base = BaseModelInfo(
        id="stable-diffusion-1.5",
        family="stable-diffusion",
        dtype="float32",
        structure="00" * 32,
        tensors=dict(tensors),
        digests={"f32": "00" * 32},
    )
    rng = np.random.default_rng(number)
    indices = {param: uniform(shape, density, rng) for param, shape in tensors.items()}
    return Concept(f"dog {number}", "dog", f"sks{number}", indices, base)


def make_files(folder: Path, count: int, tensors: Mapping[str, list[int]] | None = None, density: float = 0.01) -> None:
    """`count` concepts of 1 % of the K/V weights, each in a file of its own: 0.cone, 1.cone and so on."""
    for number in range(count):
        path = folder / f"{number}.cone"
        if not path.exists():
            cones.save(Cone((concept(number, tensors or shapes(), density),)), path)


def functions(folder: Path) -> dict[str, float]:
    """CPU seconds to encode and to decode one concept, in this process."""
    data = (folder / "0.cone").read_bytes()
    cone = cones.loads(data)
    return {
        "encode": seconds(lambda: cones.dumps(Cone(cone.concepts))),
        "decode": seconds(lambda: cones.loads(data)),
    }


def commands(folder: Path, counts: list[int]) -> dict[str, float]:
    """CPU seconds of whole commands on these files, the interpreter's start included."""
    run = partial(child_seconds, folder=folder)
    found = {
        "inspect": run([*CONES, "inspect", "0.cone"]),
        "inspect --json": run([*CONES, "inspect", "0.cone", "--json"]),
        "diff": run([*CONES, "diff", "0.cone", "1.cone"], code=1),
        "merge 2": run([*CONES, "merge", "0.cone", "1.cone", "-o", "out.cone", "--overwrite"]),
        "extract": run([*CONES, "extract", "out.cone", "dog 0", "-o", "one.cone", "--overwrite"]),
    }
    for count in counts:
        files = [f"{number}.cone" for number in range(count)]
        found[f"merge {count}"] = run([*CONES, "merge", *files, "-o", "out.cone", "--overwrite"])
    return found


def start(folder: Path) -> dict[str, float]:
    """CPU seconds of every command's `--help`, and of Python alone."""
    found = {f"{name} --help".strip(): child_seconds([*CONES, *name.split(), "--help"], folder) for name in COMMANDS}
    return found | {"python": child_seconds([sys.executable, "-c", "pass"], folder)}
