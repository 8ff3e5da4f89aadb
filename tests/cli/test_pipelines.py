"""Streams as shells, terminals and other programs really give them: closed, full, slow, tiny, foreign."""

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

import pytest

from benchmarks.reliability.tally import State
from conestool import _atomic
from conestool import format as cones_format
from conestool.errors import OutputExistsError
from conestool.models import cache
from tests.support.command_line import Cones, concept, environment, save_cone
from tests.support.process import cones

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks")
ROOT = Path(__file__).parents[2]
bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
PRODUCTS = ("inspect a.cone --json", "merge a.cone b.cone -o -", "diff a.cone b.cone --json", "inspect a.cone --plot -")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.cone and b.cone, and `cones` as a program in bin/."""
    save_cone(tmp_path / "a.cone", concept("dog", "sks"))
    save_cone(tmp_path / "b.cone", concept("hat", "zwx", seed=1))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cones").write_text(f'#!/bin/sh\nexec {sys.executable} -m conestool.cli "$@"\n')
    (tmp_path / "bin" / "cones").chmod(0o755)
    return tmp_path


def left() -> int:
    """The writing end of a pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


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
    stream = {"closed pipe": left, "full disk": lambda: os.open("/dev/full", os.O_WRONLY), "closed": lambda: None}[
        bad
    ]()
    done = cones("merge", "a.cone", "b.cone", cwd=folder, stderr=stream)
    assert (done.code, done.out) == (0, b"dog+hat.cone\n")
    assert cones_format.load(folder / "dog+hat.cone").names == ("dog", "hat")
    assert cones("merge", "a.cone", "b.cone", cwd=folder, stderr=stream).code == 2
    if stream is not None:
        os.close(stream)


@pytest.mark.parametrize("line", [*PRODUCTS, "--version", "merge a.cone b.cone"])
def test_a_full_disk_behind_stdout_is_an_error(line: str, folder: Path) -> None:
    """The product did not arrive: exit code 2 and one line, not a bug and not success."""
    full = os.open("/dev/full", os.O_WRONLY)
    done = cones(*line.split(), "-q"[: 2 * (line != "--version")] or "--version", cwd=folder, stdout=full)
    os.close(full)
    assert done.code == 2
    assert b"No space left" in done.err and b"bug" not in done.err


@pytest.mark.parametrize("closed", range(1, 8))
def test_missing_streams_never_get_the_number_of_a_file(closed: int, folder: Path) -> None:
    """Started without some of stdin, stdout and stderr, a command works, and no text lands in its output."""
    streams = {name: None for bit, name in enumerate(("stdin", "stdout", "stderr")) if closed >> bit & 1}
    done = cones("merge", "a.cone", "b.cone", "-o", "m.cone", cwd=folder, **streams)
    assert done.code == 0
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
    assert done.code == 0
    assert seen.getvalue() == whole


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
    assert done.code == code, done.err
    assert b"bug" not in done.err
    closed = cones(*line.split(), cwd=folder, stdin=None)
    assert closed.code == 3
    assert b"closed" in closed.err


def test_endless_stdin_ends(folder: Path) -> None:
    """/dev/zero is read as far as a file may go, then refused."""
    zero = os.open("/dev/zero", os.O_RDONLY)
    done = cones("inspect", "-", cwd=folder, stdin=zero)
    os.close(zero)
    assert done.code == 4


@pytest.mark.parametrize("data", [b"\x00\xff\xfe\n", b"x" * 20_000, b"\n \n\t\n"])
def test_stdin_that_is_no_prompt(data: bytes, folder: Path) -> None:
    """Bytes that are no UTF-8, a line too long for any text encoder, and white space: exit code 3."""
    done = cones("render", "-", cwd=folder, stdin=data)
    assert done.code == 3, done.err
    assert b"bug" not in done.err
    assert len(done.err.splitlines()) <= 2


def test_one_stdin_cannot_be_two_things(folder: Path) -> None:
    """Prompts and a concept both from stdin are refused before anything is read."""
    done = cones("render", "-", "-c", "-:0.5", cwd=folder, stdin=b"a dog\n")
    assert done.code == 2
    assert b"twice" in done.err


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


def test_a_file_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """Without overwrite the second of two writers loses, even if neither saw the other's file at first."""
    target = tmp_path / "x"
    with pytest.raises(OutputExistsError), _atomic.atomic_file(target) as late:
        late.write_bytes(b"late")
        _atomic.write_atomic(target, b"first")
    assert target.read_bytes() == b"first"
    other = tmp_path / "y"
    other.write_bytes(b"not seen by the check")
    with pytest.raises(OutputExistsError):
        _atomic._move_to_free(other, target, target)
    assert (target.read_bytes(), other.is_file()) == (b"first", True)


def test_a_picture_takes_the_next_free_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two renders of one prompt at once: the name that was free at first is taken at last, so the next one serves."""
    from conestool.cli._pictures import settle

    monkeypatch.chdir(tmp_path)
    targets = settle(None, [("a dog", [0])], sheet=False, overwrite=False)
    Path("a-dog.png").write_bytes(b"of another process")
    assert targets.write(0, b"mine") == Path("a-dog-2.png")
    assert Path("a-dog.png").read_bytes() == b"of another process"
    named = settle("b.png", [("a dog", [0])], sheet=False, overwrite=False)
    Path("b.png").write_bytes(b"of another process")
    with pytest.raises(OutputExistsError):
        named.write(0, b"mine")


def test_nobody_has_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cones: Cones) -> None:
    """Without HOME and without an entry in the list of users: no folder called ~ is made, and nothing fails."""
    import pwd

    from conestool.cli import doctor

    def unknown(*_: object) -> None:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("CONES_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(doctor, "devices", list)
    assert not cache.write_cache_file(cache.cache_dir() / "a" / "b.json", b"{}")
    assert cache.cache_get("a", "b") is None
    assert _atomic.expand_user("~/x") == Path("~/x")
    assert _atomic.expand_user("~no-such-user/x") == Path("~no-such-user/x")
    assert cones("doctor").code == 0
    assert not list(tmp_path.rglob("~"))


def test_a_cache_that_cannot_be_written_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file where the folder should be, and a file system that is read-only, cost time and nothing else."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", Path("/proc/self/cones"), Path("/dev/null/x")):
        monkeypatch.setenv("CONES_CACHE", str(folder))
        cache.cache_set("kind", "key", 1)
        assert cache.cache_get("kind", "key") is None


@pytest.mark.parametrize("size", [80, 120])
def test_names_of_wide_letters_fit_the_file_system(size: int, tmp_path: Path) -> None:
    """Names count in bytes: long ones of three or four bytes a letter are cut or written, not refused."""
    from conestool.cli._pictures import slug
    from conestool.cli.merge import default_output

    name = default_output(["ねこ" * 16, "いぬ" * 16, "𠮷" * 60])
    assert len(os.fsencode(name)) <= 255
    assert len(os.fsencode(slug("𠮷" * 60) + "-12-345.png")) <= 255
    longest = tmp_path / ("ね" * size)[:83]
    assert _atomic.write_atomic(longest, b"x").read_bytes() == b"x"


def test_a_reader_of_the_fuzzer_may_leave(tmp_path: Path) -> None:
    """`fuzz --show | head` ends without a traceback."""
    state = State("0", 2000, 2000, "code")
    state.save(tmp_path / "fuzz.json")
    command = [sys.executable, "-m", "benchmarks.reliability.fuzz", "--show", "--out", str(tmp_path / "fuzz.json")]
    out = left()
    done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(out)
    assert (done.returncode, done.stderr) == (0, b"")
