"""Prompts: conditioning as the pipeline makes it, what is cut, and which words can be identifiers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conestool.errors import UsageError
from conestool.models.conditioning import Conditioning
from conestool.models.model import Model
from conestool.models.prompts import choose_identifier, encode, identifiers, is_one_token, truncated_text


def test_encodes_as_the_pipeline_does(model: Model) -> None:
    """Equal to diffusers' own encode_prompt, row by row, in one batch or several."""
    prompts = ["a photo of a sks dog", "", "a red hat on the beach"]
    expected, _ = model.pipe.encode_prompt(prompts, "cpu", 1, False)
    torch.testing.assert_close(encode(model, prompts).prompt_embeds, expected)
    torch.testing.assert_close(encode(model, prompts, batch=2).prompt_embeds, expected, rtol=1e-4, atol=1e-5)


def test_conditioning_rows_can_be_taken_and_repeated() -> None:
    """Indexing, expanding and joining act on the embeddings and on everything beside them."""
    cond = Conditioning(torch.arange(6.0).view(3, 2, 1), {"pooled": torch.arange(3.0).view(3, 1)})
    picked = cond[[2, 0]]
    assert picked.added_cond_kwargs["pooled"].flatten().tolist() == [2, 0] and len(picked) == 2
    assert cond[1:2].expand(4).prompt_embeds.shape == (4, 2, 1)
    joined = Conditioning.cat([picked, cond])
    assert joined.added_cond_kwargs["pooled"].flatten().tolist() == [2, 0, 0, 1, 2]


def test_tells_exactly_what_is_cut(model: Model, recwarn: pytest.WarningsRecorder) -> None:
    """22 words fit; the rest is reported as typed, with its capitals, and without a warning."""
    fits = " ".join(["dog"] * 22)
    assert truncated_text(model, fits) == ""
    assert truncated_text(model, fits + " in a Red Hat") == "in a Red Hat"
    assert truncated_text(model, " ".join(["dog"] * 20) + " zebra") == "bra"
    truncated_text(model, "dog " * 100)
    assert not recwarn.list


def test_identifiers_are_rare_single_tokens(model: Model) -> None:
    """Words of the vocabulary without meaning, each a single known token; what pocket.json lists goes before."""
    words = identifiers(model)
    assert "sks" in words and not {"dog", "the", "a"} & set(words)
    assert all(is_one_token(model, word) for word in words)
    assert not is_one_token(model, "zebra")
    assert identifiers(replace(model, settings={"identifiers": ["vlk", "brz"]})) == ["vlk", "brz"]


def test_identifier_depends_on_the_name_alone(model: Model) -> None:
    """The same name gives the same one, many names spread over all; one that holds all of them leaves none."""
    first = choose_identifier(model, "My-Dog")
    assert first == choose_identifier(model, "my-dog")
    assert {choose_identifier(model, f"name {number}") for number in range(200)} == set(identifiers(model))
    with pytest.raises(UsageError, match="no rare word left"):
        choose_identifier(replace(model, settings={"identifiers": ["dog"]}), "dog")
