"""Where a batch puts its files, and the ledger beside them: one line of JSON for each job that ended.

A folder here is written as every output is; the ledger is appended to and synced, and a line that a killed driver left
half written does not count. In storage (any URL that fsspec knows) each record is an object of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from conestool._atomic import write_atomic
from conestool.errors import OutputExistsError, UsageError


class _Folder:
    """A folder on this machine."""

    def __init__(self, folder: Path, part: str) -> None:
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder}: cannot be made: {error.strerror}", "choose another place") from error
        self.folder, self.ledger, self.mend = folder, folder / f"ledger{part}.jsonl", True

    def records(self) -> Iterator[dict[str, Any]]:
        """All that the ledgers hold, one after the other; in each the oldest first."""
        for path in sorted(self.folder.glob("ledger*.jsonl")):
            with path.open("rb") as lines:
                yield from (record for line in lines if (record := _parsed(line)))

    def append(self, record: dict[str, Any]) -> None:
        """Add to the ledger; it is safe when this returns."""
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        try:
            with self.ledger.open("ab+") as file:
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    line = b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(
                f"{self.ledger}: cannot be written: {error.strerror}", "make room, then run it again"
            ) from error

    def read(self, name: str) -> bytes | None:
        """The file of that name, None if there is none."""
        return (self.folder / name).read_bytes() if os.path.lexists(self.folder / name) else None

    def write(self, name: str, data: bytes, overwrite: bool) -> None:
        """Write a file whole or not at all."""
        write_atomic(self.folder / name, data, overwrite=overwrite, mend=self.mend)
        self.mend = False


class _Storage:
    """A place that fsspec reaches, such as s3://bucket/folder; the methods are those of a folder."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self.system, self.path = fsspec.url_to_fs(url)
            for place in (self.path, f"{self.path}/ledger"):
                if "/" in place:  # what has none is a bucket, and is not for us to make
                    with suppress(FileExistsError):
                        self.system.mkdir(place, create_parents=False)
        except (ImportError, ValueError, OSError) as error:
            raise UsageError(f"{url}: cannot be reached: {error}", "for S3: pip install s3fs") from error

    def records(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.system.glob(f"{self.path}/ledger/*.json")):
            if record := _parsed(self.system.cat_file(path)):
                yield record

    def append(self, record: dict[str, Any]) -> None:
        self.write(f"ledger/{record['name']}.json", json.dumps(record).encode(), overwrite=True)

    def read(self, name: str) -> bytes | None:
        path = f"{self.path}/{name}"
        return bytes(self.system.cat_file(path)) if self.system.exists(path) else None

    def write(self, name: str, data: bytes, overwrite: bool) -> None:
        path = f"{self.path}/{name}"
        if not overwrite and self.system.exists(path):
            raise OutputExistsError(f"{path}: exists already", "choose another place, or overwrite it with --overwrite")
        with self.system.transaction, self.system.open(path, "wb") as file:
            file.write(data)


Store = _Folder | _Storage


def open_store(place: str, part: str) -> Store:
    """The store at `place`, a folder that is made, or a URL; `part` tells ledgers of several drivers apart."""
    return _Storage(place) if "://" in place else _Folder(Path(place), part)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A line of the ledger; None if it is not whole."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and {"name", "key", "state"} <= record.keys()
    return record if whole and isinstance(record.get("time", 0), int | float) else None
