"""Text that a stranger may have written, made safe for whatever reads it: a terminal, JSON, Markdown, a shell.

Every text for people goes through `clean`, every suggested command line through `quoted`.
"""

from __future__ import annotations

import re
import shlex
import unicodedata

from conestool.errors import PromptError, UsageError

PROMPT = 10_000
"""Characters of a prompt; text encoders read some 75 words of it."""
STORED = 100_000
"""Characters of notes in a .cone file, so that they fit its header."""
NAME_LENGTH = 64
"""Characters of a concept's name, class noun or identifier."""

_CONTROL = r"\x00-\x1f\x7f-\x9f\ud800-\udfff"
_SPACE = r" \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_UNSEEN = r"\xad\u061c\u180e\u2000-\u206f\ufeff\ufff0-\uffff\U000e0000-\U000e0fff"
"""Code points that are written out rather than asked of Unicode's tables, so that every Python reads the same files:
controls, white space, and blocks of punctuation, formats and tags that cannot be seen."""
_WORD = rf"[^\x00-/:-@\[-`{{-\x7f{_CONTROL}{_SPACE}{_UNSEEN}]+"
_NAME = re.compile(rf"{_WORD}(?:[ _.'-]{_WORD})*")
_WORDS = re.compile(rf"(?![{_SPACE}])[^{_CONTROL}]+(?<![{_SPACE}])")

LONGEST = 2000
"""Characters of one text that are shown to people."""
ACTED_ON = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Controls and escapes, formatting (bidirectional, zero-width), undecodable bytes, line and paragraph separators."""
BREAKS = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029")
PLAIN = re.compile(r"[\w .'-]*")
MARKUP = re.compile(r"([\\`*_\[\]!|~])")
ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def hidden(text: str) -> set[str]:
    """The characters in `text` that a terminal would act on or not show."""
    return {char for char in set(text) if unicodedata.category(char) in ACTED_ON}


def clean(text: object, most: int = LONGEST) -> str:
    """`text` on one line, cut after `most` characters, without those that a terminal would act on or not show."""
    whole = str(text)
    kept = whole[:most]
    kept = kept.translate({ord(char): " " if char in BREAKS else None for char in hidden(kept)})
    return f"{kept}... ({len(whole) - most:,} more characters)" if len(whole) > most else kept


def cut_bytes(text: str, most: int) -> str:
    """The beginning of `text` that takes `most` bytes in UTF-8, as file systems count a name."""
    return text.encode("utf-8", "ignore")[:most].decode("utf-8", "ignore")


def escape_json(text: str) -> str:
    """A JSON document with the characters escaped that JSON may hold as they are, but that a terminal would act on."""
    return text.translate({ord(char): json_escape(char) for char in hidden(text) - {"\n"}})


def json_escape(char: str) -> str:
    """`char` as JSON's \\uXXXX, two of them beyond the first 65,536 characters."""
    data = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[at : at + 2].hex()}" for at in range(0, len(data), 2))


def markdown(text: object) -> str:
    """`text` inside a line of Markdown that shows it as it is, without markup, HTML or the end of a table's cell."""
    return MARKUP.sub(r"\\\1", clean(text).translate(ENTITIES))


def code(text: object) -> str:
    """`text` as a code span, or as `markdown` where a span could not hold it."""
    kept = clean(text)
    return f"`{kept}`" if PLAIN.fullmatch(kept) and kept.strip() else markdown(kept)


def quoted(*words: object) -> str:
    """`words` as a command line for a shell; `$'\\033'` (as in bash, zsh, ksh) for what a terminal would act on."""
    return " ".join(quote(str(word)) for word in words)


def quote(word: str) -> str:
    """One word for a shell."""
    risky = hidden(word)
    if not risky:
        return shlex.quote(word)
    return "$'" + "".join(octal(char) if char in risky else escape(char) for char in word) + "'"


def octal(char: str) -> str:
    """The bytes of a character, three octal digits each."""
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape"))


def escape(char: str) -> str:
    """A character inside `$'...'`."""
    return f"\\{char}" if char in "\\'" else char


def one_line(what: str, text: str) -> str:
    """`text` with surrounding and repeated white space removed; PromptError as `check_length`."""
    check_length(what, text)
    return " ".join(text.split())


def check_length(what: str, text: str) -> None:
    """PromptError if `text` is longer than a prompt may be, or is not decoded."""
    if len(text) > PROMPT:
        raise PromptError(f"the {what} has {len(text):,} characters, expected at most {PROMPT:,}", "shorten it")
    if not decoded(text):
        raise PromptError(
            f"the {what} is not text: {clean(text, 80)!r}", "give it in the encoding of the locale, UTF-8"
        )


def check_prompt(prompt: str) -> str:
    """The prompt on one line; PromptError if nothing is left, or as `one_line`."""
    words = one_line("prompt", prompt)
    if not words:
        raise PromptError("the prompt is empty", 'say what to draw, for example "a dog in a hat"')
    return words


def check_stored(what: str, text: str) -> str:
    """`text` as it is; UsageError if a .cone file cannot hold it."""
    if len(text) > STORED:
        raise UsageError(f"{what}: {len(text):,} characters, expected at most {STORED:,}", "shorten it")
    if not decoded(text):
        raise UsageError(f"{what}: not text: {clean(text, 80)!r}", "give it in the encoding of the locale, UTF-8")
    return text


def check_name(name: str) -> None:
    """Refuse a name that could not stand in a prompt or a file name: words of letters and digits, 64 characters.

    As the format has it: letters and digits are those of ASCII, and most of what lies beyond it.
    """
    if len(name) > NAME_LENGTH or not _NAME.fullmatch(name):
        raise UsageError(
            f"concept name {name[:80]!r} is not usable", "use letters and digits, joined by - _ . ' or a space"
        )


def check_words(what: str, words: str) -> None:
    """Refuse a class noun or identifier that is empty, longer than 64 characters, padded, or has control characters."""
    if len(words) > NAME_LENGTH or not _WORDS.fullmatch(words):
        raise UsageError(f"{what} {words[:80]!r} is not usable", f"use a word or two, at most {NAME_LENGTH} characters")


def fold_ascii(text: str) -> str:
    """`text` with A to Z as a to z and nothing else changed, which no version of Unicode can change."""
    return text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def clusters(text: str) -> list[str]:
    """`text` in pieces that Unicode's forms and cases change one by one: a character and the marks on it."""
    out: list[str] = []
    for char in text:
        if out and unicodedata.category(char)[0] == "M":
            out[-1] += char
        else:
            out.append(char)
    return out


def fold(text: str) -> str:
    """What texts share that differ in case, in Unicode form or in the kind of apostrophe: Fußball and FUSSBALL."""
    parts = (unicodedata.normalize("NFD", part).casefold() for part in clusters(unicodedata.normalize("NFC", text)))
    return "".join(unicodedata.normalize("NFC", part) for part in parts).replace("’", "'")


def decoded(text: str) -> bool:
    """Whether all of `text` is characters, with no bytes among them that the locale could not decode."""
    return not any(unicodedata.category(char) == "Cs" for char in hidden(text))
