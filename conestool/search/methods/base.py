"""The one interface behind every search method, and their registration.

A method ranks the K/V weights by how much zeroing each would lower L_con. It is stepped from outside, so that any
method can be interrupted, saved and resumed, and it draws nothing at random itself: step k sees the batch of step k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from conestool.errors import UsageError
from conestool.search.objective import Objective

__all__ = ["METHODS", "Method", "Ranking", "make_method", "method", "parameters"]


@dataclass(frozen=True)
class Ranking:
    """Scores (n,), fp32: higher = zeroed first, <= 0 = never; `count` how many the method would zero, or None."""

    scores: Tensor
    count: int | None = None


class Method(Protocol):
    """One search in progress on one objective."""

    steps: int

    def step(self, index: int) -> float:
        """Work on batch `index` (0 to steps - 1) and return its L_con."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that `load_state_dict` needs to go on from here."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume from `state`."""
        ...

    def ranking(self) -> Ranking:
        """The result so far."""
        ...


Maker = Callable[..., Method]
METHODS: dict[str, Maker] = {}


def method(name: str) -> Callable[[Maker], Maker]:
    """Register a method (a dataclass whose first field is the objective, the others its parameters) under `name`."""

    def register(maker: Maker) -> Maker:
        METHODS[name] = maker
        return maker

    return register


def make_method(name: str, objective: Objective, **options: Any) -> Method:
    """The method `name` on `objective`; raises UsageError for an unknown name or option."""
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}", f"choose one of: {', '.join(sorted(METHODS))}")
    known = METHODS[name].__dataclass_fields__  # type: ignore[attr-defined]
    for option in options:
        if option not in known or not known[option].init or option == "objective":
            names = sorted(key for key, value in known.items() if value.init and key != "objective")
            raise UsageError(f"method {name} has no parameter {option!r}", f"it has: {', '.join(names)}")
    return METHODS[name](objective, **options)


def parameters(running: Method) -> dict[str, int | float | bool | str]:
    """All parameters of a method with the values in force, for the file's header."""
    fields = running.__dataclass_fields__  # type: ignore[attr-defined]
    return {name: getattr(running, name) for name, field in fields.items() if field.init and name != "objective"}
