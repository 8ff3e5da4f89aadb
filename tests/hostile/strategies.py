"""Hypothesis strategies for .cone files: valid ones, mutants, and ones with any value anywhere in the header."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from tests.hostile.attacks import places
from tests.hostile.mutants import mutate
from tests.hostile.systematic import FILES
from tests.hostile.values import KEYS, VALUES
from tests.hostile.writer import random_file
from tests.support.forging import join, mend, parts

NUMBERS = st.integers(-(2**63), 2**64 - 1)


def texts() -> st.SearchStrategy[str]:
    """Any text but surrogates, control characters and marks included."""
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=70)


def values() -> st.SearchStrategy[Any]:
    """Anything that msgpack can hold: edges of the rules, or arrays and maps of any values, not all of them allowed."""
    leaves = st.one_of(st.none(), st.booleans(), NUMBERS, st.floats(), texts(), st.binary(max_size=40))
    trees = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(KEYS) | texts(), inner, max_size=6),
        max_leaves=20,
    )
    return st.sampled_from(VALUES) | trees


def files() -> st.SearchStrategy[bytes]:
    """A vector or a random file, valid."""
    return st.sampled_from(FILES) | st.randoms(use_true_random=False).map(lambda rng: random_file(rng)[0])


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A valid file changed in one way."""
    return mutate(draw(files()), draw(st.randoms(use_true_random=False)))[1]


@st.composite
def odd_headers(draw: st.DrawFn) -> bytes:
    """A valid file with one to three values of its header set to anything, or with anything under new keys."""
    data = draw(files())
    header, sections = parts(data)
    for _ in range(draw(st.integers(1, 3))):
        place, key = draw(st.sampled_from(list(places(header))))
        if isinstance(place, dict) and draw(st.booleans()):
            key = draw(st.sampled_from(KEYS) | texts())
        place[key] = deepcopy(draw(values()))  # what is sampled is shared, and a later round may change it
    return mend(join(header, sections, data))
