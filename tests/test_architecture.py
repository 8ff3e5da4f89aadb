"""What import-linter cannot see of the house rules: light commands start light."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conestool.cli._app import NAMES
from tests.conftest import LONGEST
from tests.support.command_line import concept, environment, save_cone

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "conestool"
HEAVY = {"torch", "diffusers", "transformers", "huggingface_hub", "accelerate"}
#: In the time that Python takes to import numpy and typer, 0.22 s where these limits were a quarter and half a second.
HELP_LIMIT, INSPECT_LIMIT = 1.15, 2.25
YARDSTICK = [sys.executable, "-c", "import numpy, typer"]
RUNS = 5
HEADERS = ("inspect --help", "inspect dog.cone both.cone", "inspect dog.cone --json", "--help")
"""What reads no index sets."""
LIGHT = (
    *HEADERS,
    *("--version", "find --help", "batch --help", "serve --help", "render --help", "tune --help", "eval --help"),
    *("inspect dog.cone --plot map.png", "merge dog.cone hat.cone", "extract both.cone hat -o out.cone"),
    *("diff dog.cone hat.cone", "pull owner/name --offline", "push dog.cone owner/name"),
)
"""What starts without torch; the Hub's client, which the last two need, may be there from then on."""


def test_torch_is_imported_late_where_commands_start() -> None:
    """In cli and hub torch, its kin and the Hub's client are imported inside functions; that stays cheap to ask for."""
    files = [PACKAGE / "hub.py", *(PACKAGE / "cli").glob("*.py")]
    early = [(path.name, name) for path in files for name in early_imports(path) if name.split(".")[0] in HEAVY]
    assert not early


def early_imports(path: Path) -> list[str]:
    """What a file imports when it is imported itself."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    named = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    return named + [node.module or "" for node in body if isinstance(node, ast.ImportFrom)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two .cone files and a merged one."""
    place = tmp_path_factory.mktemp("light")
    dog, hat = concept("dog", "sks"), concept("hat", "zwx", seed=1)
    save_cone(place / "dog.cone", dog)
    save_cone(place / "hat.cone", hat)
    save_cone(place / "both.cone", dog, hat)
    return place


@pytest.fixture(scope="module")
def started(folder: Path) -> dict[str, tuple[int, set[str]]]:
    """By command line its exit code and the modules that are there after it; one process runs all, in this order."""
    script = (
        "import sys; from conestool.cli.main import run\n"
        "for line in sys.argv[1:]: print(run(line.split()), *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *LIGHT],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT), HF_HOME=str(folder)) | {"HF_TOKEN": "hf_x"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    told = [line.split() for line in done.stderr.splitlines() if " conestool.cli.main " in line]
    return {line: (int(code), set(modules)) for line, (code, *modules) in zip(LIGHT, told, strict=True)}


def test_light_commands_never_import_torch(started: dict[str, tuple[int, set[str]]]) -> None:
    """Help, inspect, merge, extract and diff start without torch, diffusers and transformers; pull and push too."""
    for command, (code, modules) in started.items():
        hub = command.startswith(("pull", "push"))
        assert code == (7 if hub else 1 if command.startswith("diff") else 0), command
        assert not (HEAVY - {"huggingface_hub"} if hub else HEAVY) & modules, command


def test_headers_are_read_without_numpy(started: dict[str, tuple[int, set[str]]]) -> None:
    """inspect needs no index set, so it waits neither for numpy nor for zstd, nor for the modules of other commands."""
    for command in HEADERS:
        modules = started[command][1]
        assert not {"numpy", "zstandard", "PIL"} & modules, command
        if command != "--help":
            assert {f"conestool.cli.{name}" for name in NAMES} & modules == {"conestool.cli.inspect"}, command


def test_choosing_files_and_rewriting_prompts_need_no_torch() -> None:
    """From Python too: records and sheets among what starts light."""
    code = (
        "import sys, conestool.rendering as r; r.find_ids([]), r.rewrite, r.png_bytes, r.grid;"
        f"sys.exit(bool({HEAVY - {'huggingface_hub'}!r} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60).returncode == 0


@pytest.mark.alone
@pytest.mark.skipif(os.name != "posix", reason="needs the children's CPU time")
def test_help_takes_little_cpu() -> None:
    """`cones --help` imports less than numpy and typer."""
    assert times_yardstick([sys.executable, "-m", "conestool", "--help"]) < HELP_LIMIT


@pytest.mark.alone
@pytest.mark.skipif(os.name != "posix", reason="needs the children's CPU time")
def test_inspect_takes_little_cpu(folder: Path) -> None:
    """`cones inspect` spends little beyond the start of numpy and typer."""
    command = [sys.executable, "-m", "conestool", "inspect", "-q", str(folder / "dog.cone")]
    assert times_yardstick(command) < INSPECT_LIMIT


def times_yardstick(command: list[str]) -> float:
    """CPU time of a command in that of the yardstick, the least of several runs of both in turn."""
    times = [(child_seconds(command), child_seconds(YARDSTICK)) for _ in range(RUNS)]
    return min(own for own, _ in times) / min(yard for _, yard in times)


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
