"""The model card of a repository with .cone files, by the template model_card.md; every text in it is escaped."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path, PurePath

from conestool._text import code, markdown, quoted
from conestool.cli import _format, _output
from conestool.cli._format import FileFacts
from conestool.concept import BaseModelInfo, ConceptInfo

MARK = "<!-- Written by cones push, and anew with every push. Delete this line and it is left alone. -->"
TEMPLATE = Path(__file__).with_name("model_card.md")
PLAIN = re.compile(r"[\w./-]+")
TAGS = ["conestool", "concept-neurons", "text-to-image"]


def card(repository: str, files: Sequence[FileFacts], license: str | None, there: Collection[str] = ()) -> str:
    """README.md for a repository that holds these files; `license` is the Hub's identifier of one.

    Of the names that are `there` the card shows those of pictures of the concepts.
    """
    from huggingface_hub import ModelCard, ModelCardData

    from conestool.hub import is_repository

    concepts = [(one, concept) for one in files for concept in one.concepts]
    bases = sorted({one.base.id for one in files if one.base.revision and is_repository(one.base.id)})
    made = ModelCard.from_template(
        ModelCardData(base_model=bases or None, library_name="conestool", license=license, tags=TAGS),
        template_path=str(TEMPLATE),
        mark=MARK,
        names=", ".join(markdown(concept.name) for _, concept in concepts),
        concepts=concepts,
        commands=usage(repository, files[0]),
        bases={one.base.structure + str(one.base.digests): one.base for one in files}.values(),
        facts=facts,
        changes=_format.changes,
        picture=lambda concept: name if (name := picture_name(concept.id)) in there else None,
        public_base=public_base,
        percent=_output.percent,
        markdown=markdown,
        code=code,
    )
    return str(made)


def picture_name(concept_id: str) -> str:
    """Where a repository has the pictures of a concept."""
    return f"pictures/{concept_id[:16]}.png"


def license_of(text: str) -> str | None:
    """The license that an earlier card names."""
    from huggingface_hub import ModelCard

    named = ModelCard(text, ignore_metadata_errors=True).data.get("license")
    return named if isinstance(named, str) else None


def public_base(base: BaseModelInfo) -> str:
    """The base model's name; of what may be a folder on somebody's machine only the last part."""
    return base.id if base.revision else PurePath(base.id.replace("\\", "/")).name or base.family


def usage(repository: str, first: FileFacts) -> str:
    """The commands that draw the first concept."""
    base = public_base(first.base)
    model = [] if base == "pocket" else ["--model", base if PLAIN.fullmatch(base) else "MODEL"]
    render = quoted("cones", "render", f"a photo of a {first.concepts[0].name}", "-c", first.path, *model)
    return f"{quoted('cones', 'pull', repository, first.path)}\n{render}"


def facts(concept: ConceptInfo) -> list[tuple[str, str | None]]:
    """How one concept was found, and by whom."""
    origin = concept.origin
    return [
        ("prompt of the photos", origin.instance_prompt),
        ("prompt of the class", origin.class_prompt),
        ("found by", _format.found_by(concept)),
        ("author", origin.author),
        ("license", origin.license),
        ("notes", origin.notes),
        ("content id", concept.id),
        *(("warning", text) for text in origin.warnings[: _format.WARNINGS]),
    ]
