"""Cones without a model behind them, and the command line as a process or in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conestool import format as cones
from conestool.concept import BaseModelInfo, Concept, Cone, Losses, Provenance

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "conestool")
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
SHAPES = {
    f"{BLOCK}.attn1.to_k.weight": [32, 32],
    f"{BLOCK}.attn1.to_v.weight": [32, 32],
    f"{BLOCK}.attn2.to_k.weight": [32, 64],
    f"{BLOCK}.attn2.to_v.weight": [32, 64],
}


@dataclass(frozen=True)
class Outcome:
    """What one command line left: exit code, bytes on stdout, text on stderr."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines on stdout."""
        return self.out.decode().splitlines()

    @property
    def json(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.out)


Cones = Callable[..., Outcome]
"""The fixture `cones`: called with the words of a command line, it runs the command in this process."""


def base(name: str = "toy", seed: int = 0) -> BaseModelInfo:
    """A base model's identity that differs with `seed` in every digest."""
    roundings = ("f32", "f16", "bf16", "bf16(f16)", "f16(bf16)")
    return BaseModelInfo(
        id=name,
        family="stable-diffusion",
        dtype="float32",
        structure="ab" * 32,
        tensors=SHAPES,
        digests={rounding: f"{seed:02x}{number:02x}" * 16 for number, rounding in enumerate(roundings)},
    )


def concept(
    name: str = "dog", identifier: str = "sks", *, share: float = 0.02, seed: int = 0, **origin: Any
) -> Concept:
    """A concept with about `share` of the weights of every tensor, drawn with `seed`."""
    rng = np.random.default_rng(seed)
    indices = {}
    for param, (rows, columns) in SHAPES.items():
        size = rows * columns
        indices[param] = np.sort(rng.choice(size, max(1, int(share * size)), replace=False)).astype(np.int32)
    known = {
        "instance_prompt": f"a photo of a {identifier} {name}",
        "class_prompt": f"a photo of a {name}",
        "method": "mask",
        "parameters": {"steps": 60},
        "seed": 0,
        "photos": ["00" * 32, "11" * 32],
        "losses": Losses(
            held_out_before=0.2, held_out_after=0.15, random_after=0.2, class_before=0.1, class_after=0.11
        ),
    }
    return Concept(name, name, identifier, indices, base(), Provenance(**{**known, **origin}))


def save_cone(path: Path, *concepts: Concept) -> Path:
    """A .cone file with these concepts; `dog` if there are none."""
    cones.save(Cone(concepts or (concept(),)), path)
    return path


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what would change the output, and with `changes`."""
    dropped = {"CONES_MODEL", "CONES_PATH", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM"}
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return {**kept, "OMP_NUM_THREADS": "1", "TERM": "xterm", **changes}


def run_process(*arguments: str | Path, cwd: Path, stdin: bytes | None = b"", **env: str) -> Any:
    """`cones` as a process of its own, with bytes on all streams."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env=environment(PYTHONPATH=str(ROOT), **env),
        timeout=120,
        check=False,
    )
