"""The two readers on one file: what they must agree on, and what conestool owes to whoever opens it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from conestool.concept import Cone
from conestool.errors import FormatError, VersionError
from conestool.format import dumps, loads
from spec.reference import reader
from spec.reference.header import LOSSES
from spec.reference.rules import RuleError
from tests.support.forging import pack

NAME = "mutant.cone"
MESSAGE = 2000
"""No message has more characters."""


@dataclass(frozen=True)
class Verdict:
    """The rule that a file breaks (0 if it is valid), CPU seconds of conestool's reader, and what is wrong with it."""

    rule: int
    seconds: float
    fault: str


class UndocumentedError(Exception):
    """A reader that did something else than give a cone or the error it documents."""


def judge(data: bytes) -> Verdict:
    """Read a file with both readers. The fault is empty if they agree and conestool keeps its promises."""
    expected = reader.outcome(data)
    rule = expected.rule if isinstance(expected, RuleError) else 0
    start = time.process_time()
    try:
        found = theirs(data)
    except UndocumentedError as error:
        return Verdict(rule, time.process_time() - start, str(error))
    seconds = time.process_time() - start
    if isinstance(expected, RuleError):
        fault = refusal(data, expected, found)
    else:
        fault = f"refused: {found}" if isinstance(found, FormatError) else acceptance(expected, found)
    return Verdict(rule, seconds, fault)


def theirs(data: bytes) -> Cone | FormatError:
    """What conestool finds, or the error that it documents; `UndocumentedError` for any other one."""
    try:
        return loads(data, NAME)
    except FormatError as error:
        return error
    except Exception as error:
        raise UndocumentedError(f"raised {type(error).__name__}: {error}") from error


def refusal(data: bytes, expected: RuleError, found: Cone | FormatError) -> str:
    """What is wrong with conestool's answer to an invalid file."""
    if isinstance(found, Cone):
        return f"accepted, though {expected}"
    text = str(found)
    if not text.startswith(f"{NAME}: ") or not text.isprintable() or len(text) > MESSAGE:
        return f"message {text[:200]!r}"
    later = expected.rule == 13 or (expected.rule == 3 and data[9] > 1)
    if later != isinstance(found, VersionError):
        return f"{type(found).__name__} for {expected}: {text}"
    return ""


def acceptance(expected: reader.Cone, found: Cone) -> str:
    """What is wrong with what conestool finds in a valid file, or with the file that it writes again."""
    sets = [
        (concept.name, concept.id, {key: values.tolist() for key, values in concept.indices.items()})
        for concept in found.concepts
    ]
    if sets != [(c.name, c.id.hex(), {key: v.tolist() for key, v in c.indices.items()}) for c in expected.concepts]:
        return "other names, ids or index sets"
    try:
        again = dumps(found)
        back = loads(again)
        if back != found or back.minor_version != found.minor_version:
            return "written again, it reads otherwise"
        if said(reader.read(again)) != said(expected):
            return "written again, it says something else to the independent reader"
    except Exception as error:
        return f"written again: {type(error).__name__}: {error}"
    return ""


def said(cone: reader.Cone) -> bytes:
    """Everything that a file says, whatever the codecs, lengths and numbers of its tables."""
    concepts = []
    for fields, found in zip(cone.header["concepts"], cone.concepts, strict=True):
        own = {**fields, "base": plain(cone.header["bases"][found.base]), "tensors": []}
        first, *others = fields["sections"]
        own["sections"] = [{key: first[key] for key in first.keys() - {"length", "sha256"}}, *others]
        own["origin"] = origin(fields.get("origin", {}))
        concepts.append(plain(own))
    return pack({**plain(cone.header), "bases": [], "concepts": concepts})


def origin(fields: dict[str, Any]) -> dict[str, Any]:
    """An origin whose losses are floats, as a writer may write them."""
    if "losses" not in fields:
        return plain(fields)
    numbers = {key: float(value) if f"{key}?" in LOSSES else value for key, value in fields["losses"].items()}
    return plain({**fields, "losses": numbers})


def plain(fields: dict[str, Any]) -> dict[str, Any]:
    """A map without the optional keys that say nothing: empty arrays and maps."""
    silent = {"critical", "origin", "parameters", "photos", "versions", "warnings"}
    return {key: value for key, value in fields.items() if key not in silent or value not in ([], {})}
