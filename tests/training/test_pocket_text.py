"""The text encoder learns to read before it sees pictures, and a training takes it over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.pocket import models, text, tokenizer, world
from training.pocket.common import load_state
from training.pocket.judge import WORLD


def test_captions_come_with_what_is_true_of_them() -> None:
    words = tokenizer.build()
    ids, truth = text.draw(32, 5, words, rich=1.0)
    assert ids.shape == (32, 64)
    read = text.Reader()(torch.randn(32, 64, models.TEXT_WIDTH))
    assert {name: logits.shape[:-1] for name, logits in read.items()} == {n: t.shape for n, t in truth.items()}
    nouns = [
        {WORLD.heads["class"][i] for i in row.tolist() if i != text.ABSENT} - {"top hat"} for row in truth["class"]
    ]
    texts = words.batch_decode(ids, skip_special_tokens=True)
    assert all(noun in caption for caption, row in zip(texts, nouns, strict=True) for noun in row)
    assert truth["taken"].sum() == sum((row != text.ABSENT).sum() for row in truth["main"])


def test_a_few_steps_teach_it_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same captions again and again, to keep it short; the identifiers stay where they are."""
    monkeypatch.setattr(text.fast, "compile_module", lambda module: None)
    draw = text.draw
    monkeypatch.setattr(text, "draw", lambda count, seed, words, rich=1.0: draw(count, 1, words, rich))
    monkeypatch.setattr(text, "TELL_EVERY", 1000)
    text.train(tmp_path, minutes=0.1, batch=8, lr=2e-3)
    state = load_state(tmp_path / "text.pt")
    assert state is not None and state["steps"] > 5
    words = tokenizer.build()
    encoder, reader = models.build_text_encoder(words), text.Reader()
    ids, truth = draw(8, 1, words, 1.0)
    before = text.loss_of(reader(encoder(ids).last_hidden_state), truth)
    encoder.load_state_dict(state["model"])
    reader.load_state_dict(state["reader"])
    after = text.loss_of(reader(encoder(ids).last_hidden_state), truth)
    assert after < 0.8 * before
    ended = encoder.get_input_embeddings().weight[models.identifier_rows(words)].detach()
    unit = torch.nn.functional.normalize(ended, dim=1)
    assert torch.allclose(unit @ unit.T, torch.eye(len(world.IDENTIFIERS)), atol=1e-4)
