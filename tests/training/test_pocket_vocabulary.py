"""Pocket's committed vocabulary has every word of the world as one token."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from training.pocket import captions, tokenizer, world


def test_every_word_of_the_domain_is_one_token() -> None:
    """Nouns, colours, places and identifiers are one token each, so that none is spelled in letters."""
    words = tokenizer.build()
    assert [w for w in captions.vocabulary() if len(words.tokenize(w)) != 1] == []


def test_identifiers_have_ids_of_their_own() -> None:
    """No two identifiers share a token, and none is an ordinary word."""
    vocabulary = tokenizer.build().get_vocab()
    ids = {vocabulary[word + "</w>"] for word in world.IDENTIFIERS}
    assert len(ids) == len(world.IDENTIFIERS)
    assert not set(world.IDENTIFIERS) & (set(captions.vocabulary()) - set(world.IDENTIFIERS))
