"""Text of strangers: prompts that can be used, and texts that a file can hold; tests/hostile attacks the rest."""

from __future__ import annotations

import pytest

from conestool import _text
from conestool.errors import PromptError, UsageError


def test_refuses_an_empty_prompt() -> None:
    """White space is no prompt; around and between words it does not matter."""
    with pytest.raises(PromptError, match="empty") as caught:
        _text.check_prompt(" \n\t")
    assert caught.value.exit_code == 3
    assert _text.check_prompt("  a \n dog ") == "a dog"


def test_a_prompt_has_ten_thousand_characters_at_most() -> None:
    """One more is refused, and so are bytes that the locale could not decode."""
    assert len(_text.check_prompt("x" * 10_000)) == 10_000
    for prompt in ("x" * 10_001, "caf\udce9"):
        with pytest.raises(PromptError):
            _text.check_prompt(prompt)


def test_notes_are_kept_as_they_are_or_refused() -> None:
    """Lines and controls are the writer's own; only what a file cannot hold is refused."""
    assert _text.check_stored("--notes", "a\n\x1b b ") == "a\n\x1b b "
    for notes in ("x" * 100_001, "\udcff"):
        with pytest.raises(UsageError, match="--notes"):
            _text.check_stored("--notes", notes)


def test_long_text_says_how_much_is_missing() -> None:
    """Cut after the characters given, 2,000 unless told."""
    assert _text.clean("abcdef", 2) == "ab... (4 more characters)"
    assert _text.clean("x" * 2_000) == "x" * 2_000


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("a", "a"),
        ("a b", "'a b'"),
        ("it's", "'it'\"'\"'s'"),
        ("a\x1b'\\", "$'a\\033\\'\\\\'"),
        ("é\udcff", "$'é\\377'"),
    ],
)
def test_quoting(word: str, shown: str) -> None:
    """As shlex does it, or with octal escapes where a terminal would act on the word."""
    assert _text.quoted(word) == shown


def test_a_name_is_cut_in_bytes_between_characters() -> None:
    """猫 takes three bytes: two of them fit into eight."""
    assert _text.cut_bytes("猫猫猫", 8) == "猫猫"
