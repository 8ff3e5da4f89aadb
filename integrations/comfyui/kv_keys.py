"""Where the K/V weights of diffusers lie in a denoiser that keeps the key layout of the original checkpoints.

ComfyUI keeps it for every family: CompVis' and Stability's U-Nets (`openaimodel.py`), Stability's sd3-ref (`mmdit.py`),
Black Forest Labs' flux (`model.py`) and PixArt's own (`PixArtMS.py`). The U-Nets number their blocks through; the
transformers stack Q, K and V along the rows of one matrix.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

__all__ = ["Place", "kv_places"]


class Place(NamedTuple):
    """The tensor that holds a K/V weight, and its rows there: `rows` of them, from `start`."""

    key: str
    start: int
    rows: int


_STACKED = (
    (r"joint_blocks\.(\d+)\.x_block\.(attn2?)\.qkv\.weight", r"transformer_blocks.\1.\2.to_{}.weight", 1),
    (r"joint_blocks\.(\d+)\.context_block\.attn\.qkv\.weight", r"transformer_blocks.\1.attn.add_{}_proj.weight", 1),
    (r"double_blocks\.(\d+)\.img_attn\.qkv\.weight", r"transformer_blocks.\1.attn.to_{}.weight", 1),
    (r"double_blocks\.(\d+)\.txt_attn\.qkv\.weight", r"transformer_blocks.\1.attn.add_{}_proj.weight", 1),
    (r"single_blocks\.(\d+)\.linear1\.weight", r"single_transformer_blocks.\1.attn.to_{}.weight", 1),
    (r"blocks\.(\d+)\.attn\.qkv\.weight", r"transformer_blocks.\1.attn1.to_{}.weight", 1),
    (r"blocks\.(\d+)\.cross_attn\.kv_linear\.weight", r"transformer_blocks.\1.attn2.to_{}.weight", 0),
)
"""Stacked matrices of SD3, Flux and PixArt, their names in diffusers, and how many square matrices lie above K."""
_UNET_PARAM = re.compile(r"(.+?)\.(transformer_blocks\.\d+\.attn[12]\.to_[kv]\.weight)")


def kv_places(shapes: Mapping[str, Sequence[int]]) -> dict[str, Place]:
    """By param name of diffusers where each K/V weight lies, from the denoiser's keys (without prefix) and shapes.

    Empty for a denoiser of no known layout.
    """
    modules = {"middle_block.1": "mid_block.attentions.0", **dict(_attentions(shapes))}
    found: dict[str, Place] = {}
    for key, shape in shapes.items():
        inside = _UNET_PARAM.fullmatch(key)
        if inside and inside[1] in modules:
            found[f"{modules[inside[1]]}.{inside[2]}"] = Place(key, 0, shape[0])
        for pattern, name, above in _STACKED:
            if stacked := re.fullmatch(pattern, key):
                for number, letter in enumerate("kv", start=above):
                    found[stacked.expand(name).format(letter)] = Place(key, number * shape[1], shape[1])
    return found


def _attentions(keys: Collection[str]) -> Iterator[tuple[str, str]]:
    """The attention blocks of a U-Net but the middle one, and their names in diffusers: level and layer.

    A level ends with its resampler, which on the way up is the last member of the level's last block.
    """
    for side, name in (("input_blocks", "down_blocks"), ("output_blocks", "up_blocks")):
        members = {tuple(map(int, found)) for key in keys for found in re.findall(rf"^{side}\.(\d+)\.(\d+)\.", key)}
        level = layer = 0
        for block in sorted({number for number, _ in members}):
            yield f"{side}.{block}.1", f"{name}.{level}.attentions.{layer}"
            layer += f"{side}.{block}.0.in_layers.0.weight" in keys
            resamplers = [f"{side}.{block}.0.op.weight", *(f"{side}.{block}.{member}.conv.weight" for member in (1, 2))]
            if any(key in keys for key in resamplers):
                level, layer = level + 1, 0
