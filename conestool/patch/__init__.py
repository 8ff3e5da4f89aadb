"""Concepts in a model's weights: for a while, for good, or written out as a patched model."""

from __future__ import annotations

from conestool.patch.shutting import Strength, applied, check_base, shut, strengths
from conestool.patch.writing import write_denoiser, write_folder

__all__ = ["Strength", "applied", "check_base", "shut", "strengths", "write_denoiser", "write_folder"]
