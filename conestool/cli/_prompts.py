"""Prompts as they are typed: on the command line, in a file or on stdin, each with what its line says besides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conestool._text import check_prompt
from conestool.cli import _streams
from conestool.cli._options import MAX_SEED
from conestool.errors import ConesError, PromptError, UsageError

OPTION = re.compile(r"(?:^|\s)--(?=\w)([\w-]+)(?:=|\s+|$)")
COMMENT = "#"
REMEDIES = {".cone": "-c", ".png": "--from"}
"""Options for a file of this suffix that was named where a prompt was expected."""


@dataclass(frozen=True)
class Asked:
    """One prompt, and what holds for it alone."""

    prompt: str
    seed: int | None = None
    negative: str | None = None
    strength: float | None = None
    cones: tuple[str, ...] = ()


def read_prompts(texts: Sequence[str], file: str | None = None) -> list[Asked]:
    """The prompts of the command line, `-` replaced by the lines of stdin, and those of `file`.

    PromptError if there is none, or one that cannot be used; UsageError for the name of a file in place of a prompt.
    """
    asked: list[Asked] = []
    for text in texts:
        if text == _streams.STDIO:
            asked += parse_lines(text)
        else:
            refuse_file(text)
            asked.append(Asked(check_prompt(text)))
    if file is not None:
        asked += parse_lines(file)
    if not asked:
        raise PromptError("no prompt", 'for example "a dog in a hat"')
    return asked


def read_lines(file: str) -> list[tuple[int, str]]:
    """The lines of a file of prompts, or of stdin for "-", by number; empty ones and those with # do not count."""
    what = "prompts, one a line"
    if file == _streams.STDIO:
        lines = _streams.decode_lines("stdin", _streams.read_bytes(what), what)
    else:
        try:
            with Path(file).open("rb") as stream:
                lines = _streams.decode_lines(file, stream.read(_streams.MOST + 1), what)
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror}", "give a file with a prompt on each line") from error
    return [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith(COMMENT)]


def refuse_file(text: str) -> None:
    """Raise UsageError for the name of a file in place of a prompt: nobody wants a picture of "prompts.txt"."""
    for name in (text, text.removeprefix("@")):
        path = Path(name)
        if (path.suffix or name != text) and is_file(path):
            option = REMEDIES.get(path.suffix.lower(), "--prompts")
            raise UsageError(f"{text}: a file, expected a prompt", f"use {option} {name}")


def is_file(path: Path) -> bool:
    """Whether there is such a file; no prompt is too long or too strange to ask for."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def parse_lines(file: str) -> list[Asked]:
    """The prompts in a file or on stdin, with their options."""
    asked = []
    for number, line in read_lines(file):
        try:
            asked.append(parse_line(line))
        except ConesError as error:
            source = "stdin" if file == _streams.STDIO else file
            raise PromptError(f"{source}: line {number}: {error}", error.hint) from error
    return asked


def parse_line(line: str) -> Asked:
    """A prompt and its options: `a dog in a hat --seed 5 --negative grass, mud --strength 0.5 --cone dog.cone`."""
    prompt, *rest = OPTION.split(line)
    given: dict[str, str] = {}
    cones = []
    for name, value in zip(rest[::2], rest[1::2], strict=True):
        if name not in ("seed", "negative", "strength", "cone"):
            raise PromptError(f"--{name} is no option of a prompt", "these are: --seed, --negative, --strength, --cone")
        if name in given:
            raise PromptError(f"--{name} is there twice", "leave one of them out")
        if name == "cone":
            cones.append(unquoted(value))
        else:
            given[name] = unquoted(value)
    seed, strength = given.get("seed"), given.get("strength")
    return Asked(
        check_prompt(unquoted(prompt)),
        None if seed is None else parse_seed(seed),
        given.get("negative"),
        None if strength is None else parse_strength(strength),
        tuple(cones),
    )


def unquoted(text: str) -> str:
    """A value without the quotes around it."""
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def parse_seed(text: str) -> int:
    """A seed, 0 to 2^63 - 1."""
    if not (text.isdecimal() and len(text) < 20 and int(text) <= MAX_SEED):
        raise PromptError(f"--seed {text}: expected a whole number from 0 to {MAX_SEED}")
    return int(text)


def parse_strength(text: str) -> float:
    """A strength, 0 to 1."""
    try:
        strength = float(text)
    except ValueError:
        strength = -1.0
    if not 0 <= strength <= 1:
        raise PromptError(f"--strength {text}: expected a number from 0 to 1")
    return strength


SUPPORTED = "a concept is made weaker with -c F:0.5, and nothing else in a prompt has a weight"
_FOREIGN_PATTERNS = (
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
_FOREIGN = re.compile("|".join(_FOREIGN_PATTERNS))


def foreign_syntax(prompt: str) -> list[str]:
    """The parts of a prompt that are weights, alternatives, networks or separators to A1111, ComfyUI or InvokeAI."""
    return [match.group() for match in _FOREIGN.finditer(prompt)]
