"""Configurations of real base models with few channels: what the layouts are computed from."""

from __future__ import annotations

from typing import Any

from benchmarks.real import UNETS

__all__ = ["shrunk"]


def shrunk(name: str, cross: int) -> dict[str, Any]:
    """The same blocks with few channels, for 32-pixel pictures."""
    config = UNETS[name]
    small = {"block_out_channels": (8, 16, 16, 16)[: len(config["block_out_channels"])], "norm_num_groups": 4}
    return config | small | {"sample_size": 8, "cross_attention_dim": cross, "attention_head_dim": 2}
