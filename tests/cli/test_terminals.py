"""Terminals that are narrow or get bytes, locales that are not UTF-8, and names that are not either."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from conestool.cli import _output
from tests.support.command_line import COMMAND, concept, environment, save_cone
from tests.support.process import cones, on_terminal

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a.cone and b.cone."""
    save_cone(tmp_path / "a.cone", concept("dog", "sks"))
    save_cone(tmp_path / "b.cone", concept("hat", "zwx", seed=1))
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "merge a.cone b.cone -o -",
        "merge a.cone b.cone -o /dev/stdout",
        "inspect a.cone --plot -",
        "render x --no-cones -o -",
        "extract a.cone dog -o -",
    ],
)
def test_binary_is_kept_from_a_terminal(line: str, folder: Path) -> None:
    """Refused before any work."""
    screen = on_terminal(*line.split(), cwd=folder)
    assert screen.code == 2
    assert b"will not write" in screen.out


@pytest.mark.parametrize("columns", [1, 40])
@pytest.mark.parametrize("line", ["inspect long.cone", "diff long.cone b.cone", "merge long.cone b.cone a.cone"])
def test_tables_stay_in_a_narrow_terminal(line: str, columns: int, folder: Path) -> None:
    """Wide characters count twice; no line of a table goes past the edge, whatever the width."""
    name = "ねこ" * 16
    save_cone(folder / "long.cone", concept(name, "vlk", seed=3, notes="ねこ" * 90, method="word " * 30))
    (folder / f"dog+hat+{name}.cone").unlink(missing_ok=True)
    screen = on_terminal(*line.split(), cwd=folder, columns=columns, NO_COLOR="1")
    assert screen.code in (0, 1), screen.out
    rows = [row for row in screen.out.decode().splitlines() if row.startswith("  ") or line.startswith("diff")]
    assert columns < 40 or 0 < max(map(cell_len, rows)) <= columns


def test_diff_keeps_its_last_column_in_forty_columns(folder: Path) -> None:
    """Counts stand below the layer's name; on 80 columns they stand beside it. Metadata are wrapped."""
    save_cone(folder / "c.cone", concept("dog", "sks", seed=1, share=0.9, notes="by night " * 5))
    narrow, wide = (
        on_terminal("diff", "a.cone", "c.cone", "--layers", cwd=folder, columns=columns, NO_COLOR="1").out.decode()
        for columns in (40, 80)
    )
    for text in ("Jaccard", "by night by", "down.0.0.0 cross"):
        assert text in narrow and text in wide
    (last,) = [line for line in wide.splitlines() if line.strip().startswith("down.0.0.0 cross ")]
    assert last.split()[2:] in [line.split() for line in narrow.splitlines()]


def test_bars_fit_forty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar with the longest title, and a spinner with an endless one, take one line."""
    out = io.StringIO()
    narrow = Console(file=out, force_terminal=True, width=40, height=20, legacy_windows=False, color_system=None)
    monkeypatch.setattr(_output, "plain", lambda: False)
    monkeypatch.setattr(_output, "console", lambda: narrow)
    monkeypatch.setattr(_output, "width", lambda: 40)
    with _output.progress("class images", 1000) as tick:
        tick(999, "loss 0.1234")
    with _output.waiting("loading " + "x" * 500):
        time.sleep(0.1)
    text = (
        out.getvalue().replace("\x1b[?25l", "").replace("\x1b[?25h", "").replace("\x1b[2K", "").replace("\x1b[1A", "")
    )
    assert "class images" in text and "loading" in text
    assert max(cell_len(line) for part in text.split("\n") for line in part.split("\r")) <= 40


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=lambda locale: next(iter(locale.values())),
)
def test_other_locales(locale: dict[str, str], folder: Path) -> None:
    """Names of files and concepts pass through untouched, JSON is UTF-8, and people see escapes at worst."""
    save_cone(folder / "x.cone", concept("ねこ", "vlk", seed=3, notes="Käse ☃"))
    path = os.fsencode(folder) + b"/d\xf6g \xe7\x8c\xab.cone"
    Path(os.fsdecode(path)).write_bytes((folder / "x.cone").read_bytes())
    command = [*COMMAND, "inspect", path, "--json", "-v"]
    env = environment(PYTHONPATH=str(ROOT)) | locale
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout.decode("utf-8"))
    assert (told["concepts"][0]["name"], told["concepts"][0]["origin"]["notes"]) == ("ねこ", "Käse ☃")
    assert b"neurons" in done.stderr


@pytest.mark.parametrize("command", ["", "find", "render", "inspect", "merge", "diff", "extract", "apply", "doctor"])
def test_help_needs_no_more_than_ascii(command: str, tmp_path: Path) -> None:
    """Every help page can be shown anywhere."""
    done = cones(*command.split(), "--help", cwd=tmp_path, encoding="ascii")
    assert done.code == 0, done.err
    assert done.out.isascii() and b"Usage" in done.out


def test_a_path_in_json_is_the_path(folder: Path) -> None:
    """Bytes that are no UTF-8 come back as Python and other readers of surrogates decode them."""
    name = os.fsdecode(b"d\xf6g.cone")
    save_cone(folder / name, concept())
    done = cones("inspect", name, "--json", "-q", cwd=folder)
    assert done.out.isascii()
    assert os.fsencode(json.loads(done.out)[0]["file"]) == b"d\xf6g.cone"
