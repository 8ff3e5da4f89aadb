"""What a running search reports: small frozen records, handed to the `progress` callback of `find`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Event", "Note", "Progress", "Report", "ignore"]


@dataclass(frozen=True)
class Progress:
    """`done` of `total` steps of `stage` are finished; `loss` is the latest L_con where there is one."""

    stage: str
    done: int
    total: int
    loss: float | None = None


@dataclass(frozen=True)
class Note:
    """Something a person should know; `warning` marks what may spoil the result."""

    text: str
    warning: bool = False


Event = Progress | Note
Report = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Drop the event: the default callback."""
