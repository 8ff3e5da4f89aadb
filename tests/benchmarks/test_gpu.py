"""The benchmarks for the first card and the first Mac, rehearsed on ones that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu import Bench, cells, run, table
from conestool import Model
from tests.support.pretend_card import pretend_card


@pytest.mark.long
@pytest.mark.usefixtures("few_probes")
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_every_part_is_measured_and_kept(kind: str, tmp_path: Path, epsilon_folder: Path) -> None:
    """Each runs through and says what it should; the second time nothing is measured again."""
    Model.from_pretrained(str(epsilon_folder))  # transformers imports its parts where no device is pretended
    bench, out = Bench(kind, ("toy",), str(epsilon_folder), steps=1), tmp_path / "out.json"
    parts = cells(bench)
    with pretend_card(kind):
        results = run(bench, out)
        assert not [value["error"] for value in results.values() if "error" in value]
        written = out.stat().st_mtime_ns
        assert run(bench, out) == results and out.stat().st_mtime_ns == written
    assert results.keys() == parts.keys() and table(results).count("\n") == len(results) + 1
    assert results["step toy"]["chosen"]["samples"] == 24 and results["step toy"]["lora"]["peak"]
    assert results["render"]["undone exactly"] and results["export"]["exact"]
    assert results["repeat"]["plain"] and results["repeat"]["deterministic"]
    assert results["against the CPU"]["in common"] > 0.95
