"""The benchmarks for the first card and the first Mac, rehearsed on ones that are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import Bench, cells, run, table
from conestool import Model
from tests.support.pretend_card import pretend_card

WHOLE = os.environ.get("CONES_REHEARSE") == "all"
"""Also on a pretended Mac, and what searches several times: minutes more."""


@pytest.mark.usefixtures("few_probes")
@pytest.mark.parametrize("kind", ["cuda", "mps"] if WHOLE else ["cuda"])
def test_every_part_is_measured_and_kept(
    kind: str, tmp_path: Path, epsilon_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each runs through and says what it should; the second time nothing is measured again."""
    Model.from_pretrained(str(epsilon_folder))  # transformers imports its parts where no device is pretended
    bench, out = Bench(kind, ("toy",), str(epsilon_folder), steps=1), tmp_path / "out.json"
    parts = {name: work for name, work in cells(bench).items() if WHOLE or name not in ("repeat", "against the CPU")}
    monkeypatch.setattr(gpu, "cells", lambda bench: parts)
    with pretend_card(kind):
        results = run(bench, out)
        assert not [value["error"] for value in results.values() if "error" in value]
        written = out.stat().st_mtime_ns
        assert run(bench, out) == results and out.stat().st_mtime_ns == written
    assert results.keys() == parts.keys() and table(results).count("\n") == len(results) + 1
    assert results["step toy"]["chosen"]["samples"] == 24 and results["step toy"]["lora"]["peak"]
    assert results["render"]["undone exactly"] and results["export"]["exact"]
    if WHOLE:
        assert results["repeat"]["plain"] and results["repeat"]["deterministic"]
        assert results["against the CPU"]["in common"] > 0.95
