"""safetensors files with a few scalars changed: everything else stays, byte for byte, and nothing is held in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from conestool.diffusion.sources import STORED, reading
from conestool.errors import ModelLoadError
from conestool.patch.shutting import Change, scale_tensor

__all__ = ["keys_of", "patch_copy", "read_tensors", "share"]

STALE = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
"""Metadata that would no longer be true."""
CHUNK = 1 << 22


def keys_of(file: Path) -> set[str]:
    """The names of all tensors of a safetensors file."""
    with reading(str(file)), safe_open(file, "pt") as opened:
        return set(opened.keys())


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, mapped from it and private to the caller, and its metadata."""
    with reading(str(file)), safe_open(file, "pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {"format": "pt"}  # noqa: SIM118


def share(source: Path, target: Path, *, link: bool = False) -> None:
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
    source: Path, target: Path, changes: Mapping[str, Change], metadata: Mapping[str, str] | None = None
) -> None:
    """Copy a safetensors file, change the scalars in `changes` (by tensor name) and add to its metadata.

    Each is computed in fp32 and rounded once to the stored dtype; factor 0 gives +0. ModelLoadError if a tensor
    is missing or not floating-point.
    """
    keys_of(source)  # the library's reader checks that the header is sound
    with source.open("rb") as old, target.open("wb") as new:
        header = read_header(old)
        if metadata:
            kept = {key: value for key, value in header.get("__metadata__", {}).items() if key not in STALE}
            header["__metadata__"] = {**kept, **metadata}
        new.write(header_bytes(header))
        shutil.copyfileobj(old, new, CHUNK)
    with target.open("r+b") as file:
        header = read_header(file)
        start = file.tell()
        for key, change in changes.items():
            patch_tensor(file, start, key, header, change)


def read_header(file: BinaryIO) -> dict[str, Any]:
    """The header of a sound safetensors file, which is left at its first tensor."""
    size = int.from_bytes(file.read(8), "little")
    header: dict[str, Any] = json.loads(file.read(size))
    return header


def header_bytes(header: Mapping[str, Any]) -> bytes:
    """A header with its length, padded so that the tensors begin at a multiple of 8."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def patch_tensor(file: BinaryIO, start: int, key: str, header: Mapping[str, Any], change: Change) -> None:
    """Change scalars of one tensor in place."""
    entry = header.get(key)
    if entry is None or entry["dtype"] not in STORED:
        problem = f"stored as {entry['dtype']}" if entry else "missing"
        raise ModelLoadError(f"{Path(file.name).name}: {key} is {problem}", "load a float32, bfloat16 or float16 model")
    begin, end = entry["data_offsets"]
    file.seek(start + begin)
    data = bytearray(file.read(end - begin))
    scale_tensor(torch.frombuffer(data, dtype=STORED[entry["dtype"]]), change)
    file.seek(start + begin)
    file.write(data)
