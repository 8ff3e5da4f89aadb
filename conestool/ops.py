"""Joining, taking apart and comparing cones: pure functions on index sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from conestool._layers import layer_name
from conestool._text import fold
from conestool.concept import Concept, Cone, Indices, refuse_clash
from conestool.errors import BaseModelMismatchError, UsageError
from conestool.fingerprint import match

KEY = 200
"""Characters of each part of a dotted key, so that one long key does not stand before a thousand others in full."""


def join(*sets: Indices) -> Indices:
    """Union of sorted sets (a stable sort merges their runs; np.union1d is 60 times slower in numpy 2.4)."""
    everything, again = together(*sets)
    out: Indices = np.concatenate((everything[:1], everything[1:][~again]))
    return out


def intersection(a: Indices, b: Indices) -> Indices:
    """Positions that both sorted sets hold."""
    both, again = together(a, b)
    out: Indices = both[1:][again]
    return out


def together(*sets: Indices) -> tuple[Indices, Any]:
    """Sets in order, and for each but the first position whether it equals the one before."""
    everything = np.concatenate(sets)
    everything.sort(kind="stable")
    return everything, everything[1:] == everything[:-1]


def merge(*cones: Cone, names: Sequence[str] = ()) -> Cone:
    """All concepts of `cones` in one, each with its own index sets; the order and grouping do not matter.

    A concept that occurs twice, equal in indices and metadata, is taken once. NameClashError for two different concepts
    with one name or identifier, case aside, BaseModelMismatchError if they were found on different base models; `names`
    are what the messages call the `cones`, such as files. Unknown fields of single concepts are kept, and the highest
    minor version with them; those of whole files are not, because they speak of the file that had them.
    """
    if not cones:
        raise UsageError("nothing to merge", "give at least one .cone")
    concepts: list[Concept] = []
    sources: list[str] = []
    for number, cone in enumerate(cones):
        for concept in cone.concepts:
            if concept not in concepts:
                concepts.append(concept)
                sources.append(names[number] if names else "")
                refuse_other_base(concepts, sources)
    refuse_clash(concepts, fold, sources if names else ())
    return Cone(tuple(concepts), minor_version=max(cone.minor_version for cone in cones))


def refuse_other_base(concepts: Sequence[Concept], sources: Sequence[str]) -> None:
    """Raise BaseModelMismatchError unless the base model of the last concept matches those of all before it."""
    last = concepts[-1]
    for other, source in zip(concepts[:-1], sources, strict=False):
        found = match(other.base, last.base) if other.base is not last.base else None
        if found and not found.accepted:
            two = [source or other.name, sources[-1] or last.name]
            raise BaseModelMismatchError(
                f"{two[0]} and {two[1]} do not share a base model ({other.base.id}, {last.base.id}): {found.text}",
                "find one of them again on the other's base model",
            )


def extract(cone: Cone, name: str) -> Cone:
    """The concept `name` (case aside) alone, exactly as it was before merging; UsageError if there is none."""
    return Cone((cone[name],), minor_version=cone.minor_version)


def union(cone: Cone) -> dict[str, Indices]:
    """All weights that the concepts of `cone` zero, as one index set per param name, in order."""
    params = sorted({param for concept in cone.concepts for param in concept.indices})
    return {param: join(*(c.indices[param] for c in cone.concepts if param in c.indices)) for param in params}


def overlap(cone: Cone) -> dict[tuple[str, str], int]:
    """Number of neurons that each pair of concepts shares."""
    return {
        (a.name, b.name): sum(
            len(intersection(a.indices[param], b.indices[param])) for param in a.indices.keys() & b.indices.keys()
        )
        for a, b in combinations(cone.concepts, 2)
    }


@dataclass(frozen=True)
class Sharing:
    """Neurons that concepts zero `together`, and by name how many of each concept's own another one `shares`."""

    together: int
    shares: Mapping[str, int]


def sharing(cone: Cone) -> Sharing:
    """How much the concepts have in common, in time and memory that grow with their neurons, not with their pairs."""
    count, shares = 0, dict.fromkeys(cone.names, 0)
    for param in sorted({param for concept in cone.concepts for param in concept.indices}):
        held = {concept.name: concept.indices[param] for concept in cone.concepts if param in concept.indices}
        everything, again = together(*held.values())
        count += len(everything) - int(np.count_nonzero(again))
        if not again.any():
            continue
        common = join(everything[1:][again])
        for name, own in held.items():
            found = common.take(np.searchsorted(common, own), mode="clip")
            shares[name] += int(np.count_nonzero(found == own))
    return Sharing(count, shares)


@dataclass(frozen=True)
class Counts:
    """How two index sets compare: neurons only in the first, only in the second, in both."""

    only_a: int = 0
    only_b: int = 0
    both: int = 0

    @property
    def jaccard(self) -> float:
        """Shared over either, 0 to 1; 1 for two empty sets."""
        either = self.only_a + self.only_b + self.both
        return self.both / either if either else 1.0

    @property
    def same(self) -> bool:
        """Whether the sets are equal."""
        return not self.only_a and not self.only_b

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.only_a + other.only_a, self.only_b + other.only_b, self.both + other.both)


@dataclass(frozen=True)
class Change:
    """One difference in metadata; `key` is dotted, such as `dog.origin.seed`; None stands for absent."""

    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Diff:
    """How two cones compare: counts in total, per param name and per attention layer, and metadata."""

    total: Counts
    params: Mapping[str, Counts]
    layers: Mapping[str, Counts]
    metadata: tuple[Change, ...]

    @property
    def same(self) -> bool:
        """Whether there is no difference at all."""
        return self.total.same and not self.metadata


def diff(a: Cone, b: Cone) -> Diff:
    """Compare the weights that two cones zero (over all their concepts), and the metadata of like-named concepts.

    Of several concepts the content ids count as metadata: the same weights may be zeroed for other subjects.
    """
    mine, theirs = union(a), union(b)
    nothing = np.empty(0, np.int32)
    params = {
        param: compared(mine.get(param, nothing), theirs.get(param, nothing))
        for param in sorted(mine.keys() | theirs.keys())
    }
    layers: dict[str, Counts] = {}
    for param, counts in params.items():
        layers[layer_name(param)] = layers.get(layer_name(param), Counts()) + counts
    return Diff(sum(params.values(), Counts()), params, layers, tuple(changes(a, b)))


def compared(a: Indices, b: Indices) -> Counts:
    """Sizes of the differences and of the intersection."""
    both = len(intersection(a, b))
    return Counts(len(a) - both, len(b) - both, both)


def changes(a: Cone, b: Cone) -> Iterable[Change]:
    """Differences in metadata, concept by concept; two single concepts are compared whatever their names."""
    if len(a.concepts) == len(b.concepts) == 1:
        yield from unequal(a.names[0], record_of(a.concepts[0]), record_of(b.concepts[0]))
        return
    for name in sorted({*a.names, *b.names}):
        one, two = ({"id": cone[name].id, **record_of(cone[name])} if name in cone.names else None for cone in (a, b))
        yield from unequal(name, one, two)


def record_of(concept: Concept) -> dict[str, Any]:
    """All that is known of a concept but its index sets; the base model without its tables."""
    base = concept.base.model_dump(exclude={"tensors"}, exclude_none=True)
    return {
        "name": concept.name,
        "class_noun": concept.class_noun,
        "identifier": concept.identifier,
        "base": base,
        "origin": concept.origin.model_dump(exclude_none=True),
        **concept.unknown_fields,
        **({"indices": dict(concept.indices_unknown_fields)} if concept.indices_unknown_fields else {}),
        **{section.type: {"data": section.data, **section.unknown_fields} for section in concept.sections},
    }


def unequal(key: str, a: Any, b: Any) -> Iterable[Change]:
    """The places where two records differ, descending into maps."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in sorted(a.keys() | b.keys()):
            yield from unequal(f"{key}.{name[:KEY]}", a.get(name), b.get(name))
    elif a != b:
        yield Change(key, a, b)
