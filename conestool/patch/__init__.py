"""Concepts in a model's weights: for a while, for good, or written out as a patched model or a LoRA."""

from __future__ import annotations

from conestool.patch.checkpoint import checkpoint_notes, write_checkpoint
from conestool.patch.layers import applied, load_cones, shut, unload_cones
from conestool.patch.lora import Lora, write_lora
from conestool.patch.shutting import Strength, check_base, strengths
from conestool.patch.writing import write_denoiser, write_folder

__all__ = [
    "Lora",
    "Strength",
    "applied",
    "check_base",
    "checkpoint_notes",
    "load_cones",
    "shut",
    "strengths",
    "unload_cones",
    "write_checkpoint",
    "write_denoiser",
    "write_folder",
    "write_lora",
]
