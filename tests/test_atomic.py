"""Outputs appear whole or not at all, never over something else unasked; what killed writers leave is mended."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from pathlib import Path

import pytest

from conestool import _atomic
from conestool._atomic import DAY, ENDING, atomic_file, atomic_folder, check_output, write_atomic
from conestool.errors import OutputExistsError, UsageError


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder."""
    out = tmp_path / "out"
    out.mkdir()
    return out


def names(folder: Path) -> list[str]:
    """What is in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def test_writes_a_new_file(out: Path) -> None:
    """With the permissions of any new file, and nothing left beside it; an existing one is replaced only if forced."""
    path = write_atomic(out / "a", b"old")
    (out / "plain").write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((out / "plain").stat().st_mode)
    with pytest.raises(OutputExistsError, match="exists already") as caught:
        write_atomic(path, b"new")
    assert caught.value.hint and "--overwrite" in caught.value.hint
    with pytest.raises(RuntimeError), atomic_file(path, overwrite=True) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    write_atomic(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new" and names(out) == ["a", "plain"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_writes_through_links_and_to_devices(out: Path) -> None:
    """A link stays a link, a dangling one is something there, and a device is not replaced by a file."""
    (out / "target").write_bytes(b"old")
    (out / "link").symlink_to(out / "target")
    write_atomic(out / "link", b"new", overwrite=True)
    assert (out / "link").is_symlink() and (out / "target").read_bytes() == b"new"
    (out / "dangling").symlink_to(out / "nothing")
    with pytest.raises(OutputExistsError):
        write_atomic(out / "dangling", b"new")
    write_atomic("/dev/null", b"data")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_refuses_folders_and_missing_folders(tmp_path: Path) -> None:
    """With a message that names them."""
    with pytest.raises(UsageError, match="is a folder"):
        write_atomic(tmp_path, b"")
    with pytest.raises(UsageError, match="is not a folder") as caught:
        write_atomic(tmp_path / "none" / "a", b"")
    assert caught.value.hint and "mkdir" in caught.value.hint
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        check_output(tmp_path / "file", overwrite=True, folder=True)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_refuses_a_folder_without_permission(tmp_path: Path) -> None:
    """Before any work is done."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UsageError, match="not writable"):
            check_output(tmp_path / "a")
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_is_a_usage_error(tmp_path: Path) -> None:
    """An error of the system names the output, also where the system names the file that is read; others pass."""
    with pytest.raises(UsageError, match="a: cannot be written: No space left"), atomic_file(tmp_path / "a"):
        raise OSError(28, "No space left on device", "/elsewhere/model.safetensors")
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a"):
        open("/nowhere/at/all")  # noqa: PTH123, SIM115
    assert not (tmp_path / "a").exists()


def test_a_folder_appears_whole(out: Path) -> None:
    """Not before the end of the block, with the permissions of new files, replaced as a whole if forced."""
    target = out / "made"
    with atomic_folder(target) as folder:
        (folder / "old").write_bytes(b"1")
        (folder / "old").chmod(0o600)
        assert not target.exists()
    (out / "plain").write_bytes(b"")
    assert len({stat.S_IMODE(path.stat().st_mode) for path in (out / "plain", target / "old")}) == 1
    with pytest.raises(OutputExistsError), atomic_folder(target):
        raise AssertionError
    with pytest.raises(RuntimeError), atomic_folder(target, overwrite=True) as folder:
        (folder / "new").write_bytes(b"")
        raise RuntimeError
    assert names(target) == ["old"]
    with atomic_folder(target, overwrite=True) as folder:
        (folder / "new").write_bytes(b"")
    assert names(target) == ["new"] and names(out) == ["made", "plain"]


def stray(folder: Path) -> Path:
    """What a writer of dog.cone leaves that was killed."""
    work = Path(tempfile.mkdtemp(prefix=".dog.cone.", suffix=ENDING, dir=folder))
    (work / "new").mkdir()
    (work / "new" / "dog.cone").write_bytes(b"half")
    return work


def age(work: Path, days: float) -> None:
    """Let a hidden folder look as if nothing had changed in it for some days."""
    for path in (*work.rglob("*"), work):
        os.utime(path, (0, path.stat().st_mtime - days * DAY))


def test_the_next_write_removes_what_is_a_day_old(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock of the file system; what is younger may belong to a living writer."""
    old, young = stray(out), stray(out)
    age(old, 1.01)
    age(young, 0.99)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    write_atomic(out / "hat.cone", b"new")
    assert names(out) == [young.name, "hat.cone"]


@pytest.mark.skipif(os.name == "nt", reason="no pipes with names there, and links need rights")
def test_only_folders_of_that_name_are_removed(out: Path) -> None:
    """Files, pipes and links called so, and folders called almost so, are somebody else's."""
    (out / f".file{ENDING}").write_bytes(b"")
    os.mkfifo(out / f".pipe{ENDING}")
    (out / "kept").mkdir()
    (out / f".link{ENDING}").symlink_to(out / "kept")
    (out / f"folder{ENDING}").mkdir()
    (out / f".folder{ENDING}.txt").mkdir()
    before = names(out)
    for path in out.iterdir():
        os.utime(path, (0, path.stat().st_mtime - 2 * DAY))
    write_atomic(out / "new", b"")
    assert names(out) == sorted([*before, "new"])


def test_what_was_set_aside_comes_back(out: Path) -> None:
    """After a kill between the two renames, with the next write; but not over something newer."""
    for number in range(2):
        old = stray(out) / "old" / "patched"
        old.mkdir(parents=True)
        (old / str(number)).write_bytes(b"")
    write_atomic(out / "hat.cone", b"new")
    assert [name for name in names(out) if not name.endswith(ENDING)] == ["hat.cone", "patched"]
    assert len(names(out / "patched")) == 1


def test_a_folder_that_cannot_be_replaced_stays(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second rename fails, and the first is taken back."""
    target = out / "patched"
    target.mkdir()
    (target / "old").write_bytes(b"")
    rename = Path.rename

    def fail_once_free(path: Path, other: Path) -> Path:
        if path.parent.name == "new" and not other.exists():
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, other)

    monkeypatch.setattr(Path, "rename", fail_once_free)
    with pytest.raises(UsageError, match="patched: cannot be written"), atomic_folder(target, overwrite=True) as folder:
        (folder / "new").write_bytes(b"")
    assert (names(out), names(target)) == (["patched"], ["old"])


@pytest.mark.parametrize("name", ["old", "new", "mode"])
def test_an_output_may_have_any_name(name: str, out: Path) -> None:
    """The names inside the hidden folder among them."""
    write_atomic(out / name, b"1")
    (out / "folder" / name).mkdir(parents=True)
    (out / "folder" / name / "x").write_bytes(b"")
    with atomic_folder(out / "folder" / name, overwrite=True) as folder:
        (folder / name).write_bytes(b"2")
    assert (out / name).read_bytes() == b"1"
    assert (out / "folder" / name / name).read_bytes() == b"2"
    assert names(out / "folder" / name) == [name]


def test_a_name_taken_meanwhile_is_not_written_over(out: Path) -> None:
    """Unless forced."""
    path = out / "dog.cone"
    with pytest.raises(OutputExistsError), atomic_file(path) as new:
        new.write_bytes(b"mine")
        path.write_bytes(b"another's")
    assert path.read_bytes() == b"another's"
    assert names(out) == ["dog.cone"]
    other = write_atomic(out / "other", b"not seen by the check")
    with pytest.raises(OutputExistsError):
        _atomic._move_to_free(other, path, path)
    assert other.is_file()


def test_bytes_that_the_disk_did_not_take_replace_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some systems say only at fsync that there is no room."""

    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = write_atomic(out / "dog.cone", b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UsageError, match=r"dog\.cone: cannot be written: No space left"):
        write_atomic(path, b"new", overwrite=True)
    assert path.read_bytes() == b"old"
    assert names(out) == ["dog.cone"]


def test_a_long_name_in_any_alphabet(out: Path) -> None:
    """255 bytes are a file name; the hidden folder's is shorter."""
    path = write_atomic(out / ("犬" * 83 + ".cone"), b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(os.name == "nt", reason="a current folder cannot be removed there")
def test_a_current_folder_that_is_gone(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be written there, which is no bug."""
    monkeypatch.chdir(out)
    out.rmdir()
    with pytest.raises(UsageError, match="cannot be written"):
        write_atomic("dog.cone", b"new")
