"""Errors of third-party code that reads models, as one-line errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from conestool.errors import ModelLoadError, first_line

__all__ = ["reading"]


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever goes wrong while third-party code reads a model into a one-line ModelLoadError."""
    try:
        yield
    except (ModelLoadError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelLoadError(f"{name}: cannot be read: {first_line(error)}") from error
