"""Where a step goes: its operations by the time that they take themselves, as torch.profiler counts it."""

from __future__ import annotations

from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.clock import seconds
from benchmarks.speed.steps import Setup, opened

ROWS = 12


def profiled(setup: Setup, kind: str, unet: Any) -> dict[str, Any]:
    """The second step of `kind`: its `seconds`, the `whole` of its operations', and the `rows` that take the most.

    A row is the operation's name, how often it was called, and its own seconds, which are those of the clock.
    """
    cuda = setup.device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with opened(setup, kind, unet) as step:
        step()
        with profile(activities=activities) as told:
            taken = seconds(step, setup.device)

    def own(event: Any) -> float:
        return float(event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6

    events = sorted(told.key_averages(), key=own, reverse=True)
    rows = [[event.key, event.count, own(event)] for event in events[:ROWS]]
    return {"seconds": taken, "whole": sum(map(own, events)), "rows": rows}
