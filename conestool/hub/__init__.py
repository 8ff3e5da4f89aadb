"""Concept files on the Hugging Face Hub: listing, fetching and uploading them. Starts without torch."""

from __future__ import annotations

from conestool.hub.asking import check_repository, hub_errors, is_repository
from conestool.hub.pulling import ENDING, Listed, Pulled, cached_files, fetch, listed_files, plain_name, pull, read_cone
from conestool.hub.pushing import CARD, Pushed, Target, open_target, push

__all__ = [
    "CARD",
    "ENDING",
    "Listed",
    "Pulled",
    "Pushed",
    "Target",
    "cached_files",
    "check_repository",
    "fetch",
    "hub_errors",
    "is_repository",
    "listed_files",
    "open_target",
    "plain_name",
    "pull",
    "push",
    "read_cone",
]
