"""Safetensors files that are the same, byte for byte, whenever their content is."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["save_tensors", "system_errors"]


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata, the latter in the order of its keys; OSError if the disk is full."""
    with system_errors(path):
        save_file(dict(tensors), path, dict(metadata))
    sort_metadata(path)


def sort_metadata(path: Path) -> None:
    """Put the metadata of a file just written in the order of its keys: safetensors leaves it to chance."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise ValueError(f"{path}: the header does not fit where it was")
        file.seek(8)
        file.write(text.ljust(length))


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """What the system says while safetensors writes there, such as that the disk is full, as the OSError it is."""
    try:
        yield
    except SafetensorError as error:
        told = re.search(r"os error (\d+)", str(error))
        if not told:
            raise
        raise OSError(int(told[1]), os.strerror(int(told[1])), str(path)) from error
