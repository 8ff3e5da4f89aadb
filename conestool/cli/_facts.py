"""What is known of a .cone file, gathered once for the screen and for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from conestool.cli import _layers
from conestool.records import BaseInfo, Losses, Origin

if TYPE_CHECKING:
    from conestool.concept import Concept, Cone
    from conestool.format import Header

__all__ = [
    "ConceptFacts",
    "FileFacts",
    "alternatives",
    "changes",
    "concept_facts",
    "facts_of",
    "facts_of_header",
    "file_record",
]

LORA_RANK = 4
FP16 = 2
"""Bytes of one fp16 number."""


@dataclass(frozen=True)
class ConceptFacts:
    """One concept without its indices: `counts` is the number of neurons per param name."""

    name: str
    class_noun: str
    identifier: str
    id: str
    counts: Mapping[str, int]
    origin: Origin

    @property
    def neurons(self) -> int:
        """Number of concept neurons."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class FileFacts:
    """One .cone file of `size` bytes."""

    path: str
    size: int
    base: BaseInfo
    concepts: tuple[ConceptFacts, ...]


def facts_of(path: str, size: int, cone: Cone) -> FileFacts:
    """The facts of a cone that is in memory."""
    return FileFacts(path, size, cone.base, tuple(concept_facts(concept) for concept in cone.concepts))


def concept_facts(concept: Concept) -> ConceptFacts:
    """The facts of one concept that is in memory."""
    counts = {param: len(values) for param, values in concept.indices.items()}
    words = concept.name, concept.class_noun, concept.identifier
    return ConceptFacts(*words, concept.id, counts, concept.origin)


def facts_of_header(path: str, header: Header) -> FileFacts:
    """The facts of a file of which the header alone was read."""
    concepts = [
        ConceptFacts(each.name, each.class_noun, each.identifier, each.id, each.counts, each.origin)
        for each in header.concepts
    ]
    return FileFacts(path, header.size, header.bases[0], tuple(concepts))


def alternatives(base: BaseInfo) -> dict[str, int]:
    """Bytes of what other methods would store for one subject on this base model, from its K/V shapes.

    `lora`: rank 4 factors for every K/V weight in fp16, rank * (rows + columns) numbers each. `custom_diffusion`: the
    K/V weights of cross-attention in fp16 (Kumari et al., CVPR 2023), without their compression.
    """
    shapes, joint = base.tensors.values(), _layers.is_joint(base.tensors)
    cross = [shape for param, shape in base.tensors.items() if _layers.is_cross(param, joint)] or list(shapes)
    lora = sum(LORA_RANK * (prod(shape[:1]) + prod(shape[1:])) for shape in shapes)
    return {"lora": FP16 * lora, "custom_diffusion": FP16 * sum(prod(shape) for shape in cross)}


def changes(losses: Losses, class_noun: str, held_out: int | None) -> list[tuple[str, float, float]]:
    """The measured losses as (what, before, after), in the order they matter; with no photo held out, on new crops."""
    rows = [
        ("new crops" if held_out == 0 else "held-out photos", losses.held_out_before, losses.held_out_after),
        ("random indices", losses.held_out_before, losses.random_after),
        ("no identifier", losses.no_identifier_before, losses.no_identifier_after),
        (f"class: {class_noun}", losses.class_before, losses.class_after),
    ]
    return [(what, before, after) for what, before, after in rows if before is not None and after is not None]


def file_record(facts: FileFacts) -> dict[str, Any]:
    """The facts as JSON holds them; digests in full."""
    return {
        "file": facts.path,
        "bytes": facts.size,
        "base": facts.base.model_dump() | {"weights": facts.base.weights()},
        "concepts": [concept_record(concept, facts.base) for concept in facts.concepts],
        "alternatives_bytes": alternatives(facts.base),
    }


def concept_record(concept: ConceptFacts, base: BaseInfo) -> dict[str, Any]:
    """One concept as JSON holds it."""
    sizes = {param: prod(shape) for param, shape in base.tensors.items()}
    found, whole = _layers.by_layer(complete(concept.counts, sizes)), _layers.by_layer(sizes)
    return {
        "name": concept.name,
        "class_noun": concept.class_noun,
        "identifier": concept.identifier,
        "id": concept.id,
        "neurons": concept.neurons,
        "density": concept.neurons / max(1, base.weights()),
        "kinds": _layers.kinds(concept.counts, base.tensors),
        "layers": [{"layer": name, "neurons": found[name], "density": found[name] / whole[name]} for name in whole],
        "neurons_per_param": dict(concept.counts),
        "origin": concept.origin.model_dump(),
    }


def complete(counts: Mapping[str, int], params: Iterable[str]) -> dict[str, int]:
    """`counts` with a 0 for every other param name of the model."""
    return {param: counts.get(param, 0) for param in params}
