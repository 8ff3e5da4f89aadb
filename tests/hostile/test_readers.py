"""A short campaign against both readers; the long one is benchmarks/reliability/fuzz.py."""

from __future__ import annotations

import functools
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings

from tests.hostile import strategies
from tests.hostile.compare_readers import judge
from tests.hostile.mutants import WAYS
from tests.hostile.source import Source

MUTANTS = 1000
SWEPT = 97
"""One in so many files of the sweeps (a prime number, so that every kind of place is met)."""
SECONDS = 1.0


@functools.lru_cache
def source() -> Source:
    """The numbered mutants of this test."""
    return Source("tests")


def test_readers_agree_on_swept_files() -> None:
    """On some of the files with every byte, bit, length, field and value attacked in turn."""
    numbers = range(0, len(source().swept), SWEPT)
    faults = [(number, verdict.fault) for number in numbers if (verdict := judge(source().mutant(number)[1])).fault]
    assert not faults


def test_readers_agree_on_mutants() -> None:
    """Agreement, documented errors alone, no long wait, and nothing lost in rewriting; every way and most rules met."""
    first = len(source().swept)
    kinds, rules = Counter[str](), Counter[int]()
    for number in range(first, first + MUTANTS):
        kind, data = source().mutant(number)
        verdict = judge(data)
        assert not verdict.fault, (number, kind, verdict)
        assert verdict.seconds < SECONDS, (number, kind, verdict)
        kinds[kind] += 1
        rules[verdict.rule] += 1
    assert kinds.keys() == {way.__name__ for way in WAYS}
    assert rules[0] > MUTANTS / 10
    assert len(rules) > 35 * 2 / 3, rules


@pytest.mark.parametrize("strategy", [strategies.mutants, strategies.odd_headers])
def test_readers_agree_on_what_hypothesis_finds(strategy: object) -> None:
    """The same for files that Hypothesis makes, and makes smaller."""

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(strategy())  # type: ignore[operator]
    def agree(data: bytes) -> None:
        assert not judge(data).fault

    agree()


def test_a_mutant_is_made_again_from_its_number() -> None:
    """Whatever was made before it."""
    number = len(source().swept) + 4321
    assert Source("tests").mutant(number) == source().mutant(number)
    assert Source("other").mutant(number) != source().mutant(number)
