"""Safetensors files: a few scalars changed and the rest kept byte for byte, or written in one fixed way."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from conestool.apply.edits import WeightEdit, apply_edit_
from conestool.errors import ModelLoadError
from conestool.models.loading import STORED_DTYPES, tensor_names, wrap_load_errors

_STALE_METADATA = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
"""Metadata that would no longer be true."""
_CHUNK = 1 << 22


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, mapped from it and private to the caller, and its metadata."""
    with wrap_load_errors(str(file)), safe_open(file, "pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {"format": "pt"}  # noqa: SIM118


def copy_or_link(source: Path, target: Path, *, link: bool = False) -> None:
    """Copy a file; with `link` make a hard link, or a copy where the file system refuses one."""
    if link:
        try:
            target.hardlink_to(source.resolve())
        except OSError:
            target.unlink(missing_ok=True)
        else:
            return
    shutil.copyfile(source, target)


def patch_copy(
    source: Path,
    target: Path,
    edits: Mapping[str, WeightEdit],
    metadata: Mapping[str, str] | None = None,
    defaults: Mapping[str, str] | None = None,
) -> None:
    """Copy a safetensors file, change the scalars in `edits` (by tensor name) and add to its metadata.

    What the file says already is replaced by `metadata`, and not by `defaults`.
    Each is computed in fp32 and rounded once to the stored dtype; scale 0 gives +0. ModelLoadError if a tensor
    is missing or not floating-point.
    """
    tensor_names(source)  # the library's reader checks that the header is sound
    with source.open("rb") as old, target.open("wb") as new:
        header = _read_header(old)
        if metadata:
            kept = {key: value for key, value in header.get("__metadata__", {}).items() if key not in _STALE_METADATA}
            header["__metadata__"] = {**(defaults or {}), **kept, **metadata}
        new.write(_header_bytes(header))
        shutil.copyfileobj(old, new, _CHUNK)
    with target.open("r+b") as file:
        header = _read_header(file)
        start = file.tell()
        for key, edit in edits.items():
            _patch_tensor(file, start, key, header, edit)


def _read_header(file: BinaryIO) -> dict[str, Any]:
    """The header of a sound safetensors file, which is left at its first tensor."""
    size = int.from_bytes(file.read(8), "little")
    header: dict[str, Any] = json.loads(file.read(size))
    return header


def _header_bytes(header: Mapping[str, Any]) -> bytes:
    """A header with its length, padded so that the tensors begin at a multiple of 8."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _patch_tensor(file: BinaryIO, start: int, key: str, header: Mapping[str, Any], edit: WeightEdit) -> None:
    """Change scalars of one tensor in place."""
    entry = header.get(key)
    if entry is None or entry["dtype"] not in STORED_DTYPES:
        problem = f"stored as {entry['dtype']}" if entry else "missing"
        raise ModelLoadError(f"{Path(file.name).name}: {key} is {problem}", "load a float32, bfloat16 or float16 model")
    begin, end = entry["data_offsets"]
    file.seek(start + begin)
    data = bytearray(file.read(end - begin))
    apply_edit_(torch.frombuffer(data, dtype=STORED_DTYPES[entry["dtype"]]), edit)
    file.seek(start + begin)
    file.write(data)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata, the latter in the order of its keys; OSError if the disk is full."""
    with raise_os_errors(path):
        save_file(dict(tensors), path, dict(metadata))
    _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """Put the metadata of a file just written in the order of its keys: safetensors leaves it to chance."""
    with path.open("r+b") as file:
        header = _read_header(file)
        length = file.tell() - 8
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise ValueError(f"{path}: the header does not fit where it was")
        file.seek(8)
        file.write(text.ljust(length))


@contextmanager
def raise_os_errors(path: Path) -> Iterator[None]:
    """What the system says while safetensors writes there, such as that the disk is full, as the OSError it is."""
    try:
        yield
    except SafetensorError as error:
        told = re.search(r"os error (\d+)", str(error))
        if not told:
            raise
        raise OSError(int(told[1]), os.strerror(int(told[1])), str(path)) from error
