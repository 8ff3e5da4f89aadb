"""Kills, full disks, closed folders, vanished inputs, jumping clocks and company: old files or new ones, no strays."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.reliability import hardship
from benchmarks.reliability.stage import COMMANDS, ORDER, Stage, open_stage
from benchmarks.reliability.torture import attempt, measure, state

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs fork and pidfd_open (Linux)")
KILLS = {"find": 2, "merge": 12, "apply": 3, "render": 2, "tune": 1, "eval": 1, "pull": 6}
"""Of the first variant of each command."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A tiny base model with photos and concepts."""
    with open_stage() as opened:
        yield opened


@pytest.mark.parametrize("name", ORDER)
def test_a_killed_command_leaves_old_or_new_and_no_strays(name: str, stage: Stage) -> None:
    """And run again, or resumed, it ends with the bytes of an undisturbed run."""
    measured = measure(stage, COMMANDS[name][0])
    killed = number = 0
    while killed < KILLS[name]:
        rng = random.Random(f"{name} {number}")
        record = attempt(stage, name, measured, number, rng, 3)
        assert record.problems == []
        killed, number = killed + len(record.kills), number + 1


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(lambda stage: hardship.full_disk(stage, ("merge",), (0, 4)), id="full disk: merge"),
        pytest.param(lambda stage: hardship.full_disk(stage, ("apply",), (16,)), id="full disk: apply"),
        pytest.param(lambda stage: hardship.full_disk(stage, ("pull",), (0,)), id="full disk: pull"),
        pytest.param(lambda stage: hardship.read_only(stage, ("pull", "eval")), id="read-only folders: pull, eval"),
        pytest.param(hardship.full_streams, id="full streams"),
        pytest.param(lambda stage: hardship.read_only(stage, ("merge",)), id="read-only folders"),
        pytest.param(lambda stage: hardship.vanished(stage, ("merge",), times=4), id="vanished inputs"),
        pytest.param(lambda stage: hardship.clock_jumps(stage, ("merge",)), id="clock jumps"),
        pytest.param(lambda stage: hardship.company(stage, ("merge",), size=3), id="company"),
    ],
)
def test_hardship(result: Callable[[Stage], hardship.Result], stage: Stage) -> None:
    """A few of the cases of the long campaign, `python -m benchmarks.reliability.torture`."""
    assert result(stage)["problems"] == []


def test_the_harness_tells_mixtures_and_losses() -> None:
    """An output that is neither absent nor old nor new is bad, and so is one that was lost."""
    old, new = {"a": "1", "b": "1"}, {"a": "2", "b": "2"}
    assert [state({}, {}, new), state(old, old, new), state(new, old, new)] == ["absent", "old", "new"]
    assert state({"a": "1", "b": "2"}, old, new).startswith("bad: a mixture")
    assert state({}, old, new) == "bad: lost"


def test_the_harness_tells_unreadable_caches(stage: Stage) -> None:
    """Half a JSON file is one."""
    with stage.place() as place:
        place.cache.mkdir()
        Path(place.cache / "a.json").write_text('{"half": ')
        assert place.unreadable() == [str(place.cache / "a.json")]
