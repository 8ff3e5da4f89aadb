"""What a killed writer leaves is swept up by the next one; what a living one works on is not."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from conestool.errors import OutputExistsError, UsageError
from conestool.files import atomic, atomic_file, atomic_folder, write_atomic
from conestool.files.workplace import NEW, OLD, host, make, sweep, workplace

posix = pytest.mark.skipif(os.name != "posix", reason="needs flock")
DAY = 24 * 3600.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    out = tmp_path / "out"
    out.mkdir()
    return out


def names(folder: Path) -> list[str]:
    """What is in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def stray(folder: Path, maker: str | None = None) -> Path:
    """What a killed writer of dog.cone leaves, on this host or another."""
    work = make(folder / "dog.cone")
    (work / NEW).mkdir()
    (work / NEW / "dog.cone").write_bytes(b"half")
    return work if maker is None else work.rename(work.with_name(work.name.replace(host(), maker)))


@posix
def test_the_next_write_removes_strays(folder: Path) -> None:
    """Whatever file it writes."""
    stray(folder)
    write_atomic(folder / "hat.cone", b"new")
    assert names(folder) == ["hat.cone"]


@posix
def test_a_living_writer_keeps_its_folder(folder: Path) -> None:
    """Another write in the same folder lets it be, and both files appear."""
    with atomic_file(folder / "dog.cone") as first:
        first.write_bytes(b"dog")
        write_atomic(folder / "hat.cone", b"hat")
        assert first.exists()
    assert names(folder) == ["dog.cone", "hat.cone"]


@posix
def test_strays_of_other_hosts_stay_for_a_day(folder: Path) -> None:
    """Their locks may not be seen here; the clock is the file system's."""
    other = stray(folder, "00000000")
    sweep(folder)
    assert other.exists()
    for path in (*other.rglob("*"), other):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - DAY - 60))
    sweep(folder)
    assert not other.exists()


@posix
@pytest.mark.parametrize("moved", [-40 * 365 * DAY, 40 * 365 * DAY])
def test_a_jumping_clock_does_not_keep_strays(folder: Path, moved: float) -> None:
    """On this host no time is asked for."""
    work = stray(folder)
    os.utime(work, (1e9, work.stat().st_mtime + moved))
    sweep(folder)
    assert names(folder) == []


@posix
def test_only_folders_of_that_name_are_strays(folder: Path) -> None:
    """Files, pipes and links called so, and folders called almost so, are somebody else's."""
    name = stray(folder).name
    sweep(folder)
    (folder / name).write_bytes(b"")
    os.mkfifo(folder / name.replace("dog", "pipe"))
    (folder / "kept").mkdir()
    (folder / name.replace("dog", "link")).symlink_to(folder / "kept")
    (folder / name.removeprefix(".")).mkdir()
    (folder / f"{name}.txt").mkdir()
    before = names(folder)
    write_atomic(folder / "new", b"")
    assert names(folder) == sorted([*before, "new"])


@posix
def test_a_folder_swept_before_it_was_locked_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moment between making and locking is nobody's."""
    from conestool.files import workplace as module

    made: list[Path] = []

    def make_and_lose(target: Path) -> Path:
        made.append(make(target))
        if len(made) == 1:
            sweep(folder)
        return made[-1]

    monkeypatch.setattr(module, "make", make_and_lose)
    with workplace(folder / "dog.cone") as (work, target):
        assert work == made[1] and work.is_dir()
        assert target == folder / "dog.cone"
    assert names(folder) == []


def fail(code: int) -> Any:
    """A function that raises an OSError."""

    def call(*arguments: Any) -> None:
        raise OSError(code, os.strerror(code))

    return call


def test_a_folder_is_replaced_where_nothing_can_be_exchanged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two steps; the old one is gone afterwards."""
    monkeypatch.setattr(atomic, "exchange", fail(errno.ENOSYS))
    (folder / "out").mkdir()
    (folder / "out" / "old").write_bytes(b"")
    with atomic_folder(folder / "out", force=True) as new:
        (new / "new").write_bytes(b"")
    assert names(folder) == ["out"]
    assert names(folder / "out") == ["new"]


@posix
def test_what_was_set_aside_comes_back(folder: Path) -> None:
    """After a kill between the two steps; but not over something newer."""
    for number in range(2):
        work = stray(folder)
        (work / OLD / "patched").mkdir(parents=True)
        (work / OLD / "patched" / str(number)).write_bytes(b"")
    sweep(folder)
    assert names(folder) == ["patched"]
    assert len(names(folder / "patched")) == 1


def test_a_name_taken_meanwhile_is_not_written_over(folder: Path) -> None:
    """Unless forced."""
    path = folder / "dog.cone"
    with pytest.raises(OutputExistsError), atomic_file(path) as new:
        new.write_bytes(b"mine")
        path.write_bytes(b"another's")
    assert path.read_bytes() == b"another's"
    assert names(folder) == ["dog.cone"]


def test_bytes_that_the_disk_did_not_take_replace_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some systems say only at fsync that there is no room."""
    path = write_atomic(folder / "dog.cone", b"old")
    monkeypatch.setattr(os, "fsync", fail(errno.ENOSPC))
    with pytest.raises(UsageError, match=r"dog\.cone: cannot be written: No space left"):
        write_atomic(path, b"new", force=True)
    assert path.read_bytes() == b"old"
    assert names(folder) == ["dog.cone"]


def test_a_full_disk_is_told_as_such_while_copying(folder: Path) -> None:
    """Although the system names the file that is read."""
    with pytest.raises(UsageError, match="a: cannot be written: No space left"), atomic_file(folder / "a"):
        raise OSError(errno.ENOSPC, "No space left on device", "/elsewhere/model.safetensors")


def test_a_long_name_in_any_alphabet(folder: Path) -> None:
    """255 bytes are a file name; the working folder's is shorter."""
    path = write_atomic(folder / ("犬" * 83 + ".cone"), b"new")
    assert path.read_bytes() == b"new"


@posix
def test_a_current_folder_that_is_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be written there, which is no bug."""
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(UsageError, match="cannot be written"):
        write_atomic("dog.cone", b"new")


@posix
def test_a_cache_that_is_looked_into_is_swept(own_cache: Path) -> None:
    """A writer killed just after its file appeared leaves a folder, and that file is never written again."""
    from conestool.diffusion.cache import recall, remember

    remember("identity", "key", 1)
    stray(own_cache / "identity")
    assert recall("identity", "key") == 1
    assert names(own_cache / "identity") == ["key.json"]
