"""The house rules: imports point downwards, torch lives in one wing, light commands start light, only cli prints."""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conestool.cli._commands import NAMES
from tests.cli.support import concept, environment, save_cone
from tests.conftest import LONGEST

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "conestool"
FLOORS = (
    "errors",
    "text",
    "_atomic",
    "records",
    "concept",
    "identity",
    "format",
    "algebra",
    "hub",
    "diffusion",
    "patch",
    "search",
    "render",
    "evaluate",
    "cli",
    "__main__",
)
"""From the ground up; a floor may use itself and those before it."""
HEAVY = {"torch", "diffusers", "transformers", "huggingface_hub", "accelerate"}
WING = {"diffusion", "patch", "search", "render", "evaluate"}
"""Where torch may be imported at the top of a file; cli imports it inside functions."""
CPU_LIMIT = 0.25
INSPECT_LIMIT = 0.5
"""Generous: it takes 0.35 where numpy alone takes 0.15, and took 0.55 when it imported that."""
RUNS = 5

Import = tuple[str, bool]
"""A module's dotted name, and whether it is imported inside a function."""


def modules() -> list[Path]:
    """Every file of the package but its front door, which exports from all floors."""
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def floor_of(path: Path) -> str:
    """The floor that a file of the package is on."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[Import]:
    """Everything a file imports, wherever the statement stands."""
    return list(walk(ast.parse(path.read_text(encoding="utf-8")), inside=False))


def walk(node: ast.AST, inside: bool) -> Iterator[Import]:
    """The imports below a node; `from conestool import x` counts as conestool.x."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            module = child.module or ""
            yield module, inside
            if module == "conestool":
                yield from ((f"conestool.{alias.name}", inside) for alias in child.names)
        else:
            deeper = inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, deeper)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    """No file uses a floor above its own, not even inside a function."""
    floor = floor_of(path)
    assert floor in FLOORS, f"{floor} has no place in the house; add it to FLOORS"
    allowed = FLOORS[: FLOORS.index(floor) + 1]
    used = {name.split(".")[1] for name, _ in imports(path) if name.startswith("conestool.")}
    assert used - {"__version__"} <= set(allowed)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_stays_in_its_wing(path: Path) -> None:
    """torch and its kin are imported in the wing, in cli inside functions, and nowhere else.

    The Hub's client alone, which needs no torch, also in hub, inside functions.
    """
    heavy = [(name, inside) for name, inside in imports(path) if name.split(".")[0] in HEAVY]
    if floor_of(path) == "hub":
        heavy = [(name, inside) for name, inside in heavy if not (inside and name.startswith("huggingface_hub"))]
    elif floor_of(path) == "cli":
        heavy = [(name, inside) for name, inside in heavy if not inside]
    elif floor_of(path) in WING:
        heavy = []
    assert not heavy


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_prints(path: Path) -> None:
    """Libraries report through callbacks and exceptions."""
    if floor_of(path) == "cli":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    printed = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "print"]
    assert not printed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two .cone files and a merged one."""
    place = tmp_path_factory.mktemp("light")
    dog, hat = concept("dog", "sks"), concept("hat", "zwx", seed=1)
    save_cone(place / "dog.cone", dog)
    save_cone(place / "hat.cone", hat)
    save_cone(place / "both.cone", dog, hat)
    return place


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "--version",
        "find --help",
        "render --help",
        "tune --help",
        "eval --help",
        "inspect dog.cone both.cone",
        "inspect dog.cone --json",
        "inspect dog.cone --plot map.png",
        "merge dog.cone hat.cone",
        "extract both.cone hat -o out.cone",
        "diff dog.cone hat.cone",
        "pull owner/name --offline",
        "push dog.cone owner/name",
    ],
)
def test_light_commands_never_import_torch(command: str, folder: Path) -> None:
    """Help, inspect, merge, extract and diff start without torch, diffusers and transformers; pull and push too."""
    hub = command.startswith(("pull", "push"))
    heavy = HEAVY - {"huggingface_hub"} if hub else HEAVY
    code, modules = run_apart(command, folder, HF_TOKEN="hf_x" if hub else "")
    assert code == (7 if hub else 1 if command.startswith("diff") else 0)
    assert not heavy & modules


@pytest.mark.parametrize(
    "command", ["--help", "inspect --help", "inspect dog.cone both.cone", "inspect dog.cone --json"]
)
def test_headers_are_read_without_numpy(command: str, folder: Path) -> None:
    """inspect needs no index set, so it waits neither for numpy nor for zstd, nor for the modules of other commands."""
    code, modules = run_apart(command, folder)
    assert code == 0
    assert not {"numpy", "zstandard", "PIL", "conestool.files"} & modules
    if command != "--help":
        commands = {f"conestool.cli.{name}" for name in NAMES}
        assert commands & modules == {"conestool.cli.inspect"}


def run_apart(command: str, folder: Path, **variables: str) -> tuple[int, set[str]]:
    """The exit code of a command line in a process of its own, and the modules that it imported."""
    script = (
        "import sys; from conestool.cli.main import run; code = run(sys.argv[1:]);"
        "print(code, *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command.split()],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT), HF_HOME=str(folder), **variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    code, *modules = done.stderr.splitlines()[-1].split()
    return int(code), set(modules)


@pytest.mark.alone
@pytest.mark.skipif(os.name != "posix", reason="needs the children's CPU time")
def test_help_takes_little_cpu() -> None:
    """`cones --help` stays under a quarter of a second of CPU, in the median of several runs."""
    times = [child_seconds([sys.executable, "-m", "conestool.cli", "--help"]) for _ in range(RUNS)]
    assert statistics.median(times) < CPU_LIMIT


@pytest.mark.alone
@pytest.mark.skipif(os.name != "posix", reason="needs the children's CPU time")
def test_inspect_takes_little_cpu(folder: Path) -> None:
    """`cones inspect` spends little beyond typer's start, in the median of several runs."""
    command = [sys.executable, "-m", "conestool.cli", "inspect", "-q", str(folder / "dog.cone")]
    times = [child_seconds(command) for _ in range(RUNS)]
    assert statistics.median(times) < INSPECT_LIMIT


def child_seconds(command: list[str]) -> float:
    """User and system seconds that a child process takes."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_files_that_are_tested_first_are_there() -> None:
    """None is named that was moved away."""
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []
