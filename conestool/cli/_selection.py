"""Which concepts go with which prompt, and telling people about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from conestool.cli import _options, _output, _streams
from conestool.errors import UsageError

if TYPE_CHECKING:
    from conestool.cli._options import Where
    from conestool.concept import Cone
    from conestool.models.model import Model

__all__ = ["Chosen", "Group", "choose", "choose_ids", "groups", "open_base", "tell"]

MANY = 8
"""Prompts beyond this number are announced with -v alone."""


@dataclass(frozen=True)
class Chosen:
    """One prompt with the concepts that are applied for it, their strengths and the files they came from."""

    prompt: str
    cone: Cone | None = None
    strength: dict[str, float] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """What two prompts share when they can be drawn together."""
        return tuple(concept.id for concept in self.cone.concepts) if self.cone else ()


@dataclass(frozen=True)
class Group:
    """Prompts that are drawn in one go, with the same concepts."""

    prompts: tuple[str, ...]
    cone: Cone | None
    strength: dict[str, float]


def choose(prompts: Sequence[str], named: Sequence[str], none: bool) -> list[Chosen]:
    """The concepts for every prompt: none, those of the files `named`, or those that the prompt's words name."""
    if none:
        return [Chosen(prompt) for prompt in prompts]
    if named:
        cone, strength, files = load_named(named)
        return [Chosen(prompt, cone, strength, files) for prompt in prompts]
    from conestool.render.library import scan

    shelf = scan()
    for note in shelf.notes:
        _output.warn(note)
    out = []
    for prompt in prompts:
        found = shelf.find(prompt)
        out.append(Chosen(prompt, found.cone, full(found.cone), tuple(map(str, found.files))))
    return out


def choose_ids(ids: Sequence[str], named: Sequence[str]) -> tuple[Cone | None, tuple[str, ...]]:
    """The concepts with these exact ids, from the files `named`, or from wherever `render` looks for concepts."""
    if named:
        if any(_options.parse_wanted(text).strength != 1 for text in named):
            raise UsageError("--from: the picture's own strengths hold", "leave out the strength after -c")
        cone, _, files = load_named(named)
        return cone, files
    from conestool.render import find_ids

    found = find_ids(ids)
    return found.cone, tuple(map(str, found.files))


def load_named(named: Sequence[str]) -> tuple[Cone, dict[str, float], tuple[str, ...]]:
    """The files given with -c merged, the strength of each of their concepts, and their names."""
    from conestool import ops

    wanted = [_options.parse_wanted(text) for text in named]
    cones = _streams.load_cones([one.path for one in wanted])
    names = ("stdin" if str(one.path) == _streams.STDIO else str(one.path) for one in wanted)
    return ops.merge(*cones), _options.strengths(wanted, cones), tuple(names)


def full(cone: Cone | None) -> dict[str, float]:
    """Strength 1 for every concept."""
    return dict.fromkeys(cone.names, 1.0) if cone else {}


def groups(chosen: Iterable[Chosen], most: int) -> list[Group]:
    """Neighbouring prompts with the same concepts together, at most `most` of them."""
    out: list[Group] = []
    last: tuple[str, ...] | None = None
    for each in chosen:
        if out and each.key == last and len(out[-1].prompts) < most:
            out[-1] = replace(out[-1], prompts=(*out[-1].prompts, each.prompt))
        else:
            out.append(Group((each.prompt,), each.cone, each.strength))
        last = each.key
    return out


def open_base(chosen: Sequence[Chosen], where: Where) -> Model:
    """The base model: as told, else that of the first concept, else pocket."""
    base = next((each.cone.base for each in chosen if each.cone), None)
    return _options.open_model(where, (base.id, base.revision) if base else None)


def tell(chosen: Sequence[Chosen], model: Model, literal: bool) -> None:
    """Say which concepts are applied, the prompt as it is sent, and what of it the text encoder will not read."""
    from conestool.models.prompts import cut_text
    from conestool.render import rewrite

    say = _output.say if len(chosen) <= MANY else _output.detail
    for each in chosen:
        sent = rewrite(each.prompt, each.cone.concepts if each.cone else (), literal)
        say(f"{applied_text(each)}: {sent}" if each.cone else f"base model: {sent}")
        for name in unnamed(each, sent):
            say(f"note: {name} is applied, but the prompt does not name it")
        cut = cut_text(model, sent)
        if cut:
            _output.warn(f"the prompt is too long for the text encoder, which will not read: {cut}")


def applied_text(each: Chosen) -> str:
    """The files and, where it is not 1, the strength of each concept."""
    weaker = [f"{name} {value:g}" for name, value in each.strength.items() if value != 1]
    files = ", ".join(Path(file).name for file in each.files)
    return f"{files} ({', '.join(weaker)})" if weaker else files


def unnamed(each: Chosen, sent: str) -> Iterator[str]:
    """Concepts that are applied although the prompt as sent does not hold their identifier."""
    words = sent.casefold().split()
    for concept in each.cone.concepts if each.cone else ():
        if not any(word.strip(".,;:!?'\"()") == concept.identifier.casefold() for word in words):
            yield concept.name
