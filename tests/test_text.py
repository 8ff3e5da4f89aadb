"""Text of strangers: prompts that can be used, and texts that a file can hold; tests/hostile attacks the rest."""

from __future__ import annotations

import pytest

from conestool import _text
from conestool.errors import PromptError, UsageError


def test_a_prompt_has_one_to_ten_thousand_characters() -> None:
    """White space is no prompt, and around and between words it does not matter; undecoded bytes are none either."""
    assert _text.check_prompt("  a \n dog ") == "a dog"
    assert len(_text.check_prompt("x" * 10_000)) == 10_000
    for prompt in (" \n\t", "x" * 10_001, "caf\udce9"):
        with pytest.raises(PromptError) as caught:
            _text.check_prompt(prompt)
        assert caught.value.exit_code == 3


def test_notes_are_kept_as_they_are_or_refused() -> None:
    """Lines and controls are the writer's own; only what a file cannot hold is refused."""
    assert _text.check_stored("--notes", "a\n\x1b b ") == "a\n\x1b b "
    for notes in ("x" * 100_001, "\udcff"):
        with pytest.raises(UsageError, match="--notes"):
            _text.check_stored("--notes", notes)


def test_clean_text_is_one_line_that_says_how_much_is_missing() -> None:
    """What a terminal would act on is gone, line breaks are spaces, and it is cut after 2,000 unless told."""
    assert _text.clean("Käse\n猫\tx") == "Käse 猫 x"
    assert _text.clean("a\x1b[31mb\x07\x9b1mc\u202ed\u200be\udc80f") == "a[31mb1mcdef"
    assert _text.clean("abcdef", 2) == "ab... (4 more characters)"
    assert _text.clean("x" * 2_000) == "x" * 2_000
    assert _text.cut_bytes("猫猫猫", 8) == "猫猫"


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
