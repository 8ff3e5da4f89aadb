"""What a running search reports: small frozen records, handed to the `progress` callback of `find`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from conestool._display import bars

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Progress:
    """`done` of `total` steps of `stage` are finished; `loss` is the latest L_con where there is one.

    `density` is the share of the K/V weights that the method would zero now, where it has a number of its own.
    """

    stage: str
    done: int
    total: int
    loss: float | None = None
    density: float | None = None


@dataclass(frozen=True)
class LogEvent:
    """Something a person should know; `warning` marks what may spoil the result."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class MemoryChoice(LogEvent):
    """How many samples of a step go through the model at once, and why; `record` has the same for programs."""

    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Samples:
    """What the model draws after `done` of `total` steps: a picture of each of the `prompts`, seed 0."""

    done: int
    total: int
    prompts: Sequence[str]
    images: Sequence[Image]


Event = Progress | LogEvent | Samples
Callback = Callable[[Event], None]


def shown() -> Callback:
    """The default callback: bars and notes where a person watches, else nothing."""
    view = bars()
    if view is None:
        return no_callback

    def show(event: Event) -> None:
        if isinstance(event, LogEvent):
            view.say(f"warning: {event.text}" if event.warning else event.text)
        elif isinstance(event, Samples):
            view.show(f"after {event.done} of {event.total} steps", event.images)
        else:
            view.update(event.stage, event.done, event.total, "" if event.loss is None else f"loss {event.loss:.4f}")

    return show


def no_callback(event: Event) -> None:
    """Drop the event."""
