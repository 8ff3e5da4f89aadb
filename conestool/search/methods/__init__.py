"""The methods of a search, and nothing else: one file a method. Importing this package registers them."""

from __future__ import annotations

from conestool.search.methods import cones, mask, taylor, tstat
from conestool.search.methods.base import METHODS, Maker, Method, Ranking, make_method, method, parameters

__all__ = ["METHODS", "REGISTERED", "Maker", "Method", "Ranking", "make_method", "method", "parameters"]

REGISTERED = (cones, mask, taylor, tstat)
