"""Where commands are tortured: a tiny base model, photos and concepts, and fresh folders to run commands in."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from PIL import Image

from conestool import format as cones
from conestool._atomic import DAY, ENDING, write_atomic
from conestool.models.model import Model
from conestool.ops import extract
from tests.support.hub_server import Hub, serving
from tests.support.tiny_models import random_cone, save_pipeline

OLD = b"what was there before"
Content = dict[str, str]
"""Relative path -> sha256 of every file of an output; the output's own name alone for a file; empty if absent."""


@dataclass(frozen=True)
class Command:
    """A command line, an `other` with the same outputs but other content, and those; {inputs} is where inputs are."""

    line: str
    other: str
    outputs: tuple[str, ...]
    folder: bool = False

    @property
    def twin(self) -> Command:
        """The command with the other content."""
        return replace(self, line=self.other, other=self.line)

    def arguments(self, inputs: Path, *more: str) -> list[str]:
        """The words of the command line, with inputs from the folder `inputs`."""
        return [*(word.replace("_", " ").format(inputs=inputs) for word in self.line.split()), *more]


FIND = "find {inputs}/photos -o dog.cone --num-class-images 4 --steps 4 --density 0.05 --captions none --no-sheet"
FIND += " --other-class-weight 0"
PICTURES = tuple(f"drawn/a-dog-in-a-hat-{seed}.png" for seed in (0, 1))
ORDER = ("find", "merge", "apply", "render", "tune", "eval", "pull")
APPLY = "apply {{inputs}}/{}.cone -o {}"
DENOISER = f"{APPLY} --as denoiser"
SINGLE = "denoiser.safetensors"
MERGE = "merge {inputs}/dog.cone {inputs}/hat.cone -o both.cone"
MERGE_OTHER = "merge {inputs}/hat.cone {inputs}/cat.cone -o both.cone"
RENDER = "render a_dog_in_a_hat -c {inputs}/dog.cone -c {inputs}/hat.cone -o drawn/ -n 2 --steps 2"
QUICK = "--num-class-images 4 --steps 3 --lr 0.2 --captions none --other-class-weight 0 --composite-weight 0"
SUBJECTS = "--photos dog={inputs}/photos --photos hat={inputs}/photos"
TUNE = f"tune {{inputs}}/dog.cone {{inputs}}/hat.cone {SUBJECTS} -o tuned.cone {QUICK}"
EVAL = "eval {inputs}/dog.cone --photos {inputs}/photos --pictures sheets --quick --prompts {inputs}/prompts.txt"
REPOSITORY = "owner/cones"
PULL = f"pull {REPOSITORY} {{}}.cone -o pulled.cone"
COMMANDS: dict[str, tuple[Command, ...]] = {
    "find": (Command(FIND, f"{FIND} --seed 1", ("dog.cone",)),),
    "merge": (Command(MERGE, MERGE_OTHER, ("both.cone",)),),
    "apply": (
        Command(APPLY.format("dog", "patched"), APPLY.format("hat", "patched"), ("patched",), folder=True),
        Command(DENOISER.format("dog", SINGLE), DENOISER.format("hat", SINGLE), (SINGLE,)),
    ),
    "render": (Command(RENDER, f"{RENDER} --guidance 2", PICTURES),),
    "tune": (Command(TUNE, f"{TUNE} --seed 1", ("tuned.cone",)),),
    "eval": (Command(EVAL, f"{EVAL} --seed 1", ("sheets/dog.png",)),),
    "pull": (Command(PULL.format("dog"), PULL.format("hat"), ("pulled.cone",)),),
}
"""The variants of each command."""


@dataclass(frozen=True)
class Place:
    """A folder of one attempt: `out`, where the command runs and writes, `cache`, and `hub`, the Hub client's own."""

    root: Path

    @property
    def out(self) -> Path:
        """The working directory."""
        return self.root / "out"

    @property
    def cache(self) -> Path:
        """What $CONES_CACHE names."""
        return self.root / "cache"

    @property
    def hub(self) -> Path:
        """Where the Hub's client keeps what it fetched; what it leaves there is its own affair."""
        return self.root / "hub"

    def put_old(self, command: Command) -> None:
        """Let every output be there already, with other content."""
        for name in command.outputs:
            path = self.out / name / "old.txt" if command.folder else self.out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(OLD)

    def contents(self, command: Command) -> list[Content]:
        """What each output holds."""
        return [content(self.out / name) for name in command.outputs]

    def strays(self, command: Command) -> list[str]:
        """Files and folders that are neither output nor cache: temporary ones, and saved searches."""
        parts = {*command.outputs, *(str(Path(name).parent) for name in command.outputs)}
        found = [path for path in self.root.rglob(".*") if self.hub not in path.parents]
        found += [path for path in self.out.iterdir() if path.name not in parts]
        return sorted({str(path.relative_to(self.root)) for path in found})

    def mend(self) -> None:
        """Put back what a kill between the two renames of a folder set aside, as the next write beside it does."""
        write_atomic(self.out / "beside", b"").unlink()

    def next_day(self) -> None:
        """Let two days pass for all hidden folders, then write a file beside each, which removes them."""
        for work in list(self.root.rglob(f".*{ENDING}")):
            for path in (*work.rglob("*"), work):
                os.utime(path, (0, path.stat().st_mtime - 2 * DAY))
            write_atomic(work.parent / "beside", b"").unlink()

    def unreadable(self) -> list[str]:
        """Cache files that cannot be read."""
        files = (path for path in self.cache.rglob("*") if path.is_file())
        seen = [path for path in files if not any(part.startswith(".") for part in path.relative_to(self.cache).parts)]
        return [str(path) for path in seen if not readable(path)]


class Stage:
    """The inputs, in `root / "inputs"`, and the folders of attempts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inputs = root / "inputs"
        self.inputs.mkdir(parents=True)
        self.model = save_pipeline(self.inputs / "model")
        shutil.rmtree(self.inputs / "model-parts")
        (self.model / "pocket.json").write_text('{"num_inference_steps": 2, "guidance_scale": 1.0, "size": 32}')
        three = random_cone(Model.from_pretrained(str(self.model), device="cpu"), "dog", "hat", "cat")
        for name in three.names:
            cones.save(extract(three, name), self.inputs / f"{name}.cone")
        (self.inputs / "photos").mkdir()
        for number in range(2):
            pixels = random.Random(number).randbytes(40 * 40 * 3)
            Image.frombytes("RGB", (40, 40), pixels).save(self.inputs / "photos" / f"{number}.png")
        (self.inputs / "prompts.txt").write_text("a photo of {}\n")
        for path in self.inputs.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)

    @contextmanager
    def place(self, cache: Path | None = None) -> Iterator[Place]:
        """A fresh place, with a copy of `cache` if that is given; removed in the end."""
        with TemporaryDirectory(prefix="place-", dir=self.root) as folder:
            place = Place(Path(folder))
            place.out.mkdir()
            if cache and cache.exists():
                shutil.copytree(cache, place.cache)
            yield place


@contextmanager
def open_stage() -> Iterator[Stage]:
    """A stage in a temporary folder; searches save themselves after every step there, and measure little.

    The Hub is a stand-in on this machine, with the concepts in one repository.
    """
    with TemporaryDirectory(prefix="torture-") as folder, pytest.MonkeyPatch.context() as patch:
        for module, name, number in (
            ("loop", "SAVE_SECONDS", -1.0),
            ("find", "NUM_EVAL_SAMPLES", 4),
            ("tune", "NUM_COMPARED", 4),
        ):
            patch.setattr(import_module(f"conestool.search.{module}"), name, number)
        stage = Stage(Path(folder) / "stage")
        with serving(Hub({REPOSITORY: {"main": stage.inputs}}), stage.root / "hub", patch):
            yield stage


def content(path: Path) -> Content:
    """The content of a file or folder."""
    if path.is_file():
        return {path.name: digest(path)}
    files = (file for file in sorted(path.rglob("*")) if file.is_file()) if path.is_dir() else ()
    return {str(file.relative_to(path)): digest(file) for file in files}


def digest(path: Path) -> str:
    """Sha256 hex of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def readable(path: Path) -> bool:
    """Whether a file of the cache is whole JSON or a whole picture."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        else:
            with Image.open(path) as image:
                image.load()
    except (OSError, ValueError, SyntaxError):
        return False
    return True
