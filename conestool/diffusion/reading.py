"""Errors of third-party code that reads models, as one-line errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from conestool.errors import ModelLoadError

__all__ = ["causes", "first_line", "reading"]


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever goes wrong while third-party code reads a model into a one-line ModelLoadError."""
    try:
        yield
    except (ModelLoadError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelLoadError(f"{name}: cannot be read: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first non-empty line of an exception's text, else its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it was raised from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__
