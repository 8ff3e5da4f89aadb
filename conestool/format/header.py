"""What `read_header` gives: every concept with its base model and indices per tensor, the payload untouched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conestool.format.entries import CODECS
from conestool.format.maps import BaseMap, ConceptMap, HeaderMap, read_origin
from conestool.records import BaseInfo, Origin

__all__ = ["ConceptHeader", "Header"]


@dataclass(frozen=True)
class ConceptHeader:
    """A concept as the header tells it; `counts` and `codecs` go by param name, `size` is the bytes of its sections."""

    name: str
    class_noun: str
    identifier: str
    id: str
    base: BaseInfo
    origin: Origin
    counts: Mapping[str, int]
    codecs: Mapping[str, str]
    size: int
    extra: Mapping[str, Any]

    @property
    def neurons(self) -> int:
        """Number of concept neurons."""
        return sum(self.counts.values())

    @property
    def density(self) -> float:
        """Fraction of the base model's K/V weights that are shut, 0 to 1."""
        return self.neurons / max(1, self.base.weights())

    @property
    def phrase(self) -> str:
        """The words that stand for the subject in a prompt, for example "sks dog"."""
        return f"{self.identifier} {self.class_noun}"


@dataclass(frozen=True)
class Header:
    """What a file says of itself; `version` is (major, minor), `size` its bytes, `offset` where its payload begins."""

    version: tuple[int, int]
    size: int
    offset: int
    bases: tuple[BaseInfo, ...]
    concepts: tuple[ConceptHeader, ...]
    map: HeaderMap

    @property
    def extra(self) -> dict[str, Any]:
        """Unknown optional keys of the header."""
        return self.map.extra

    @classmethod
    def of(cls, version: tuple[int, int], offset: int, header: HeaderMap) -> Header:
        """Resolve the references of a checked header."""
        bases = tuple(base_info(base) for base in header.bases)
        concepts = tuple(concept_header(concept, bases[concept.base]) for concept in header.concepts)
        return cls(version, offset + sum(concept.size for concept in concepts), offset, bases, concepts, header)


def base_info(base: BaseMap) -> BaseInfo:
    """A base description in memory: maps by param name, hashes in hex."""
    known = {
        "tensors": dict(base.tensors),
        "structure": base.structure.hex(),
        "digests": {rung: digest.hex() for rung, digest in base.digests.items()},
    }
    return BaseInfo(**{**base.extra, **known}, id=base.id, revision=base.revision, family=base.family, dtype=base.dtype)


def concept_header(concept: ConceptMap, base: BaseInfo) -> ConceptHeader:
    """A concept of the header with its counts by param name."""
    params = list(base.tensors)
    return ConceptHeader(
        name=concept.name,
        class_noun=concept.class_noun,
        identifier=concept.identifier,
        id=concept.id.hex(),
        base=base,
        origin=read_origin(concept.origin),
        counts={params[entry.tensor]: entry.k for entry in concept.entries},
        codecs={params[entry.tensor]: CODECS[entry.codec] for entry in concept.entries},
        size=sum(section.length for section in concept.sections),
        extra=concept.extra,
    )
