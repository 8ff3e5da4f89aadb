"""The prompts of an evaluation: templates with `{}` where the subject stands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from conestool._text import check_prompt
from conestool.errors import PromptError
from conestool.search.subject import article
from conestool.search.subject import joined as joined

TEMPLATES = (
    "a photo of a {}",
    "a {} on the beach",
    "a {} in the snow",
    "a {} at night",
    "a {} on a yellow background",
)
_COMMON_NOUNS = ("cat", "car", "house", "tree", "person")
"""What models that name no objects of their own are asked for besides the subject."""


@dataclass(frozen=True)
class Prompt:
    """One prompt: the template, and what stands for the subject in it ("sks dog", or the class noun alone)."""

    template: str
    subject: str

    def __str__(self) -> str:
        """The template with the subject in its place, "a" becoming "an" where that is needed."""
        return self.template.replace("a {}", article(self.subject)).replace("{}", self.subject)

    @property
    def background_text(self) -> str:
        """What the prompt says besides the subject."""
        return self.template.replace("{}", " ")


def check_templates(texts: Iterable[str]) -> tuple[str, ...]:
    """The templates, checked; PromptError if there is none, or one without `{}`."""
    found = tuple(check_prompt(text) for text in texts)
    bad = next((text for text in found if "{}" not in text), None)
    if bad is not None or not found:
        raise PromptError(
            "no prompt" if bad is None else f"prompt {bad!r}: has no {{}} where the subject stands",
            'for example "a {} on the beach"',
        )
    return found


def unrelated_nouns(settings: dict[str, Any], taken: Iterable[str], count: int) -> tuple[str, ...]:
    """`count` nouns that the model knows (by its pocket.json, else common ones) and no subject is."""
    own = settings.get("objects")
    known = [str(noun) for noun in own] if isinstance(own, list) and own else _COMMON_NOUNS
    used = {noun.casefold() for noun in taken}
    return tuple(noun for noun in known if noun.casefold() not in used)[:count]
