"""What a running search reports: small frozen records, handed to the `progress` callback of `find`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Callback", "Event", "LogEvent", "Progress", "no_callback"]


@dataclass(frozen=True)
class Progress:
    """`done` of `total` steps of `stage` are finished; `loss` is the latest L_con where there is one."""

    stage: str
    done: int
    total: int
    loss: float | None = None


@dataclass(frozen=True)
class LogEvent:
    """Something a person should know; `warning` marks what may spoil the result."""

    text: str
    warning: bool = False


Event = Progress | LogEvent
Callback = Callable[[Event], None]


def no_callback(event: Event) -> None:
    """Drop the event: the default callback."""
