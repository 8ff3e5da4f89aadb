"""What is left of a refused file."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from conestool.errors import FormatError
from conestool.format import loads

INVALID = Path(__file__).parents[2] / "spec" / "vectors" / "invalid"


@pytest.mark.parametrize("path", sorted(INVALID.glob("*.cone")), ids=lambda path: path.stem)
def test_a_refusal_that_was_kept_can_be_freed(path: Path) -> None:
    """A loop over bad files must not grow.

    A caller that keeps the error makes a cycle (its frame, the error, the traceback, its frame), which the garbage
    collector breaks unless something in it, such as pydantic's own error, cannot be looked into.
    """
    data = path.read_bytes()

    def refuse() -> weakref.ref[FormatError]:
        kept = None
        try:
            loads(data)
        except FormatError as error:
            kept = error
        assert kept is not None
        return weakref.ref(kept)

    left = refuse()
    gc.collect()
    assert left() is None
