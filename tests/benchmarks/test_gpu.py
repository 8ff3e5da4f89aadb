"""The benchmark for the first card, rehearsed on one that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import Bench, cells, run, table
from tests.support.pretend_card import pretend_card


@pytest.mark.usefixtures("few_probes")
@pytest.mark.parametrize("kind", ["cuda"])
def test_steps_are_measured_and_kept(
    kind: str, tmp_path: Path, epsilon_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step fails; the second time nothing is measured again. What loads a model runs on real devices alone."""
    bench, out = Bench(kind, ("toy",), str(epsilon_folder), steps=1), tmp_path / "out.json"
    parts = {name: work for name, work in cells(bench).items() if "toy" in name}
    monkeypatch.setattr(gpu, "cells", lambda bench: parts)
    with pretend_card(kind):
        results = run(bench, out)
        assert not [value["error"] for value in results.values() if "error" in value]
        written = out.stat().st_mtime_ns
        assert run(bench, out).keys() == results.keys() and out.stat().st_mtime_ns == written
    assert results["step toy"]["chosen"]["samples"] == 24 and results["step toy"]["lora"]["peak"]
    assert table(results).count("\n") == len(results) + 1
