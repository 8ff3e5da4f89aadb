"""What is known of a .cone file and of an evaluation, as text for people and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from conestool import _layers
from conestool.cli import _output
from conestool.concept import BaseModelInfo, ConceptInfo

if TYPE_CHECKING:
    from conestool.concept import Cone
    from conestool.evaluation import ConceptReport, Report, Row

LORA_RANK = 4
FP16 = 2
"""Bytes of one fp16 number."""


@dataclass(frozen=True)
class FileFacts:
    """One .cone file of `size` bytes, without the index sets."""

    path: str
    size: int
    concepts: tuple[ConceptInfo, ...]

    @property
    def base(self) -> BaseModelInfo:
        """The base model of all its concepts."""
        return self.concepts[0].base


def facts_of(path: str, size: int, cone: Cone) -> FileFacts:
    """The facts of a cone that is in memory."""
    return FileFacts(path, size, tuple(concept.info for concept in cone.concepts))


def alternatives(base: BaseModelInfo) -> dict[str, int]:
    """Bytes of what other methods would store for one subject on this base model, from its K/V shapes.

    `lora`: rank 4 factors for every K/V weight in fp16, rank * (rows + columns) numbers each. `custom_diffusion`: the
    K/V weights of cross-attention in fp16 (Kumari et al., CVPR 2023), without their compression.
    """
    shapes, joint = base.tensors.values(), _layers.is_joint(base.tensors)
    cross = [shape for param, shape in base.tensors.items() if _layers.is_cross(param, joint)] or list(shapes)
    lora = sum(LORA_RANK * (prod(shape[:1]) + prod(shape[1:])) for shape in shapes)
    return {"lora": FP16 * lora, "custom_diffusion": FP16 * sum(prod(shape) for shape in cross)}


def changes(concept: ConceptInfo) -> list[tuple[str, float, float]]:
    """The measured losses as (what, before, after), in the order they matter; with no photo held out, on new crops."""
    losses = concept.origin.losses
    if losses is None:
        return []
    photos = "new crops" if concept.origin.held_out == 0 else "held-out photos"
    rows = [
        (photos, losses.held_out_before, losses.held_out_after),
        ("random indices", losses.held_out_before, losses.random_after),
        ("no identifier", losses.no_identifier_before, losses.no_identifier_after),
        (f"class: {concept.class_noun}", losses.class_before, losses.class_after),
    ]
    return [(what, before, after) for what, before, after in rows if before is not None and after is not None]


def file_record(facts: FileFacts) -> dict[str, Any]:
    """The facts as JSON holds them; digests in full."""
    return {
        "file": facts.path,
        "bytes": facts.size,
        "base": facts.base.model_dump() | {"weights": facts.base.num_weights},
        "concepts": [concept_record(concept) for concept in facts.concepts],
        "alternatives_bytes": alternatives(facts.base),
    }


def concept_record(concept: ConceptInfo) -> dict[str, Any]:
    """One concept as JSON holds it."""
    sizes = {param: prod(shape) for param, shape in concept.base.tensors.items()}
    counts, whole = {param: concept.counts.get(param, 0) for param in sizes}, _layers.by_layer(sizes)
    found = _layers.by_layer(counts)
    return {
        "name": concept.name,
        "class_noun": concept.class_noun,
        "identifier": concept.identifier,
        "id": concept.id,
        "neurons": concept.neurons,
        "density": concept.density,
        "kinds": _layers.kinds(concept.counts, concept.base.tensors),
        "layers": [{"layer": name, "neurons": found[name], "density": found[name] / whole[name]} for name in whole],
        "neurons_per_param": dict(concept.counts),
        "origin": concept.origin.model_dump(),
    }


WARNINGS = 20
"""Warnings of one concept that are shown."""
LONGEST_BAR = 30
NARROW = 60
"""Columns below which losses are shown as changes alone."""


def show_file(facts: FileFacts, layers: bool) -> None:
    """Everything about one file: its concepts, its base model, its size, and with `layers` or -v each one's density."""
    total = sum(concept.neurons for concept in facts.concepts)
    counted = f"{_output.amount(len(facts.concepts), 'concept')}, {_output.amount(total, 'neuron')}"
    _output.say(f"{facts.path}: {counted}, {_output.size(facts.size)}", "bold")
    for concept in facts.concepts:
        _output.say("")
        show_concept(concept)
    _output.say("")
    show_base(facts)
    if layers or _output.verbose():
        _output.say("")
        show_layers(facts)


WORTHLESS, CLEAR = 0.02, 0.03
"""Fall of the photos' loss beyond that with random weights below which nothing was found, and from which it shows.

Seen on pocket: at 4 to 6 % most attributes of a subject are there, with random weights none (README)."""
UNBOUND = 0.5
"""Share of the gain that is there without the identifier, from which on the concept is not bound to it."""
DISTURBED = 0.1
"""Rise of the class's loss from which on other things of the class change as well."""


def verdict(concept: ConceptInfo) -> str | None:
    """How good a concept is, in words, by its controls; None if its losses were not measured."""
    losses = concept.origin.losses
    if losses is None:
        return None
    before, after, random = losses.held_out_before, losses.held_out_after, losses.random_after
    if not before or after is None or random is None:
        return None
    gain, control = 1 - after / before, 1 - random / before
    if gain - max(control, 0) < WORTHLESS:
        return "none, by the photos' loss: it falls no further than with as many random weights"
    word = "clear" if gain - max(control, 0) >= CLEAR else "weak"
    falls = _output.percent(gain), _output.percent(max(0.0, control))
    parts = [f"{word}: the photos' loss falls by {falls[0]}, with random weights by {falls[1]}"]
    if losses.no_identifier_before and losses.no_identifier_after is not None:
        share = (1 - losses.no_identifier_after / losses.no_identifier_before) / gain
        needs = f"{_output.percent(max(0.0, min(1.0, 1 - share)))} of it needs the word {concept.identifier}"
        parts.append(f"only {needs}" if share >= UNBOUND else needs)
    if losses.class_before and losses.class_after is not None:
        rise = losses.class_after / losses.class_before - 1
        kept = "changes as well" if rise >= DISTURBED else "stays as it was"
        parts.append(f"any other {concept.class_noun} {kept}")
    return "; ".join(parts)


def show_concept(concept: ConceptInfo) -> None:
    """One concept: what it shows, how it was found and what that did to the losses."""
    origin = concept.origin
    prompt = origin.instance_prompt or concept.phrase
    _output.say(f"{concept.name}: {prompt}", "bold")
    density = _output.percent(concept.density)
    rows = [["neurons", f"{concept.neurons:,} ({density} of the K/V weights)"], ["found by", found_by(concept)]]
    rows += [["where", where(concept)], *loss_rows(concept)]
    rows += [["verdict", found]] if (found := verdict(concept)) else []
    rows += [[key, str(value)] for key in ("author", "license", "notes") if (value := getattr(origin, key))]
    rows += [["id", concept.id[:16]]]
    _output.facts(rows)
    for text in origin.warnings[:WARNINGS]:
        _output.warn(f"{concept.name}: {text}")
    if len(origin.warnings) > WARNINGS:
        _output.warn(f"{concept.name}: {len(origin.warnings) - WARNINGS:,} warnings more; --json has them")


def where(concept: ConceptInfo) -> str:
    """The shares of the neurons in K and V of self- and cross-attention."""
    kinds = _layers.kinds(concept.counts, concept.base.tensors)
    return ", ".join(f"{kind} {_output.percent(each['share'])}" for kind, each in kinds.items())


def found_by(concept: ConceptInfo) -> str:
    """Method, steps, seed and photos, as far as the file tells."""
    origin = concept.origin
    steps = origin.parameters.get("steps")
    parts = [
        origin.method or "unknown method",
        f"{steps} steps" if steps is not None else "",
        f"seed {origin.seed}" if origin.seed is not None else "",
        _output.amount(len(origin.photos), "photo") if origin.photos else "",
        f"{origin.held_out} held out" if origin.held_out else "",
    ]
    return ", ".join(part for part in parts if part)


def loss_rows(concept: ConceptInfo) -> list[list[str]]:
    """The losses before and after zeroing, aligned under one heading."""
    rows = changes(concept)
    wide = max((len(what) for what, _, _ in rows), default=0)
    lines = []
    narrow = _output.width() < NARROW
    for number, (what, before, after) in enumerate(rows):
        change = _output.percent(after / before - 1, signed=True) if before else ""
        values = "" if narrow else f"{before:.4f} -> {after:.4f}  "
        lines.append(["loss" if number == 0 else "", f"{what:<{wide}}  {values}{change:>8}"])
    return lines


def show_base(facts: FileFacts) -> None:
    """The base model the concepts belong to, and the file's size beside what else would be stored for it."""
    base = facts.base
    revision = f" at {base.revision[:12]}" if base.revision else ""
    _output.say(f"base model: {base.id}{revision}", "bold")
    rows = [
        ["family", f"{base.family}, {base.dtype}"],
        ["K/V weights", f"{base.num_weights:,} in {_output.amount(len(base.tensors), 'tensor')}"],
    ]
    _output.facts([*rows, *size_rows(facts)])


def size_rows(facts: FileFacts) -> list[list[str]]:
    """The file's size beside what LoRA and Custom Diffusion would store for as many subjects."""
    subjects = len(facts.concepts)
    other = alternatives(facts.base)
    sizes = {"this file": facts.size, "LoRA, rank 4 on K/V, fp16": other["lora"] * subjects}
    sizes["Custom Diffusion K/V, fp16"] = other["custom_diffusion"] * subjects
    wide = max(len(_output.size(count)) for count in sizes.values())
    rows: list[list[str]] = []
    for text, count in sizes.items():
        factor = f" ({times(count / max(1, facts.size))})" if rows else ""
        rows.append(["" if rows else "size", f"{_output.size(count):>{wide}}  {text}{factor}"])
    return rows


def times(factor: float) -> str:
    """A factor for people: 2.6 x, 76 x."""
    return f"{factor:.1f} x" if factor < 9.95 else f"{factor:.0f} x"


def show_layers(facts: FileFacts) -> None:
    """Density per layer as bars, a column of them per concept, as wide as the terminal allows."""
    sizes = {param: prod(shape) for param, shape in facts.base.tensors.items()}
    detail = _layers.Detail.PARAM if _output.verbose() else _layers.choose_detail(sizes)
    density = [_layers.shares(c.counts, sizes, detail) for c in facts.concepts]
    whole = density[0]
    highest = max((value for part in density for value in part.values()), default=0.0)
    free = _output.width() - 4 - max(map(len, whole), default=0) - 10 * len(density)
    wide = max(0, min(LONGEST_BAR, free // len(density) - 2))
    rows = [["density", *(cell for c in facts.concepts for cell in (c.name[:8], ""))]]
    for name in whole:
        cells = [(_output.percent(part[name]), _output.bar(part[name] / (highest or 1), wide)) for part in density]
        rows.append([name, *(text for cell in cells for text in cell)])
    _output.table(rows, right=range(1, 2 * len(density), 2))


LOSSES = {"held_out": "photos", "no_identifier": "no identifier", "class": "class", "unrelated": "other nouns"}
NAMES = {
    "concept": "concept",
    "no identifier": "  without identifier",
    "all together": "  all concepts together",
    "random": "random indices",
    "largest": "largest weights",
    "base model": "base model",
    "photos": "the photos themselves",
}


def show_report(report: Report) -> None:
    """A table per concept, the presence of all, and what was not measured."""
    for concept in report.concepts:
        show_evaluated(concept, report.metrics)
    found = report.presence
    if found:
        _output.say(f"{found.prompt}: the class is seen in, of {_output.amount(found.pictures, 'picture')}", "bold")
        parts = (found.concepts, found.base_model, found.photos)
        rows = [["", "all concepts", "base model", "the photos"]]
        rows += [[name, *(_output.percent(p[name]) if name in p else "" for p in parts)] for name in found.concepts]
        _output.table(rows, right=(1, 2, 3))
    for text in report.missing:
        _output.say(f"note: {text}")


def show_evaluated(concept: ConceptReport, metrics: tuple[str, ...]) -> None:
    """The changes of the losses and the alignment of pictures, a row for each set of weights."""
    unseen = " that the search did not see" if concept.unseen else " that the search learned from"
    told = f", losses on {_output.amount(concept.photos, 'photo')}{unseen}" if concept.photos else ""
    _output.say(f"{concept.name}: {concept.identifier} {concept.class_noun}{told}", "bold")
    losses = [key for key in LOSSES if key in concept.before]
    measures = [(kind, name) for name in metrics for kind in ("image", "text") if has(concept, kind, name)]
    head = ["loss on", *(LOSSES[key] for key in losses), *(f"{kind} ({name})" for kind, name in measures)]
    rows = [[NAMES[row.name], *cells(row, losses, measures)] for row in concept.rows if row.losses or measures]
    _output.table([head, *rows], right=range(1, len(head)))


def has(concept: ConceptReport, kind: str, name: str) -> bool:
    """Whether any row has this measure."""
    return any(name in getattr(row.score, kind) for row in concept.rows)


def cells(row: Row, losses: list[str], measures: list[tuple[str, str]]) -> list[str]:
    """One row's numbers; empty where it has none."""
    changes = [_output.percent(row.losses[key], signed=True) if key in row.losses else "" for key in losses]
    found = [getattr(row.score, kind).get(name) for kind, name in measures]
    return [*changes, *("" if value is None else f"{value:.3f}" for value in found)]
