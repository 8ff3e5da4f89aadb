"""The model card of a repository with .cone files, from their headers alone; every text in it is escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

from conestool.cli import _facts, _report, _show
from conestool.cli._facts import ConceptFacts, FileFacts
from conestool.records import BaseInfo
from conestool.text import code, markdown, quoted

__all__ = ["MARK", "card", "licence_of", "public_base"]

MARK = "<!-- Written by cones push, and anew with every push. Delete this line and it is left alone. -->"
PLAIN = re.compile(r"[\w./-]+")
TAGS = ["conestool", "concept-neurons", "text-to-image"]
WHAT = """\
Concept neurons of the subjects below: positions of attention weights that draw a subject when they are set to zero. The
files hold these positions and how they were found, no weight of any model; each works with its base model alone."""


def card(repository: str, files: Sequence[FileFacts], licence: str | None) -> str:
    """README.md for a repository that holds these files; `licence` is the Hub's identifier of one."""
    names = [concept.name for one in files for concept in one.concepts]
    parts = [
        f"{front_matter(files, licence)}\n{MARK}",
        f"# Concept neurons: {', '.join(map(markdown, names))}",
        WHAT,
        concept_table(files),
        usage(repository, files),
        *(section(concept, one) for one in files for concept in one.concepts),
        base_section(files),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(files: Sequence[FileFacts], licence: str | None) -> str:
    """The YAML at the top, by which the Hub sorts and links."""
    from huggingface_hub import ModelCardData

    from conestool.hub import is_repository

    bases = sorted({one.base.id for one in files if one.base.revision and is_repository(one.base.id)})
    data = ModelCardData(base_model=bases or None, library_name="conestool", license=licence, tags=TAGS)
    return f"---\n{data.to_yaml()}\n---"


def licence_of(text: str) -> str | None:
    """The licence that an earlier card names."""
    from huggingface_hub import ModelCard

    named = ModelCard(text, ignore_metadata_errors=True).data.get("license")
    return named if isinstance(named, str) else None


def public_base(base: BaseInfo) -> str:
    """The base model's name; of what may be a folder on somebody's machine only the last part."""
    return base.id if base.revision else PurePath(base.id.replace("\\", "/")).name or base.family


def rows(*cells: Sequence[str]) -> str:
    """A table; its first row is the head."""
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])


def concept_table(files: Sequence[FileFacts]) -> str:
    """One line per concept."""
    head = ["file", "concept", "in a prompt", "what it is", "neurons", "of the K/V weights"]
    found = [(one, concept) for one in files for concept in one.concepts]
    return rows(head, *([code(one.path), *concept_cells(concept, one.base)] for one, concept in found))


def concept_cells(concept: ConceptFacts, base: BaseInfo) -> list[str]:
    """Name, words in a prompt, class noun, number and density."""
    phrase = f"{concept.identifier} {concept.class_noun}"
    density = _show.percent(concept.neurons / max(1, base.weights()))
    return [markdown(concept.name), code(phrase), markdown(concept.class_noun), f"{concept.neurons:,}", density]


def usage(repository: str, files: Sequence[FileFacts]) -> str:
    """The commands that draw the first concept."""
    first, name = files[0], files[0].concepts[0].name
    base = public_base(first.base)
    model = [] if base == "pocket" else ["--model", base if PLAIN.fullmatch(base) else "MODEL"]
    lines = [
        quoted("cones", "pull", repository, first.path),
        quoted("cones", "render", f"a photo of a {name}", "-c", first.path, *model),
    ]
    return "\n".join(["```sh", *lines, "```"])


def section(concept: ConceptFacts, one: FileFacts) -> str:
    """How one concept was found, and what that did to the losses beside the controls."""
    origin = concept.origin
    told = {
        "prompt of the photos": origin.instance_prompt,
        "prompt of the class": origin.class_prompt,
        "found by": _report.found_by(concept),
        "author": origin.author,
        "licence": origin.licence,
        "notes": origin.notes,
        "content id": concept.id,
    }
    lines = [f"- {key}: {markdown(value)}" for key, value in told.items() if value]
    lines += [f"- warning: {markdown(text)}" for text in origin.warnings[: _report.WARNINGS]]
    parts = [f"## {markdown(concept.name)}", "\n".join(lines), *loss_table(concept)]
    return "\n\n".join(parts)


def loss_table(concept: ConceptFacts) -> list[str]:
    """The measured losses with their controls; nothing where none were measured."""
    losses = concept.origin.losses
    changes = _facts.changes(losses, concept.class_noun, concept.origin.held_out) if losses else []
    if not changes:
        return []
    cells = [
        [
            markdown(what),
            f"{before:.4f}",
            f"{after:.4f}",
            _show.percent(after / before - 1, signed=True) if before else "",
        ]
        for what, before, after in changes
    ]
    return [rows(["loss on", "before", "after", "change"], *cells)]


def base_section(files: Sequence[FileFacts]) -> str:
    """The base models by name and digests: a concept is refused on any other."""
    parts = ["## Base model"]
    for base in {one.base.structure + str(one.base.digests): one.base for one in files}.values():
        revision = [["revision", code(base.revision)]] if base.revision else []
        kind = [["family", markdown(f"{base.family}, {base.dtype}")], ["K/V weights", f"{base.weights():,}"]]
        digests = [[f"sha256, {markdown(rung)}", f"`{digest}`"] for rung, digest in base.digests.items()]
        parts.append(rows(["name", markdown(public_base(base))], *revision, *kind, *digests))
    return "\n\n".join(parts)
