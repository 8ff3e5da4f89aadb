"""Processes, some with a start of their own: pipes, terminals, closed readers, and what each stream carries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conestool import format as cones_format
from tests.support.command_line import COMMAND, concept, environment, run_process, save_cone
from tests.support.process import cones, on_terminal

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="forks")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with dog.cone and hat.cone."""
    save_cone(tmp_path / "dog.cone", concept("dog", "sks"))
    save_cone(tmp_path / "hat.cone", concept("hat", "zwx", seed=1))
    return tmp_path


@posix
def test_merged_bytes_go_through_a_pipe(folder: Path) -> None:
    """`merge -o - | inspect -` and `merge - b` carry the exact bytes of the file."""
    merged = run_process("merge", "dog.cone", "hat.cone", "-o", "-", cwd=folder)
    assert cones_format.loads(merged.stdout).names == ("dog", "hat")
    read = cones("inspect", "-", "--json", "-q", cwd=folder, stdin=merged.stdout)
    assert b'"name": "hat"' in read.out
    again = cones("merge", "-", "hat.cone", "-o", "-", cwd=folder, stdin=(folder / "dog.cone").read_bytes())
    assert again.out == merged.stdout


@posix
def test_stdin_can_be_named_once(folder: Path) -> None:
    """`merge - -` has no second input to read."""
    done = cones("merge", "-", "-", "-o", "x.cone", cwd=folder)
    assert done.code == 2
    assert b"twice" in done.err


@posix
def test_usage_error_is_two_lines(folder: Path) -> None:
    """An unknown option: exit code 2, one line on what is wrong and one on what to do, stdout empty."""
    done = cones("merge", "--nope", cwd=folder)
    assert (done.code, done.out) == (2, b"")
    assert done.err.decode().splitlines()[-1] == "  see cones merge --help"
    assert len(done.err.splitlines()) == 2


def test_version_is_on_stdout(folder: Path) -> None:
    """`cones --version`."""
    from conestool import __version__

    assert run_process("--version", cwd=folder).stdout.decode() == f"cones {__version__}\n"


def test_closed_pipe_is_quiet(folder: Path) -> None:
    """A reader that leaves early causes neither a message nor a failure."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, "inspect", "dog.cone", "--json", "-q"]
    env = environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(command, cwd=folder, stdout=writer, stderr=subprocess.PIPE, env=env, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_closed_stdout_is_no_bug(folder: Path) -> None:
    """`cones --version >&-` has nowhere to write and does not crash."""
    command = [*COMMAND, "inspect", "dog.cone"]
    env = environment(PYTHONPATH=str(ROOT))
    line = ["sh", "-c", 'exec "$@" >&-', "-", *command]
    done = subprocess.run(line, cwd=folder, capture_output=True, env=env, timeout=60, check=False)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


@posix
def test_file_name_that_is_no_utf8(folder: Path) -> None:
    """The path on stdout is the name byte for byte, as the next program needs it."""
    name = os.fsdecode(b"d\xf6g.cone")
    done = run_process("merge", "dog.cone", "hat.cone", "-o", name, cwd=folder)
    assert done.stdout == b"d\xf6g.cone\n"
    assert cones("inspect", name, cwd=folder).code == 0


def test_ascii_locale_gets_ascii_bars(folder: Path) -> None:
    """Where stderr cannot show blocks, bars are of another character."""
    done = run_process("inspect", "dog.cone", "--layers", cwd=folder, PYTHONIOENCODING="ascii")
    assert b"####" in done.stderr
    assert b"\\u" not in done.stderr


@posix
def test_binary_never_reaches_a_terminal(folder: Path) -> None:
    """`merge -o -` on a terminal is refused before anything is written."""
    done = on_terminal("merge", "dog.cone", "hat.cone", "-o", "-", cwd=folder)
    assert done.code == 2
    assert b"will not write" in done.out
    assert b"CONE" not in done.out


@posix
def test_stdin_that_is_a_terminal_is_not_waited_for(folder: Path) -> None:
    """`inspect -` typed by hand says what it wants instead of hanging."""
    done = on_terminal("inspect", "-", cwd=folder)
    assert done.code == 3
    assert b"pipe it in" in done.out


@posix
def test_colour_on_a_terminal_and_none_with_no_color(folder: Path) -> None:
    """Escape sequences appear on a terminal, unless NO_COLOR is set."""
    command = ("inspect", "dog.cone")
    assert b"\x1b[" in on_terminal(*command, cwd=folder).out
    assert b"\x1b" not in on_terminal(*command, cwd=folder, NO_COLOR="1").out
    assert b"\x1b" not in on_terminal(*command, cwd=folder, TERM="dumb").out


@posix
@pytest.mark.parametrize("columns", [40, 80])
def test_tables_fit_the_terminal(folder: Path, columns: int) -> None:
    """Layer bars shrink to the width there is."""
    out = on_terminal("inspect", "dog.cone", "--layers", cwd=folder, columns=columns, NO_COLOR="1").out.decode()
    bars = [line for line in out.splitlines() if line.startswith("  down")]
    assert len(bars) == 2
    assert all(len(line) <= columns for line in bars)


def test_unknown_exception_is_one_line_and_code_70(folder: Path) -> None:
    """A bug says so in one line; --traceback shows the rest."""
    script = (
        "import sys; from conestool import ops; from conestool.cli.main import main\n"
        "def broken(*cones, **options): raise KeyError('x')\n"
        "ops.merge = broken; main()"
    )
    command = [sys.executable, "-c", script, "merge", "dog.cone", "hat.cone"]
    env = environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(command, cwd=folder, capture_output=True, env=env, timeout=60, check=False, text=True)
    assert done.returncode == 70
    assert done.stderr.splitlines()[0] == "error: a bug in cones: KeyError: 'x'"
    assert "Traceback" not in done.stderr
    more = subprocess.run([*command, "--traceback"], cwd=folder, capture_output=True, env=env, timeout=60, check=False)
    assert more.returncode == 70
    assert b"Traceback" in more.stderr
