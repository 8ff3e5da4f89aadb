"""Logs of a search through accelerate's trackers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from conestool.errors import UsageError
from conestool.search.events import LogEvent, Progress, Samples
from conestool.search.tracking import SearchLog

EVENTS = (
    LogEvent("a note"),
    Progress("class images", 1, 4),
    Samples(0, 2, ["a sks dog"], [Image.new("RGB", (8, 8), "red")]),
    Progress("search", 1, 2, 0.5, 0.01),
    Progress("search", 2, 2, 0.25),
)


def test_lines_have_loss_density_and_samples(tmp_path: Path) -> None:
    """One JSON object a line, with the names of the pictures beside it; a second log goes on in the same file."""
    for _ in range(2):
        log = SearchLog("jsonl", tmp_path / "dog-log")
        for event in EVENTS:
            log(event)
        log.tracker.finish()
    lines = [json.loads(line) for line in (tmp_path / "dog-log" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2] * 2
    assert lines[1]["loss"] == 0.5 and lines[1]["density"] == 0.01 and "density" not in lines[2]
    with Image.open(tmp_path / "dog-log" / lines[0]["samples"]["a sks dog"]) as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)


def test_tensorboard_reads_the_log(tmp_path: Path) -> None:
    """Scalars and pictures, by TensorBoard's own reader."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = SearchLog("tensorboard", tmp_path / "dog-log")
    for event in EVENTS:
        log(event)
    log.tracker.finish()
    found = reader.EventAccumulator(str(tmp_path / "dog-log")).Reload()
    assert [(each.step, each.value) for each in found.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert found.Scalars("density")[0].value == pytest.approx(0.01)
    assert [each.step for each in found.Images("a sks dog")] == [0]


def test_unknown_and_missing_trackers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to choose, or to install."""
    with pytest.raises(UsageError, match="unknown tracker 'aim'"):
        SearchLog("aim", tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="wandb: not installed") as caught:
        SearchLog("wandb", tmp_path)
    assert caught.value.hint == "pip install wandb"
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="--track jsonl: "):
        SearchLog("jsonl", tmp_path / "file" / "log")
