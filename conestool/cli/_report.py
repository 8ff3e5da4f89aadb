"""A .cone file as people read it: used by `inspect` and by the end of `find`."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from conestool.cli import _facts, _layers, _show
from conestool.cli._facts import ConceptFacts, FileFacts

__all__ = ["show_concept", "show_file", "show_found", "show_layers", "size_rows"]

MANY_LAYERS = 40
"""More layers than this are shown as blocks."""
WARNINGS = 20
"""Warnings of one concept that are shown."""
LONGEST_BAR = 30
NARROW = 60
"""Columns below which losses are shown as changes alone."""


def show_file(facts: FileFacts) -> None:
    """Everything about one file: its concepts, its base model, its size and the density per layer."""
    total = sum(concept.neurons for concept in facts.concepts)
    counted = f"{_show.amount(len(facts.concepts), 'concept')}, {_show.amount(total, 'neuron')}"
    _show.say(f"{facts.path}: {counted}, {_show.size(facts.size)}", "bold")
    for concept in facts.concepts:
        _show.say("")
        show_concept(concept, facts)
    _show.say("")
    show_base(facts)
    _show.facts(size_rows(facts))
    _show.say("")
    show_layers(facts)


def show_found(facts: FileFacts) -> None:
    """What `find` says at its end: the concept and the size of its file."""
    for concept in facts.concepts:
        show_concept(concept, facts)
    _show.facts(size_rows(facts))


def show_concept(concept: ConceptFacts, facts: FileFacts) -> None:
    """One concept: what it shows, how it was found and what that did to the losses."""
    origin = concept.origin
    prompt = origin.instance_prompt or f"{concept.identifier} {concept.class_noun}"
    _show.say(f"{concept.name}: {prompt}", "bold")
    density = _show.percent(concept.neurons / max(1, facts.base.weights()))
    rows = [["neurons", f"{concept.neurons:,} ({density} of the K/V weights)"], ["found by", found_by(concept)]]
    rows += [["where", where(concept, facts)], *loss_rows(concept)]
    rows += [[key, str(value)] for key in ("author", "license", "notes") if (value := getattr(origin, key))]
    rows += [["id", concept.id[:16]]]
    _show.facts(rows)
    for text in origin.warnings[:WARNINGS]:
        _show.warn(f"{concept.name}: {text}")
    if len(origin.warnings) > WARNINGS:
        _show.warn(f"{concept.name}: {len(origin.warnings) - WARNINGS:,} warnings more; --json has them")


def where(concept: ConceptFacts, facts: FileFacts) -> str:
    """The shares of the neurons in K and V of self- and cross-attention."""
    kinds = _layers.kinds(concept.counts, facts.base.tensors)
    return ", ".join(f"{kind} {_show.percent(each['share'])}" for kind, each in kinds.items())


def found_by(concept: ConceptFacts) -> str:
    """Method, steps, seed and photos, as far as the file tells."""
    origin = concept.origin
    steps = origin.parameters.get("steps")
    parts = [
        origin.method or "unknown method",
        f"{steps} steps" if steps is not None else "",
        f"seed {origin.seed}" if origin.seed is not None else "",
        _show.amount(len(origin.photos), "photo") if origin.photos else "",
        f"{origin.held_out} held out" if origin.held_out else "",
    ]
    return ", ".join(part for part in parts if part)


def loss_rows(concept: ConceptFacts) -> list[list[str]]:
    """The losses before and after shutting, aligned under one heading."""
    losses = concept.origin.losses
    if losses is None:
        return []
    changes = _facts.changes(losses, concept.class_noun, concept.origin.held_out)
    wide = max((len(what) for what, _, _ in changes), default=0)
    lines = []
    narrow = _show.width() < NARROW
    for number, (what, before, after) in enumerate(changes):
        change = _show.percent(after / before - 1, signed=True) if before else ""
        values = "" if narrow else f"{before:.4f} -> {after:.4f}  "
        lines.append(["loss" if number == 0 else "", f"{what:<{wide}}  {values}{change:>8}"])
    return lines


def show_base(facts: FileFacts) -> None:
    """The base model the concepts belong to."""
    base = facts.base
    revision = f" at {base.revision[:12]}" if base.revision else ""
    _show.say(f"base model: {base.id}{revision}", "bold")
    rows = [
        ["family", f"{base.family}, {base.dtype}"],
        ["K/V weights", f"{base.weights():,} in {_show.amount(len(base.tensors), 'tensor')}"],
    ]
    _show.facts(rows)


def size_rows(facts: FileFacts) -> list[list[str]]:
    """The file's size beside what LoRA and Custom Diffusion would store for as many subjects."""
    subjects = len(facts.concepts)
    other = _facts.alternatives(facts.base)
    names = {"lora": "LoRA, rank 4 on K/V, fp16", "custom_diffusion": "Custom Diffusion K/V, fp16"}
    rows = [["size", f"{_show.size(facts.size):>8}  this file"]]
    for key, text in names.items():
        count = other[key] * subjects
        rows.append(["", f"{_show.size(count):>8}  {text} ({times(count / max(1, facts.size))})"])
    return rows


def times(factor: float) -> str:
    """A factor for people: 2.6 x, 76 x."""
    return f"{factor:.1f} x" if factor < 9.95 else f"{factor:.0f} x"


def show_layers(facts: FileFacts) -> None:
    """Density per layer as bars, a column of them per concept, as wide as the terminal allows."""
    sizes = {param: prod(shape) for param, shape in facts.base.tensors.items()}
    detail = choose_detail(sizes)
    whole = _layers.by_layer(sizes, detail)
    parts = [_layers.by_layer(_facts.complete(c.counts, sizes), detail) for c in facts.concepts]
    density = [{name: part[name] / whole[name] for name in whole} for part in parts]
    highest = max((value for part in density for value in part.values()), default=0.0)
    free = _show.width() - 4 - max(map(len, whole), default=0) - 10 * len(parts)
    wide = max(0, min(LONGEST_BAR, free // max(1, len(parts)) - 2))
    rows = [["density", *(cell for c in facts.concepts for cell in (c.name[:8], ""))]]
    for name in whole:
        cells = [(_show.percent(part[name]), _show.bar(part[name] / (highest or 1), wide)) for part in density]
        rows.append([name, *(text for cell in cells for text in cell)])
    _show.table(rows, right=range(1, 2 * len(parts), 2))


def choose_detail(params: Iterable[str]) -> _layers.Detail:
    """Every K and V with -v; else layers, or blocks where there are many layers."""
    if _show.verbose():
        return _layers.Detail.PARAM
    many = len({_layers.layer_of(param) for param in params}) > MANY_LAYERS
    return _layers.Detail.BLOCK if many else _layers.Detail.LAYER
