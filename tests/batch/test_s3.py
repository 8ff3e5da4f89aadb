"""`cones batch` with photos and results in S3, as a server of moto's on this machine plays it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conestool.cli.main import run
from tests.batch.conftest import NAMES, QUICK

s3fs = pytest.importorskip("s3fs", reason="needs s3fs and moto: pip install -c constraints.txt -e '.[dev]'")
server = pytest.importorskip("moto.server")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A file system with an empty bucket named "lab"; every other client of this process finds it too."""
    theirs = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    theirs.start()
    host, port = theirs.get_host_and_port()
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("ENDPOINT_URL", f"http://{host}:{port}")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("CONES_CACHE", str(tmp_path / "cache"))
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.mkdir("lab")
    yield system
    system.rm("lab", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()
    theirs.stop()


@pytest.mark.timeout(180)
def test_photos_and_results_may_lie_in_s3(
    bucket: Any, subjects: Path, found: dict[str, bytes], epsilon_folder: Path, tmp_path: Path
) -> None:
    """The files are those that one process makes of local photos; a second run skips what the ledger there has."""
    rows = []
    for name in NAMES:
        photos = sorted((subjects / name).iterdir())
        for photo in photos:
            bucket.put_file(str(photo), f"lab/photos/{name}/{photo.name}")
        rows.append({"photos": [f"s3://lab/photos/{name}/{photo.name}" for photo in photos], "name": name})
    manifest = tmp_path / "subjects.jsonl"
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    words = ["batch", manifest, "-o", "s3://lab/found", "--model", epsilon_folder, *QUICK]
    assert run([str(word) for word in words]) == 0
    assert {name: bucket.cat_file(f"lab/found/{name}.cone") for name in NAMES} == found
    before = {path: bucket.info(path)["LastModified"] for path in bucket.find("lab/found")}
    assert len(before) == 2 * len(NAMES)
    assert run([str(word) for word in words]) == 0
    assert {path: bucket.info(path)["LastModified"] for path in bucket.find("lab/found")} == before


def test_a_bucket_that_is_not_there_is_refused(
    bucket: Any, subjects: Path, epsilon_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any work, with its name."""
    words = ["batch", subjects, "-o", "s3://elsewhere/found", "--model", epsilon_folder, *QUICK]
    assert run([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert "s3://elsewhere/found: cannot be reached" in said and "bucket does not exist" in said
    assert not bucket.exists("elsewhere")
