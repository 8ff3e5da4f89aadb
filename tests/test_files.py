"""Outputs appear whole or not at all, and never over something else unasked."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from conestool.errors import OutputExistsError, UsageError
from conestool.files import atomic_file, atomic_folder, check_output, write_atomic


def names(folder: Path) -> list[str]:
    """What is in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def test_writes_a_new_file(tmp_path: Path) -> None:
    """With the permissions of any new file, and nothing left beside it."""
    path = write_atomic(tmp_path / "a.cone", b"data")
    (tmp_path / "plain").write_bytes(b"")
    assert path.read_bytes() == b"data"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert [name for name in names(tmp_path) if "cache" not in name] == ["a.cone", "plain"]


def test_refuses_an_existing_file(tmp_path: Path) -> None:
    """Unless forced; the old content stays."""
    path = tmp_path / "a"
    write_atomic(path, b"old")
    with pytest.raises(OutputExistsError, match="exists already") as caught:
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert caught.value.hint and "--force" in caught.value.hint
    write_atomic(path, b"new", force=True)
    assert path.read_bytes() == b"new"


def test_refuses_folders_and_missing_folders(tmp_path: Path) -> None:
    """With a message that names them."""
    with pytest.raises(UsageError, match="is a folder"):
        write_atomic(tmp_path, b"")
    with pytest.raises(UsageError, match="is not a folder") as caught:
        write_atomic(tmp_path / "none" / "a", b"")
    assert caught.value.hint and "mkdir" in caught.value.hint
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        check_output(tmp_path / "file", force=True, folder=True)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_refuses_a_folder_without_permission(tmp_path: Path) -> None:
    """Before any work is done."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UsageError, match="not writable"):
            check_output(tmp_path / "a")
    finally:
        tmp_path.chmod(0o700)


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    """And no temporary file."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_file(path, force=True) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [name for name in names(tmp_path) if "cache" not in name] == ["a"]


def test_a_full_disk_is_a_usage_error(tmp_path: Path) -> None:
    """An error of the system names the output; one about another file passes."""
    with pytest.raises(UsageError, match="a: cannot be written: No space left"), atomic_file(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a"):
        open("/nowhere/at/all")  # noqa: PTH123, SIM115
    assert not (tmp_path / "a").exists()


def test_writes_through_a_link(tmp_path: Path) -> None:
    """A link stays a link."""
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomic(tmp_path / "link", b"new", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_a_dangling_link_is_something_there(tmp_path: Path) -> None:
    """It is not written through unasked."""
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(OutputExistsError):
        write_atomic(tmp_path / "link", b"new")


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="no /dev/null")
def test_a_device_is_written_to() -> None:
    """And not replaced by a file."""
    write_atomic("/dev/null", b"data")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    """It is not there before the end of the block, and the temporary one not after."""
    target = tmp_path / "out"
    with atomic_folder(target) as folder:
        (folder / "a").write_bytes(b"1")
        assert not target.exists()
    assert names(target) == ["a"]
    with pytest.raises(OutputExistsError), atomic_folder(target):
        raise AssertionError
    assert [name for name in names(tmp_path) if "cache" not in name] == ["out"]


def test_files_in_a_folder_have_the_permissions_of_new_files(tmp_path: Path) -> None:
    """Whatever the library that wrote them thought of others."""
    (tmp_path / "plain").write_bytes(b"")
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "private").write_bytes(b"")
        (folder / "private").chmod(0o600)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "plain", tmp_path / "out" / "private")}
    assert len(modes) == 1


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """With force; a failure leaves the old one."""
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_bytes(b"")
    with pytest.raises(RuntimeError), atomic_folder(target, force=True) as folder:
        (folder / "new").write_bytes(b"")
        raise RuntimeError
    assert names(target) == ["old"]
    with atomic_folder(target, force=True) as folder:
        (folder / "new").write_bytes(b"")
    assert names(target) == ["new"]
    assert [name for name in names(tmp_path) if "cache" not in name] == ["out"]
