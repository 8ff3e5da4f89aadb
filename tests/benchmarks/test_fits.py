"""What fits on cards of some sizes, as docs/performance.md has it."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.fits import HEAD, row

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
BASES = {"Stable Diffusion 1.5": "sd15", "Stable Diffusion XL": "sdxl"}


def test_the_page_says_what_is_chosen_at_real_sizes() -> None:
    """One row of the table is measured anew, every one with `CONES_TEST_ALL=1`."""
    lines = PAGE.read_text(encoding="utf-8").split(HEAD)[1].splitlines()[2:]
    rows = lines[: lines.index("")]
    for line in rows if os.environ.get("CONES_TEST_ALL") == "1" else rows[1:2]:
        base, gigabytes = (each.strip() for each in line.split("|")[1:3])
        assert row(BASES[base], int(gigabytes)) == line
