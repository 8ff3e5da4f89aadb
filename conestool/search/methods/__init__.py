"""The methods of a search, and nothing else: one file a method. Importing this package registers them all."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from conestool.search.methods.base import METHODS, Method, Ranking, make_method, resolve_method

__all__ = ["METHODS", "Method", "Ranking", "make_method", "resolve_method"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
