"""A report of .cone files as one HTML page, by the template report.html: nothing is fetched, every text is escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conestool import __version__, _layers
from conestool._display import data_uri
from conestool._text import clean, quoted
from conestool.cli import _format, _output
from conestool.cli._card import public_base

if TYPE_CHECKING:
    from PIL.Image import Image

    from conestool.concept import Concept, Cone
    from conestool.rendering.drawing import Rendering
    from conestool.rendering.samples import Showcase

_MEANING = {
    "held-out photos": "Photos that the search never saw. The further it falls, the better the model knows the "
    "subject.",
    "new crops": "Crops of the photos that the search did not see; no photo was held out. A weaker proof than new "
    "photos.",
    "random indices": "The same photos with as many weights at random positions zeroed. It should hardly move: if it "
    "falls as far, nothing was found.",
    "no identifier": "The same photos without the word {0.identifier}. It should hardly move: the concept is to wait "
    "for its word.",
}
_CLASS = "Pictures of any {0.class_noun}, by the base model. It should hardly rise: others are to look as before."
"""What each loss says, by its name in `_format.changes`."""


@dataclass(frozen=True)
class Shown:
    """The pictures that a report has of one concept; photos only where somebody asked for them."""

    showcase: Showcase | None = None
    photos: Sequence[Image] = ()
    samples: Image | None = None


def read_strip(path: Path, cone_id: str | None = None) -> Image | None:
    """The strip that a search left, if there is one; a warning for another file in its place.

    With `cone_id` it must be of the search that found this.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            picture = image.convert("RGB")
            if cone_id in (None, getattr(image, "text", {}).get("cone")):
                return picture
            _output.warn(f"{path}: of another search, left out")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        if path.exists():
            _output.warn(f"{path}: not a PNG that can be read, left out")
    return None


def report_html(
    files: Sequence[tuple[str, int, Cone]], shown: Mapping[str, Shown], together: Sequence[Rendering] = ()
) -> str:
    """The page for files (path, bytes, cone); `shown` has pictures by content id, `together` is of all concepts."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_cleaned)
    environment.filters |= {"percent": _output.percent, "picture": data_uri}
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        concepts=[
            _section(path, size, concept, shown.get(concept.id, Shown()))
            for path, size, cone in files
            for concept in cone.concepts
        ],
        together=[_figure(each) for each in together],
        version=__version__,
    )


def _cleaned(value: Any) -> Any:
    """What the template writes, texts cleaned; it escapes them then. What is Markup is written as it is."""
    return clean(value).replace(" %", "\N{NO-BREAK SPACE}%") if type(value) is str else value


def _section(path: str, size: int, concept: Concept, shown: Shown) -> dict[str, Any]:
    """What the template shows of one concept."""
    from markupsafe import escape

    origin, own, case = concept.origin, concept.info, shown.showcase
    facts = _format.FileFacts(path, size, (own,))
    verdict = _format.verdict(own)
    file = Path(path).name if path.endswith(".cone") else f"{concept.name}.cone"
    return {
        "concept": concept,
        "shown": shown,
        "verdict": re.split("[:,] ", verdict, maxsplit=1) if verdict else None,
        "warnings": origin.warnings[: _format.WARNINGS],
        "bare": [_figure(each) for each in case.bare] if case else [],
        "scenes": [_figure(each) for each in case.scenes] if case else [],
        "strengths": [_figure(each) for each in case.strengths] if case else [],
        "curve": _curve(origin.parameters),
        "losses": _loss_rows(concept),
        "layers": _layer_rows(concept),
        "kinds": _format.where(own),
        "map": _map(concept),
        "facts": [
            ("file", f"{file}, {_output.size(size)}"),
            ("base model", f"{public_base(concept.base)} ({concept.base.family}, {concept.base.dtype})"),
            ("found by", _format.found_by(own)),
            *((key, getattr(origin, key)) for key in ("author", "license", "notes") if getattr(origin, key)),
            ("content id", concept.id),
        ],
        "sizes": [text.strip().split("  ", 1) for _, text in _format.size_rows(facts)],
        "settings": sorted(
            (clean(key, 60), clean(value, 120))
            for key, value in origin.parameters.items()
            if key not in ("loss_curve", "tune")
        ),
        "command": escape(clean(quoted(*_find_command(file, concept)))),
    }


def _figure(drawn: Rendering) -> dict[str, Any]:
    """A picture with its prompt, seed and strength."""
    record = drawn.record
    used = record["concepts"]
    strength = used[0]["strength"] if used else None
    by = f"with {' and '.join(each['name'] for each in used)}" if used else "by the base model"
    at = f" at strength {strength:g}" if strength not in (None, 1) else ""
    alt = f"{record['sent']}, drawn {by}{at}, seed {record['seed']}"
    return {"image": drawn.image, "prompt": record["sent"], "alt": alt, "strength": strength}


def _loss_rows(concept: Concept) -> list[tuple[str, str, float, float, str]]:
    """What each loss is of, its values, its change, the length of its bar in per cent, and what it means."""
    found = _format.changes(concept.info)
    changes = [after / before - 1 if before else 0.0 for _, before, after in found]
    longest = max(map(abs, changes), default=0.0) or 1.0
    return [
        (
            what,
            f"from {before:.4f} to {after:.4f}",
            change,
            round(50 * abs(change) / longest, 1),
            _MEANING.get(what, _CLASS).format(concept),
        )
        for (what, before, after), change in zip(found, changes, strict=True)
    ]


def _curve(parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """The loss curve as points of a drawing 600 wide and 160 high; None if the file has none that can be drawn."""
    values, steps = parameters.get("loss_curve"), parameters.get("steps")
    if not isinstance(values, list) or not 2 <= len(values) <= 1000:
        return None
    if not all(isinstance(each, float) and math.isfinite(each) for each in values):
        return None
    low, high = min(values), max(values)
    across, down = 600 / (len(values) - 1), 140 / ((high - low) or 1.0)
    points = [(round(across * place, 1), round(150 - down * (each - low), 1)) for place, each in enumerate(values)]
    return {"points": points, "values": values, "steps": steps if isinstance(steps, int) else len(values)}


def _layer_rows(concept: Concept) -> dict[str, list[tuple[str, float, float]]]:
    """By layer, or block where there are many, the shares of K and of V that are zeroed, with the length of a bar."""
    sizes = {param: prod(shape) for param, shape in concept.base.tensors.items()}
    counts, detail = concept.info.counts, _layers.choose_detail(sizes)
    found = [
        (name, letter, share)
        for letter in "KV"
        for name, share in _layers.shares(
            counts, {param: size for param, size in sizes.items() if _layers.projection(param)[-1] == letter}, detail
        ).items()
    ]
    longest = max((share for *_, share in found), default=0.0) or 1.0
    rows: dict[str, list[tuple[str, float, float]]] = {}
    for name, letter, share in found:
        rows.setdefault(name, []).append((letter, share, round(100 * share / longest, 1)))
    return rows


def _map(concept: Concept) -> Image | None:
    """The layer map as a picture; None where it would be too large."""
    from conestool.cli._plot import LARGEST, draw_map, group, size_of_map

    wide, high = size_of_map(group(concept.base.tensors))
    return draw_map(concept) if wide * high <= LARGEST // 10 else None


def _find_command(file: str, concept: Concept) -> list[str]:
    """A command that would find the concept again, from what the file says; what is a default is left out."""
    from conestool.search.config import SearchConfig
    from conestool.search.methods import METHODS

    origin, known = concept.origin, concept.origin.parameters
    words = ["cones", "find", "PHOTOS", "-o", file, "--name", concept.name]
    words += ["--class-noun", concept.class_noun, "--identifier", concept.identifier]
    words += [] if concept.base.id == "pocket" else ["--model", public_base(concept.base)]
    words += ["--seed", str(origin.seed)] if origin.seed else []
    for each in fields(SearchConfig):
        value = known.get(each.name, each.default)
        value = tuple(value) if isinstance(value, list) else value
        if each.name not in ("method", "seed") and value not in (None, each.default):
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{each.name.replace('_', '-')}", *map(str, values)]
    config = METHODS.get(origin.method or "")
    own = [each for each in (fields(config) if config else ()) if known.get(each.name, each.default) != each.default]
    method = ",".join([origin.method or "mask", *(f"{each.name}={known[each.name]}" for each in own)])
    return words + ([] if method == SearchConfig.method else ["--method", method])
