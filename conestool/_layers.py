"""Short names for attention layers, and sums per layer and per kind of projection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from math import prod

_MANY_LAYERS = 40


def layer_name(param: str) -> str:
    """The attention layer of a K/V param name: all before `.to_k.weight` and the like."""
    return param.rsplit(".", 2)[0]


SHORT = {
    "down_blocks": "down",
    "up_blocks": "up",
    "mid_block": "mid",
    "transformer_blocks": "block",
    "single_transformer_blocks": "single",
}
KIND = {"attn1": "self", "attn2": "cross", "attn": "joint"}
SILENT = {"attentions", "transformer_blocks"}


def projection(param: str) -> str:
    """K, V, added K or added V, for to_k, to_v, add_k_proj and add_v_proj."""
    name = param.removesuffix(".weight").rsplit(".", 1)[-1]
    letter = name.removesuffix("_proj")[-1:].upper()
    return f"added {letter}" if name.startswith("add_") else letter


def is_joint(names: Iterable[str]) -> bool:
    """Whether these param or layer names are of a model with joint attention; its `attn2` is of the picture alone."""
    return any("attn" in name.split(".") for name in names)


def is_cross(param: str, joint: bool = False) -> bool:
    """Whether the text alone passes through this projection: cross-attention, or the added ones of joint attention."""
    return ".add_" in param or (".attn2." in param and not joint)


def kind_of(param: str, joint: bool) -> str:
    """What passes through a projection: self K, cross V; in joint attention image K, text V, or both K."""
    letter = projection(param)[-1]
    if not joint:
        return f"{'cross' if is_cross(param) else 'self'} {letter}"
    both = param.startswith("single_transformer_blocks.")
    return f"{'text' if is_cross(param, joint) else 'both' if both else 'image'} {letter}"


def label(layer: str, joint: bool = False) -> str:
    """A layer's name as shown: `down_blocks.0.attentions.1.transformer_blocks.0.attn2` is `down.0.1.0 cross`."""
    first, *rest = layer.split(".")
    *path, last = rest or [first]
    kept = [SHORT.get(first, first), *(part for part in path if part not in SILENT)]
    return f"{'.'.join(kept)} {'self' if joint and last == 'attn2' else KIND.get(last, last)}"


def block_of(layer: str) -> str:
    """The block that holds the layer, as shown: `down.0`, `mid`, `block.3`."""
    parts = label(layer).split(" ")[0].split(".")
    return ".".join(parts[:2]) if len(parts) > 1 and parts[0] != "mid" else parts[0]


class Detail(Enum):
    """How finely densities are shown."""

    PARAM = "param"
    LAYER = "layer"
    BLOCK = "block"


def shown_name(param: str, detail: Detail, joint: bool) -> str:
    """The name under which a parameter is counted."""
    layer = layer_name(param)
    if detail is Detail.BLOCK:
        return block_of(layer)
    name = label(layer, joint)
    return f"{name} {projection(param)}" if detail is Detail.PARAM else name


def by_layer(counts: Mapping[str, int], detail: Detail = Detail.LAYER) -> dict[str, int]:
    """Counts per param name summed under the names shown, in the order of the network."""
    out: dict[str, int] = {}
    joint = is_joint(counts)
    for param in sorted(counts, key=natural):
        name = shown_name(param, detail, joint)
        out[name] = out.get(name, 0) + counts[param]
    return out


def choose_detail(params: Iterable[str]) -> Detail:
    """Layers, or blocks where there are more than 40 layers."""
    many = len({layer_name(param) for param in params}) > _MANY_LAYERS
    return Detail.BLOCK if many else Detail.LAYER


def shares(counts: Mapping[str, int], sizes: Mapping[str, int], detail: Detail) -> dict[str, float]:
    """Of each place in `sizes` the share of its weights that are neurons, 0 to 1, in the order of the network."""
    whole, found = by_layer(sizes, detail), by_layer({param: counts.get(param, 0) for param in sizes}, detail)
    return {name: found[name] / max(1, whole[name]) for name in whole}


def kinds(counts: Mapping[str, int], tensors: Mapping[str, Sequence[int]]) -> dict[str, dict[str, float]]:
    """By self K, self V, cross K and cross V (in joint attention image, text and both, see `kind_of`): the share of all
    neurons that lie there, and their density there.

    `counts` are neurons and `tensors` shapes, by param name.
    """
    sizes: dict[str, int] = {}
    found: dict[str, int] = {}
    joint = is_joint(tensors)
    for param in sorted(tensors, key=natural):
        kind = kind_of(param, joint)
        sizes[kind] = sizes.get(kind, 0) + prod(tensors[param])
        found[kind] = found.get(kind, 0) + counts.get(param, 0)
    total = max(1, sum(found.values()))
    return {kind: {"share": found[kind] / total, "density": found[kind] / sizes[kind]} for kind in sorted(sizes)}


def natural(param: str) -> list[tuple[int, int | str]]:
    """A sort key that follows the network (down, mid, up; double, single) and puts block 2 before block 10.

    The added projections of joint attention come behind the others.
    """
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2, "single_transformer_blocks": 4}
    parts = param.split(".")
    key: list[tuple[int, int | str]] = [(0, order.get(parts[0], 3))]
    return key + [(0, int(part)) if part.isdecimal() else (1 + part.startswith("add_"), part) for part in parts]
