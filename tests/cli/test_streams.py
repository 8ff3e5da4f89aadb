"""Streams as shells and other programs really give them: pipes, closed, full, slow, empty, foreign."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from conestool import __version__, _atomic, ops
from conestool import format as cones_format
from conestool.models import cache
from tests.support.command_line import ROOT, Cones, concept, environment, run_process, save_cone
from tests.support.process import cones

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks")
bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
PRODUCTS = ("inspect a.cone --json", "merge a.cone b.cone -o -", "diff a.cone b.cone --json", "inspect a.cone --plot -")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.cone and b.cone, and `cones` as a program in bin/."""
    save_cone(tmp_path / "a.cone", concept("dog", "sks"))
    save_cone(tmp_path / "b.cone", concept("hat", "zwx", seed=1))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cones").write_text(f'#!/bin/sh\nexec {sys.executable} -m conestool "$@"\n')
    (tmp_path / "bin" / "cones").chmod(0o755)
    return tmp_path


def left() -> int:
    """The writing end of a pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_merged_bytes_go_through_a_pipe(folder: Path) -> None:
    """`merge -o - | inspect -` and `merge - b` carry the exact bytes of the file."""
    merged = cones("merge", "a.cone", "b.cone", "-o", "-", cwd=folder).out
    assert cones_format.loads(merged).names == ("dog", "hat")
    assert b'"name": "hat"' in cones("inspect", "-", "--json", "-q", cwd=folder, stdin=merged).out
    data = (folder / "a.cone").read_bytes()
    assert cones("merge", "-", "b.cone", "-o", "-", cwd=folder, stdin=data).out == merged


@pytest.mark.parametrize("line", ["merge - - -o x.cone", "render - -c -:0.5"])
def test_one_stdin_cannot_be_two_things(line: str, folder: Path) -> None:
    """Refused before anything is read."""
    done = cones(*line.split(), cwd=folder, stdin=b"a dog\n")
    assert done.code == 2 and b"twice" in done.err


def test_usage_error_is_two_lines(folder: Path) -> None:
    """What is wrong and what to do; stdout is empty. The version goes there."""
    done = cones("merge", "--nope", cwd=folder)
    assert (done.code, done.out) == (2, b"")
    assert len(done.err.splitlines()) == 2 and done.err.endswith(b"  see cones merge --help\n")
    assert cones("--version", cwd=folder).out.decode() == f"cones {__version__}\n"


def test_file_name_that_is_no_utf8(folder: Path) -> None:
    """The path on stdout is the name byte for byte; in JSON its bytes are surrogates, as Python decodes them."""
    name = os.fsdecode(b"d\xf6g.cone")
    assert run_process("merge", "a.cone", "b.cone", "-o", name, cwd=folder).stdout == b"d\xf6g.cone\n"
    done = cones("inspect", name, "--json", "-q", cwd=folder)
    assert done.out.isascii() and json.loads(done.out)[0]["file"] == name


def test_unknown_exception_is_one_line_and_code_70(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug says so in one line; --traceback shows the rest."""

    def broken(*_: object, **options: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(ops, "merge", broken)
    done = cones("merge", "a.cone", "b.cone", cwd=folder)
    assert done.code == 70 and b"Traceback" not in done.err
    assert done.err.splitlines()[0] == b"error: a bug in cones: KeyError: 'x'"
    more = cones("merge", "a.cone", "b.cone", "--traceback", cwd=folder)
    assert more.code == 70 and b"Traceback" in more.err


@pytest.mark.parametrize("line", PRODUCTS)
def test_a_reader_that_leaves_changes_nothing(line: str, folder: Path) -> None:
    """No message, and the exit code is the command's own: `diff | head` still says that there are differences."""
    writer = left()
    done = cones(*line.split(), "-q", cwd=folder, stdout=writer)
    os.close(writer)
    assert (done.code, done.err) == (1 if line.startswith("diff") else 0, b"")


@pytest.mark.parametrize("bad", ["closed pipe", "full disk", "closed"])
def test_notes_that_cannot_be_shown_do_not_stop_the_work(bad: str, folder: Path) -> None:
    """stderr's reader has left, its disk is full, or there is none: the file is written, and its path is on stdout."""
    makers: dict[str, Any] = {"closed pipe": left, "full disk": lambda: os.open("/dev/full", os.O_WRONLY)}
    stream = makers.get(bad, lambda: None)()
    done = cones("merge", "a.cone", "b.cone", cwd=folder, stderr=stream)
    assert (done.code, done.out) == (0, b"dog+hat.cone\n")
    assert cones("merge", "a.cone", "b.cone", cwd=folder, stderr=stream).code == 2
    if stream is not None:
        os.close(stream)


@pytest.mark.parametrize("line", [*(f"{line} -q" for line in PRODUCTS), "--version", "merge a.cone b.cone -q"])
def test_a_full_disk_behind_stdout_is_an_error(line: str, folder: Path) -> None:
    """The product did not arrive: exit code 2 and one line, not a bug and not success."""
    full = os.open("/dev/full", os.O_WRONLY)
    done = cones(*line.split(), cwd=folder, stdout=full)
    os.close(full)
    assert done.code == 2
    assert b"No space left" in done.err and b"bug" not in done.err


@pytest.mark.parametrize("closed", range(1, 8))
def test_missing_streams_never_get_the_number_of_a_file(closed: int, folder: Path) -> None:
    """Started without some of stdin, stdout and stderr, a command works, and no text lands in its output."""
    streams: dict[str, Any] = {n: None for bit, n in enumerate(("stdin", "stdout", "stderr")) if closed >> bit & 1}
    assert cones("merge", "a.cone", "b.cone", "-o", "m.cone", cwd=folder, **streams).code == 0
    assert cones_format.load(folder / "m.cone").names == ("dog", "hat")


@pytest.mark.parametrize("blocking", [True, False])
def test_a_slow_reader_gets_everything(blocking: bool, folder: Path) -> None:
    """More than a pipe holds, read in small pieces with pauses, even if somebody left the pipe non-blocking."""
    many = [concept(f"n{chr(97 + i)}{chr(97 + j)}", f"i{i}x{j}", share=0.001) for i in range(8) for j in range(8)]
    save_cone(folder / "many.cone", *many)
    whole = cones("inspect", "many.cone", "--json", "-q", cwd=folder).out
    assert len(whole) > 1 << 16
    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    seen = io.BytesIO()

    def read() -> None:
        while piece := os.read(reader, 4096):
            seen.write(piece)
            time.sleep(0.002)

    thread = threading.Thread(target=read)
    thread.start()
    done = cones("inspect", "many.cone", "--json", "-q", cwd=folder, stdout=writer)
    os.close(writer)
    thread.join(30)
    os.close(reader)
    assert (done.code, seen.getvalue()) == (0, whole)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("inspect -", 4),
        ("merge - a.cone", 4),
        ("diff a.cone -", 4),
        ("extract - dog", 4),
        ("render -", 3),
        ("find -", 3),
    ],
)
def test_empty_stdin(line: str, code: int, folder: Path) -> None:
    """Nothing is no .cone, no prompt and no photo; closed is told from empty."""
    done = cones(*line.split(), cwd=folder)
    assert done.code == code and b"bug" not in done.err
    closed = cones(*line.split(), cwd=folder, stdin=None)
    assert closed.code == 3 and b"closed" in closed.err


def test_endless_stdin_ends(folder: Path) -> None:
    """/dev/zero is read as far as a file may go, then refused."""
    zero = os.open("/dev/zero", os.O_RDONLY)
    done = cones("inspect", "-", cwd=folder, stdin=zero)
    os.close(zero)
    assert done.code == 4


@pytest.mark.parametrize("data", [b"\x00\xff\xfe\n", b"a dog\na h\xf6use\n", b"x" * 20_000, b"\n \n\t\n"])
def test_stdin_that_is_no_prompt(data: bytes, folder: Path) -> None:
    """Bytes that are no UTF-8, whose line is named, a line too long for any text encoder, and white space."""
    done = cones("render", "-", cwd=folder, stdin=data)
    assert done.code == 3 and b"bug" not in done.err
    assert len(done.err.splitlines()) <= 2
    assert b"line 2 is not UTF-8" in done.err or not data.startswith(b"a dog")


@bash
def test_pipelines_hold_under_pipefail(folder: Path) -> None:
    """`set -euo pipefail`: readers that stop early, slow ones, and exit codes that mean something."""
    script = """
        set -euo pipefail
        cones merge a.cone b.cone -o - -q | cones inspect - --json -q | head -c 1 > first
        if cones diff a.cone b.cone -q --json | head -c 1 > second; then exit 9; else test $? = 1; fi
        cones inspect a.cone --json -v 2>&1 >third | head -n 1 > fourth
    """
    env = environment(PYTHONPATH=str(ROOT), PATH=f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert [(folder / name).read_bytes() for name in ("first", "second")] == [b"[", b"{"]
    assert json.loads((folder / "third").read_bytes())
    assert b"a.cone" in (folder / "fourth").read_bytes()


@bash
def test_several_at_once_write_one_whole_file(folder: Path) -> None:
    """`xargs -P 8` on one output: one makes it, the others say that it is there, and nothing is left behind."""
    line = "cones merge a.cone b.cone -o m.cone -q >$1.out 2>$1.err; echo $? >$1.code"
    env = environment(PYTHONPATH=str(ROOT), PATH=f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    command = ["xargs", "-P", "8", "-I", "{}", "bash", "-c", line, "-", "{}"]
    subprocess.run(command, cwd=folder, env=env, input=b"1\n2\n3\n4\n5\n", timeout=120, check=True)
    codes = sorted(path.read_text().strip() for path in folder.glob("*.code"))
    assert codes == ["0", *["2"] * 4]
    assert cones_format.load(folder / "m.cone").names == ("dog", "hat")
    assert not list(folder.glob(".*"))


def test_nobody_has_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cones: Cones) -> None:
    """Without HOME and without an entry in the list of users: no folder called ~ is made, and nothing fails."""
    import pwd

    from conestool.cli import doctor

    def unknown(*_: object) -> None:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME", "CONES_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(doctor, "devices", list)
    assert not cache.write_cache_file(cache.cache_dir() / "a" / "b.json", b"{}")
    assert cache.cache_get("a", "b") is None
    for path in ("~/x", "~no-such-user/x"):
        assert _atomic.expand_user(path) == Path(path)
    assert cones("doctor").code == 0
    assert not list(tmp_path.rglob("~"))
