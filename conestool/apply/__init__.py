"""Concepts in a model's weights: for a while, for good, or written out as a patched model or a LoRA."""

from __future__ import annotations

from conestool.apply._modelspec import sidecar_path, write_sidecar
from conestool.apply.edits import Strength, check_base, strengths
from conestool.apply.export_checkpoint import checkpoint_notes, write_checkpoint
from conestool.apply.export_folder import write_denoiser, write_folder
from conestool.apply.export_lora import Lora, write_lora
from conestool.apply.live import applied_in_turn, apply_cones, load_cones, unload_cones

__all__ = [
    "Lora",
    "Strength",
    "applied_in_turn",
    "apply_cones",
    "check_base",
    "checkpoint_notes",
    "load_cones",
    "sidecar_path",
    "strengths",
    "unload_cones",
    "write_checkpoint",
    "write_denoiser",
    "write_folder",
    "write_lora",
    "write_sidecar",
]
