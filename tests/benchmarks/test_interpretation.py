"""The arithmetic of the benchmarks for several concepts and for interpretation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.interpretation import chance, nearest, rounded
from benchmarks.multi_subject import sentence
from tests.support.command_line import concept


def test_int8_keeps_a_scale_per_row() -> None:
    """The largest weight of a row is exact, and none is off by more than half a step of 1/127 of it."""
    weight = torch.tensor([[127.0, 0.4, -63.6], [0.011, -0.02, 0.0]])
    near = nearest(weight, "int8")
    assert near[0].tolist() == [127, 0, -64]
    assert near[1].tolist() == pytest.approx([70 * 0.02 / 127, -0.02, 0])
    assert nearest(torch.zeros(2, 3), "int8").tolist() == [[0, 0, 0]] * 2


def test_rounded_weights_come_back() -> None:
    """Inside, every weight fits bfloat16; afterwards each has its former bits, also after an error."""
    layer = torch.nn.Linear(4, 3)
    before = layer.weight.detach().clone()
    with pytest.raises(KeyError), rounded(layer, "bfloat16"):
        assert torch.equal(layer.weight, before.bfloat16().float())
        assert not torch.equal(layer.weight, before)
        raise KeyError
    assert torch.equal(layer.weight, before)


def test_chance_is_the_product_of_the_densities() -> None:
    """10 and 20 of 1,024 weights share 200 / 1,024 by chance; a tensor that one lacks counts nothing."""
    one, other = concept(), concept("hat", "zwx")
    first, second = list(one.base.tensors)[:2]
    a = replace(one, indices={first: np.arange(10, dtype=np.int32), second: np.arange(5, dtype=np.int32)})
    b = replace(other, indices={first: np.arange(20, dtype=np.int32)})
    assert chance(a, b) == pytest.approx(200 / 1024)


def test_sentences_put_the_hat_on_the_first_animal() -> None:
    """As pocket's captions have it."""
    assert sentence(["dog", "hat"]) == "a dog in a hat"
    assert sentence(["dog", "cat"]) == "a dog and a cat"
    assert sentence(["dog", "hat", "cat", "car"]) == "a dog in a hat, a cat and a car"


def test_benchmarks_read_only_what_the_repository_has() -> None:
    """The subjects that are measured by default have folders of photos."""
    from benchmarks.multi_subject import EXAMPLES, SUBJECTS

    assert all((Path(EXAMPLES) / name).is_dir() for name in SUBJECTS)


def test_the_table_of_several_subjects_has_what_is_done() -> None:
    """Losses and those of the class; a cone that came back as it was counts as merged, a missing row as blank."""
    from benchmarks.multi_subject import tables

    losses = {"base_model": 2.0, "alone": 1.0, "merged": 1.5, "random": 2.0, "tuned": 1.2}
    found = {"losses": losses | {f"class_{key}": value for key, value in losses.items()}}
    rows = {"1 tuned": {"value": {"dog": {}}}, "1 reopened": {"value": {"dog": found}}, "1 overlap": {"value": {}}}
    line = "| 1 | dog | -50.0 (-50.0) | -25.0 (-25.0) | -40.0 (-40.0) | -25.0 (-25.0) | +0.0 (+0.0) |"
    assert line in tables(rows, [1], ["dog"])
