"""Configurations of real base models, with the widths of choice: what the layouts are computed from."""

from __future__ import annotations

from typing import Any

__all__ = ["UNETS", "shrunk"]

SD1 = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD2 = SD1 | {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
UNETS: dict[str, dict[str, Any]] = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL}


def shrunk(name: str, cross: int) -> dict[str, Any]:
    """The same blocks with few channels, for 32-pixel pictures."""
    config = UNETS[name]
    small = {"block_out_channels": (8, 16, 16, 16)[: len(config["block_out_channels"])], "norm_num_groups": 4}
    return config | small | {"sample_size": 8, "cross_attention_dim": cross, "attention_head_dim": 2}
