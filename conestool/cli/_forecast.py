"""Shows what a search will take before it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conestool.cli import _show

if TYPE_CHECKING:
    from conestool.search.forecast import Forecast

__all__ = ["show"]


def show(name: str, found: Forecast) -> None:
    """Memory and time by phase, the peak beside what there is, and the options that lower it."""
    _show.say(f"{name}: a prediction, on {found.device} in {found.dtype}", "bold")
    rows = [["", "memory", "time"]]
    rows += [[key, _show.size(each.memory), _show.duration(each.seconds)] for key, each in found.phases.items()]
    rows.append(["in all", f"{_show.size(found.memory)} at most", _show.duration(found.seconds)])
    _show.table(rows, right=(1, 2))
    if found.free is not None:
        _show.say(f"  {found.device} has {_show.size(found.free)} for it")
    if found.lower:
        _show.say("what lowers the peak", "bold")
        _show.table([[key, _show.size(size)] for key, size in found.lower.items()], right=(1,), head=False)
    if found.free is not None and found.memory > found.free:
        _show.warn(f"it will not fit: {_show.size(found.memory)} are more than {_show.size(found.free)}")
