"""Concept neurons in diffusion models: find, merge and render subjects as sets of integers."""

from __future__ import annotations

__version__ = "0.1.0"
