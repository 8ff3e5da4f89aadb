"""Pieces of HTML for notebooks and reports. Every text in them is escaped, and every picture is inside the page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from conestool import _layers
from conestool._text import clean

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["concept_html", "data_uri"]


def data_uri(image: Image, most: int = 512) -> str:
    """The picture as the address that an `img` needs, at most `most` pixels wide and high: PNG, JPEG where large."""
    kept, out = image.convert("RGB"), io.BytesIO()
    kept.thumbnail((most, most))
    kind = "PNG" if max(kept.size) <= 256 else "JPEG"
    kept.save(out, kind, quality=90)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def concept_html(title: str, rows: Mapping[str, str], counts: Mapping[str, int], sizes: Mapping[str, int]) -> str:
    """A table under a title, empty rows left out, and a bar for each layer, for a notebook in any colours."""
    shares = _layers.shares(counts, sizes, _layers.choose_detail(sizes))
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
