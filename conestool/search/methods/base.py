"""The one interface behind every search method, and their registration.

A method ranks the K/V weights by how much zeroing each would lower L_con. It is stepped from outside, so that any
method can be interrupted, saved and resumed, and it draws nothing at random itself: step k sees the batch of step k.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from conestool.errors import UsageError
from conestool.search.config import Config, MethodConfig
from conestool.search.objective import Objective


@dataclass(frozen=True)
class Ranking:
    """Scores (n,), fp32: higher = zeroed first, <= 0 = never; `count` how many the method would zero, or None."""

    scores: Tensor
    count: int | None = None


class Method(ABC):
    """One search in progress on one objective; `state_names` are the tensors and numbers that change in a step."""

    config: Any
    state_names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def step(self, index: int) -> float:
        """Work on batch `index` (0 to `config.steps` - 1) and return its L_con."""

    @abstractmethod
    def ranking(self) -> Ranking:
        """The result so far."""

    def count(self) -> int | None:
        """How many weights the method would zero now; None if it has no number of its own."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """All that changes from step to step."""
        return {name: torch.as_tensor(getattr(self, name)) for name in self.state_names}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Resume from `state`; tensors take dtype and device of those that are there."""
        for name in self.state_names:
            now = getattr(self, name)
            setattr(self, name, state[name].to(now) if isinstance(now, Tensor) else type(now)(state[name]))


METHODS: dict[str, type[MethodConfig]] = {}
_MAKERS: dict[str, Callable[[Objective, Any], Method]] = {}
_Maker = TypeVar("_Maker", bound=Callable[..., Method])


def search_method(name: str, config: type[MethodConfig]) -> Callable[[_Maker], _Maker]:
    """Register a method, made of an objective and its configuration, under `name`."""

    def register(maker: _Maker) -> _Maker:
        config.name = name
        METHODS[name], _MAKERS[name] = config, maker
        return maker

    return register


def make_method(method: MethodConfig | str, objective: Objective) -> Method:
    """The method on `objective`, before its first step; UsageError as of `resolve_method`."""
    config = resolve_method(method)
    return _MAKERS[config.name](objective, config)


def resolve_method(method: MethodConfig | str) -> MethodConfig:
    """The configuration that `mask,lr=0.1` describes; one that is given as such is returned.

    UsageError for an unknown name or parameter, and for a value of another type.
    """
    if isinstance(method, MethodConfig):
        return method
    name, *rest = method.split(",")
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}", f"choose one of: {', '.join(sorted(METHODS))}")
    return METHODS[name](**read_parameters(f"method {name}", METHODS[name], rest))


def read_parameters(owner: str, config: type[Config], parts: Iterable[str]) -> dict[str, Any]:
    """The numbers that `lr=0.1`, `steps=60`... give to fields of `config`; UsageError as of `resolve_method`."""
    defaults: dict[str, Any] = {each.name: each.default for each in fields(config) if each.default is not False}
    values: dict[str, Any] = {}
    for part in parts:
        key, _, text = part.partition("=")
        if key not in defaults:
            raise UsageError(f"{owner} has no parameter {key!r}", f"it has: {', '.join(sorted(defaults))}")
        try:
            values[key] = type(defaults[key])(text)
        except ValueError as error:
            raise UsageError(f"{owner}: {key}={text} is not a number", f"for example {key}={defaults[key]}") from error
    return values
