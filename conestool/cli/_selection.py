"""Which concepts go with which prompt, and telling people about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from conestool.cli import _options, _output, _streams
from conestool.errors import PromptError, UsageError

if TYPE_CHECKING:
    from conestool._names import Named
    from conestool.cli._prompts import Asked
    from conestool.concept import Cone
    from conestool.models.model import Model
    from conestool.rendering.library import Shelf

MANY = 8
"""Prompts beyond this number are announced with -v alone."""


@dataclass(frozen=True)
class Chosen:
    """One prompt with the concepts that are applied for it, their strengths and the files they came from.

    `seeds` are those of its pictures, `negative` its own negative prompt where it has one.
    """

    prompt: str
    seeds: tuple[int, ...]
    cone: Cone | None = None
    strength: dict[str, float] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    negative: str | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What two prompts share when they can be drawn together."""
        ids = tuple(concept.id for concept in self.cone.concepts) if self.cone else ()
        return ids, tuple(self.strength.items()), self.seeds, self.negative

    @property
    def applied(self) -> str:
        """The concepts, with the strength of each where it is not 1: "dog 0.5 + hat"."""
        parts = (name if value == 1 else f"{name} {value:g}" for name, value in self.strength.items())
        return " + ".join(parts)

    def base_only(self) -> Chosen:
        """The same for the base model alone: with the class nouns in the place of names."""
        from conestool._names import plain

        prompt = plain(self.prompt, self.cone.concepts) if self.cone else self.prompt
        return Chosen(prompt, self.seeds, negative=self.negative)


@dataclass(frozen=True)
class Group:
    """Prompts that are drawn in one go, with the same concepts, seeds and negative prompt."""

    prompts: tuple[str, ...]
    like: Chosen


def choose(
    asked: Sequence[Asked], named: Sequence[str], none: bool, seeds: range, offline: bool = False
) -> tuple[list[Chosen], Sequence[Named]]:
    """The concepts for every prompt: none, those of the files `named` for it, or those that the prompt's words name.

    `seeds` are those of prompts that have none of their own. Also returns all concepts that were on offer, if these
    were looked at.
    """
    shelf: Shelf | None = None
    known: dict[tuple[str, ...], tuple[Cone, dict[str, float], tuple[str, ...]]] = {}
    out = []
    for each in asked:
        own = seeds if each.seed is None else range(each.seed, each.seed + len(seeds))
        chosen = Chosen(each.prompt, tuple(own), negative=each.negative)
        files = (*named, *each.cones)
        if files and not none:
            if files not in known:
                known[files] = load_named(files, offline)
            cone, strength, names = known[files]
            chosen = replace(chosen, cone=cone, strength=strength, files=names)
        elif not none:
            shelf = shelf or open_shelf()
            found = shelf.find(each.prompt)
            strength = dict.fromkeys(found.cone.names, 1.0) if found.cone else {}
            chosen = replace(chosen, cone=found.cone, strength=strength, files=tuple(map(str, found.files)))
        if each.strength is not None:
            chosen = replace(chosen, strength=dict.fromkeys(chosen.strength, each.strength))
        out.append(chosen)
    return out, shelf.offers if shelf else ()


def open_shelf() -> Shelf:
    """The concepts on offer here, with a warning for files that cannot be read."""
    from conestool.rendering.library import scan

    shelf = scan()
    for note in shelf.notes:
        _output.warn(note)
    return shelf


def check_named(chosen: Sequence[Chosen], offers: Sequence[Named], literal: bool, required: bool) -> None:
    """Say which prompts name none of the concepts on offer, and what they may mean; PromptError if `required`."""
    from conestool._names import nearest
    from conestool.rendering import rewrite

    say = _output.say if len(chosen) <= MANY else _output.detail
    for each in chosen:
        concepts = each.cone.concepts if each.cone else ()
        if any(concept.name not in unnamed(each, rewrite(each.prompt, concepts, literal)) for concept in concepts):
            continue
        there = concepts or offers
        names = ", ".join(one.name for one in there[:MANY]) + (" and more" if len(there) > MANY else "")
        meant = nearest(each.prompt, there)
        hint = f"did you mean {meant}? " if meant else ""
        known = f"{hint}here are: {names}" if there else "there is no .cone file here or in $CONES_PATH"
        if required:
            raise PromptError(f"{each.prompt!r} names no concept", known)
        if not concepts:
            say(f"note: {each.prompt!r} names no concept; {known}")


def choose_ids(ids: Sequence[str], named: Sequence[str], offline: bool = False) -> tuple[Cone | None, tuple[str, ...]]:
    """The concepts with these exact ids, from the files `named`, or from wherever `render` looks for concepts."""
    if named:
        if any(_options.parse_wanted(text).strength != 1 for text in named):
            raise UsageError("--from: the picture's own strengths hold", "leave out the strength after -c")
        cone, _, files = load_named(named, offline)
        return cone, files
    from conestool.rendering import find_ids

    found = find_ids(ids)
    return found.cone, tuple(map(str, found.files))


def load_named(named: Sequence[str], offline: bool = False) -> tuple[Cone, dict[str, float], tuple[str, ...]]:
    """The files given with -c merged, the strength of each of their concepts, and their names."""
    from conestool import ops

    wanted = [_options.parse_wanted(text) for text in named]
    cones = _streams.load_cones([one.path for one in wanted], offline)
    names = tuple(_streams.shown_name(one.path) for one in wanted)
    return ops.merge(*cones, names=names), _options.strengths(wanted, cones), names


def groups(chosen: Iterable[Chosen], most: int) -> list[Group]:
    """Neighbouring prompts with the same concepts together, at most `most` of them."""
    out: list[Group] = []
    for each in chosen:
        if out and each.key == out[-1].like.key and len(out[-1].prompts) < most:
            out[-1] = replace(out[-1], prompts=(*out[-1].prompts, each.prompt))
        else:
            out.append(Group((each.prompt,), each))
    return out


def tell(chosen: Sequence[Chosen], model: Model, literal: bool) -> None:
    """Say which concepts are applied, the prompt as it is sent, and what of it the text encoder will not read."""
    from conestool.cli._prompts import SUPPORTED, foreign_syntax
    from conestool.models.prompts import truncated_text
    from conestool.rendering import rewrite

    say = _output.say if len(chosen) <= MANY else _output.detail
    foreign = dict.fromkeys(
        found for each in chosen for found in foreign_syntax(f"{each.prompt} {each.negative or ''}")
    )
    for each in chosen:
        sent = rewrite(each.prompt, each.cone.concepts if each.cone else (), literal)
        say(f"{applied_text(each)}: {sent}" if each.cone else f"base model: {sent}")
        for name in unnamed(each, sent):
            say(f"note: {name} is applied, but the prompt does not name it")
        cut = truncated_text(model, sent)
        if cut:
            _output.warn(f"the prompt is too long for the text encoder, which will not read: {cut}")
    if foreign:
        _output.warn(f"{', '.join(foreign)}: syntax of other programs, read as plain text here; {SUPPORTED}")


def applied_text(each: Chosen) -> str:
    """The files and, where it is not 1, the strength of each concept."""
    weaker = [f"{name} {value:g}" for name, value in each.strength.items() if value != 1]
    files = ", ".join(Path(file).name for file in each.files)
    return f"{files} ({', '.join(weaker)})" if weaker else files


def unnamed(each: Chosen, sent: str) -> list[str]:
    """Concepts that are applied although the prompt as sent does not hold their identifier."""
    from conestool._names import has_word

    concepts = each.cone.concepts if each.cone else ()
    return [concept.name for concept in concepts if not has_word(sent, concept.identifier)]
