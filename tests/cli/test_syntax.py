"""Signs that mean something to other programs are found, and plain prompts have none."""

from __future__ import annotations

import pytest

from conestool.cli._prompts import foreign_syntax


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a (dog:1.2) in a hat", ["(dog:1.2)"]),
        ("a dog <lora:rex:0.8>, <hypernet:x:1>", ["<lora:rex:0.8>", "<hypernet:x:1>"]),
        ("a dog BREAK a hat AND a cat", ["BREAK", "AND"]),
        ("a [dog|cat] in [a hat:a cap:0.5]", ["[dog|cat]", "[a hat:a cap:0.5]"]),
        ("a ((red)) [[dog]]", ["((red))", "[[dog]]"]),
        ("a dog++ and a hat-- and a (red cap)++", ["dog++", "hat--", "(red cap)++"]),
        ("a {dog|cat}, __colour__, embedding:bad", ["{dog|cat}", "__colour__", "embedding:bad"]),
        ("a dog (a small one), [sic], at 3:15 and a break", []),
        ("C++20 {x} a-dog -- asleep: well-known <3 a_b", []),
    ],
)
def test_finds_what_other_programs_would_act_on(prompt: str, found: list[str]) -> None:
    """In order, each as typed."""
    assert foreign_syntax(prompt) == found
