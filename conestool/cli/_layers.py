"""Short names for attention layers, and sums per layer."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from conestool.algebra import layer_of

__all__ = ["Detail", "block_of", "by_layer", "is_cross", "label", "layer_of", "natural", "projection"]

SHORT = {
    "down_blocks": "down",
    "up_blocks": "up",
    "mid_block": "mid",
    "transformer_blocks": "block",
    "single_transformer_blocks": "single",
}
KIND = {"attn1": "self", "attn2": "cross"}
SILENT = {"attentions", "transformer_blocks"}


def projection(param: str) -> str:
    """K, V, added K or added V, for to_k, to_v, add_k_proj and add_v_proj."""
    name = param.removesuffix(".weight").rsplit(".", 1)[-1]
    letter = name.removesuffix("_proj")[-1:].upper()
    return f"added {letter}" if name.startswith("add_") else letter


def is_cross(param: str) -> bool:
    """Whether the text alone passes through this projection: cross-attention, or the added ones of joint attention."""
    return ".attn2." in param or ".add_" in param


def label(layer: str) -> str:
    """A layer's name as shown: `down_blocks.0.attentions.1.transformer_blocks.0.attn2` is `down.0.1.0 cross`."""
    first, *rest = layer.split(".")
    *path, last = rest or [first]
    kept = [SHORT.get(first, first), *(part for part in path if part not in SILENT)]
    return f"{'.'.join(kept)} {KIND.get(last, last)}"


def block_of(layer: str) -> str:
    """The block that holds the layer, as shown: `down.0`, `mid`, `block.3`."""
    parts = label(layer).split(" ")[0].split(".")
    return ".".join(parts[:2]) if len(parts) > 1 and parts[0] != "mid" else parts[0]


class Detail(Enum):
    """How finely densities are shown."""

    PARAM = "param"
    LAYER = "layer"
    BLOCK = "block"


def shown_name(param: str, detail: Detail) -> str:
    """The name under which a parameter is counted."""
    layer = layer_of(param)
    if detail is Detail.BLOCK:
        return block_of(layer)
    return f"{label(layer)} {projection(param)}" if detail is Detail.PARAM else label(layer)


def by_layer(counts: Mapping[str, int], detail: Detail = Detail.LAYER) -> dict[str, int]:
    """Counts per param name summed under the names shown, in the order of the network."""
    out: dict[str, int] = {}
    for param in sorted(counts, key=natural):
        name = shown_name(param, detail)
        out[name] = out.get(name, 0) + counts[param]
    return out


def natural(param: str) -> list[tuple[int, int | str]]:
    """A sort key that follows the network (down, mid, up) and puts block 2 before block 10."""
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    parts = param.split(".")
    key: list[tuple[int, int | str]] = [(0, order.get(parts[0], 3))]
    return key + [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]
