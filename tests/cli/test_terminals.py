"""Terminals that are narrow or get bytes, and locales that are not UTF-8."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from conestool.cli import _output
from conestool.cli._app import NAMES
from tests.support.command_line import COMMAND, ROOT, concept, environment, run_process, save_cone
from tests.support.process import cones, on_terminal

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks")


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
    assert b"will not write" in screen.out and b"CONE\r" not in screen.out


def test_stdin_that_is_a_terminal_is_not_waited_for(folder: Path) -> None:
    """`inspect -` typed by hand says what it wants instead of hanging."""
    done = on_terminal("inspect", "-", cwd=folder)
    assert done.code == 3 and b"pipe it in" in done.out


def test_colour_on_a_terminal_and_none_with_no_color(folder: Path) -> None:
    command = ("inspect", "a.cone")
    assert b"\x1b[" in on_terminal(*command, cwd=folder).out
    assert b"\x1b" not in on_terminal(*command, cwd=folder, NO_COLOR="1").out
    assert b"\x1b" not in on_terminal(*command, cwd=folder, TERM="dumb").out


@pytest.mark.parametrize("columns", [1, 40, 80])
@pytest.mark.parametrize(
    "line", ["inspect long.cone --layers", "diff long.cone b.cone", "merge long.cone b.cone a.cone"]
)
def test_tables_stay_in_a_narrow_terminal(line: str, columns: int, folder: Path) -> None:
    """Wide characters count twice; no line of a table and no bar goes past the edge, whatever the width."""
    name = "ねこ" * 16
    save_cone(folder / "long.cone", concept(name, "vlk", seed=3, notes="ねこ" * 90, method="word " * 30))
    screen = on_terminal(*line.split(), cwd=folder, columns=columns, NO_COLOR="1")
    assert screen.code in (0, 1), screen.out
    rows = [row for row in screen.out.decode().splitlines() if row.startswith("  ") or line.startswith("diff")]
    assert columns < 40 or 0 < max(map(cell_len, rows)) <= columns


def test_long_warnings_break_between_words_and_tables_line_up(folder: Path) -> None:
    """A command line to copy stays one line."""
    warning = "the losses on the photos fall no further than with random weights of the same number, " * 2
    save_cone(folder / "w.cone", concept(warnings=[warning]))
    lines = on_terminal("inspect", "w.cone", cwd=folder, NO_COLOR="1").out.decode().splitlines()
    assert max(map(len, lines)) <= 80 and set(warning.split()) <= set(" ".join(lines).split())
    rows = [line for line in lines if line.startswith("  ")]
    assert {line[:15].rstrip().count("  ") for line in rows} <= {0, 1, 2} and {line[14] for line in rows} == {" "}
    assert all(line[15] != " " for line in rows if line[2] != " ")


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
    monkeypatch.setenv("TERM", "xterm")  # rich draws no bar on a dumb terminal, as this process may have
    narrow = Console(file=out, force_terminal=True, width=40, height=20, legacy_windows=False, color_system=None)
    monkeypatch.setitem(_output.state, "level", 0)  # a command that an earlier test ran here may have been quiet
    monkeypatch.setitem(_output.state, "mute", False)
    monkeypatch.setattr(_output, "plain", lambda: False)
    monkeypatch.setattr(_output, "console", lambda: narrow)
    monkeypatch.setattr(_output, "width", lambda: 40)
    with _output.progress("class images", 1000) as tick:
        tick(999, "loss 0.1234")
    with _output.waiting("loading " + "x" * 500):
        time.sleep(0.1)
    text = re.sub(r"\x1b\[(\?25[lh]|2K|1A)", "", out.getvalue())
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
    command: list[str | bytes] = [*COMMAND, "inspect", path, "--json", "-v"]
    env = environment(PYTHONPATH=str(ROOT)) | locale
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout.decode("utf-8"))
    assert (told["concepts"][0]["name"], told["concepts"][0]["origin"]["notes"]) == ("ねこ", "Käse ☃")
    assert b"neurons" in done.stderr


def test_ascii_locale_gets_ascii_bars(folder: Path) -> None:
    done = run_process("inspect", "a.cone", "--layers", cwd=folder, PYTHONIOENCODING="ascii")
    assert b"####" in done.stderr and b"\\u" not in done.stderr


@pytest.mark.parametrize("command", ["", *NAMES])
def test_help_needs_no_more_than_ascii(command: str, tmp_path: Path) -> None:
    done = cones(*command.split(), "--help", cwd=tmp_path, encoding="ascii")
    assert done.code == 0, done.err
    assert done.out.isascii() and b"Usage" in done.out
