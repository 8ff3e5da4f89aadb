"""Pieces of HTML for notebooks and reports. Every text in them is escaped, and every picture is inside the page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from conestool._layers import Detail, by_layer
from conestool._text import clean

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["concept_html", "data_uri", "layer_shares"]

_MOST_LAYERS = 40
"""More layers than this are shown as blocks."""


def data_uri(image: Image, most: int = 512) -> str:
    """The picture as the address that an `img` needs, at most `most` pixels wide and high: PNG, JPEG where large."""
    kept, out = image.convert("RGB"), io.BytesIO()
    kept.thumbnail((most, most))
    kind = "PNG" if max(kept.size) <= 256 else "JPEG"
    kept.save(out, kind, quality=90)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def layer_shares(counts: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, float]:
    """Of each layer, or block where there are many layers, the share of its weights that are neurons, 0 to 1."""
    detail = Detail.LAYER if len(by_layer(sizes)) <= _MOST_LAYERS else Detail.BLOCK
    whole = by_layer(sizes, detail)
    found = by_layer({param: counts.get(param, 0) for param in sizes}, detail)
    return {name: found[name] / max(1, whole[name]) for name in whole}


def concept_html(title: str, rows: Mapping[str, str], counts: Mapping[str, int], sizes: Mapping[str, int]) -> str:
    """A table under a title, empty rows left out, and a bar for each layer, for a notebook in any colours."""
    shares = layer_shares(counts, sizes)
    most = max(shares.values(), default=0.0) or 1.0
    cells = "".join(f"<tr><td>{_text(key)}</td><td>{_text(value)}</td></tr>" for key, value in rows.items() if value)
    bars = "".join(
        f"<span title='{_text(name)}: {share:.2%}' style='display:inline-block;width:9px;margin-right:2px;"
        f"vertical-align:bottom;background:#d9730d;height:{max(1, round(36 * share / most))}px'></span>"
        for name, share in shares.items()
    )
    foot = f"<small>share of each layer's weights, {_text(next(iter(shares), ''))} first; highest {most:.2%}</small>"
    return f"<div><b>{_text(title)}</b><table>{cells}</table><div>{bars}</div>{foot}</div>"


def _text(value: str) -> str:
    """Text that stays text."""
    return html.escape(clean(value), quote=True)
