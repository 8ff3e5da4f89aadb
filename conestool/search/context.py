"""What all parts of one search share."""

from __future__ import annotations

from dataclasses import dataclass, field

from conestool.models.model import Model
from conestool.search.config import DEFAULT_RESOURCES, Resources, SearchConfig
from conestool.search.distributed import SINGLE_PROCESS, DistributedState
from conestool.search.events import Callback, no_callback

__all__ = ["SearchContext"]


@dataclass(frozen=True, kw_only=True)
class SearchContext:
    """The base model, how it is searched, with how much memory and with whom, and who hears of it.

    Every `sample_every` steps the search draws what it has found; 0: never.
    """

    model: Model
    config: SearchConfig = field(default_factory=SearchConfig)
    resources: Resources = DEFAULT_RESOURCES
    callback: Callback = no_callback
    processes: DistributedState = SINGLE_PROCESS
    sample_every: int = 0
