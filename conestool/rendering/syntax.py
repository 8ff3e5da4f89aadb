"""What other programs mean by signs in a prompt, found so that it can be said that nothing here does."""

from __future__ import annotations

import re

SUPPORTED = "a concept is made weaker with -c F:0.5, and nothing else in a prompt has a weight"
PATTERNS = (
    r"<\w+:[^<>]*>",  # <lora:name:1>, <hypernet:name:1>
    r"\([^()\[\]]*:\s*[\d.]+\s*\)",  # (word:1.2)
    r"\(\([^()]*\)\)|\[\[[^\[\]]*\]\]",  # ((word)), [[word]]
    r"\([^()]*\)[+-]+|\b\w+(?:\+\+|--)(?!\S)|\([^()]*\)\d\.\d+",  # (word)++, word--, (word)1.2
    r"\[[^\[\]]*[|:][^\[\]]*\]",  # [a|b], [a:b:0.5]
    r"\{[^{}]*\|[^{}]*\}",  # {a|b}
    r"__[\w/-]+__",  # __wildcard__
    r"\b(?:BREAK|AND)\b",
    r"\bembedding:[\w.-]+",
)
FOREIGN = re.compile("|".join(PATTERNS))


def foreign_syntax(prompt: str) -> list[str]:
    """The parts of a prompt that are weights, alternatives, networks or separators to A1111, ComfyUI or InvokeAI."""
    return [match.group() for match in FOREIGN.finditer(prompt)]
