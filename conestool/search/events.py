"""What a running search reports: small frozen records, handed to the `progress` callback of `find`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from conestool._bars import bars

__all__ = ["Callback", "Event", "LogEvent", "Progress", "no_callback", "shown"]


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


def shown() -> Callback:
    """The default callback: bars and notes where a person watches, else nothing."""
    view = bars()
    if view is None:
        return no_callback

    def show(event: Event) -> None:
        if isinstance(event, LogEvent):
            view.say(f"warning: {event.text}" if event.warning else event.text)
        else:
            view.update(event.stage, event.done, event.total, "" if event.loss is None else f"loss {event.loss:.4f}")

    return show


def no_callback(event: Event) -> None:
    """Drop the event."""
