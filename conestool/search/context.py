"""What all parts of one search share, and what one search leaves for the next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from conestool.models.model import Model
from conestool.search.config import DEFAULT_RESOURCES, Resources, SearchConfig
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.events import Callback, no_callback

_T = TypeVar("_T")


_MOST = 32
"""Things that are kept: pictures of a class noun, their latents and frozen targets are some eight."""


class Shared:
    """What searches on one base model have in common, kept for the next one: the things used last, by key."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, Any] = OrderedDict()

    def once(self, key: Any, make: Callable[[], _T]) -> _T:
        """What `make` gave when it was called for an equal `key`; it is called if that is not kept."""
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        found: _T = self._kept[key]
        return found


@dataclass(frozen=True, kw_only=True)
class SearchContext:
    """The base model, how it is searched, with how much memory and with whom, who hears of it, and what is there.

    Every `sample_every` steps the search draws what it has found; 0: never.
    """

    model: Model
    config: SearchConfig = field(default_factory=SearchConfig)
    resources: Resources = DEFAULT_RESOURCES
    callback: Callback = no_callback
    processes: DistributedState = SINGLE_PROCESS
    sample_every: int = 0
    shared: Shared | None = None

    def once(self, key: Any, make: Callable[[], _T]) -> _T:
        """What `make` gives, or gave to an earlier search of the same settings for an equal `key`."""
        return self.shared.once((repr(self.config), repr(self.resources), key), make) if self.shared else make()
