"""The text encoder learns to read before it sees pictures, and a training takes it over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.training.test_pocket_train import SHAPE, arguments
from training.pocket import fast, models, text, tokenizer, world
from training.pocket.common import Team, load_state, save_state
from training.pocket.labels import ABSENT, WORLD
from training.pocket.train import build_trainer
from training.pocket.trainer import Trainer


def test_captions_come_with_what_is_true_of_them() -> None:
    words = tokenizer.build()
    ids, truth = text.draw(32, 5, words, rich=1.0)
    assert ids.shape == (32, 64)
    read = text.Reader()(torch.randn(32, 64, models.TEXT_WIDTH))
    assert {name: logits.shape[:-1] for name, logits in read.items()} == {n: t.shape for n, t in truth.items()}
    nouns = [{WORLD.heads["class"][i] for i in row.tolist() if i != ABSENT} - {"top hat"} for row in truth["class"]]
    texts = words.batch_decode(ids, skip_special_tokens=True)
    assert all(noun in caption for caption, row in zip(texts, nouns, strict=True) for noun in row)
    assert truth["taken"].sum() == sum((row != ABSENT).sum() for row in truth["main"])


def test_a_few_steps_teach_it_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same captions again and again, to keep it short; the identifiers stay where they are."""
    monkeypatch.setattr(fast, "compile_module", lambda module: None)
    draw = text.draw
    monkeypatch.setattr(text, "draw", lambda count, seed, words, rich=1.0: draw(count, 1, words, rich))
    monkeypatch.setattr(text, "TELL_EVERY", 1000)
    text.train(tmp_path, minutes=0.25, batch=8, lr=2e-3)
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


def test_an_encoder_that_is_read_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--frozen` looks at the averaged one of a training, writes a line of the log, and changes no weight."""
    monkeypatch.setattr(fast, "compile_module", lambda module: None)
    monkeypatch.setattr(text, "TELL_EVERY", 1)
    trainer = Trainer(arguments(tmp_path), Team(), 1.0)
    save_state(tmp_path / "train.pt", trainer.state())
    before = (tmp_path / "train.pt").read_bytes()
    text.train(tmp_path, minutes=0.02, batch=2, lr=1e-3, frozen=True)
    told = [json.loads(line) for line in (tmp_path / "text.jsonl").read_text().splitlines()]
    assert told and all(line["frozen"] and 0 <= line["class behind the first"] <= 1 for line in told)
    assert (tmp_path / "train.pt").read_bytes() == before and not (tmp_path / "text.pt").exists()


def test_a_training_begins_with_the_encoder_that_can_read(tmp_path: Path) -> None:
    """A running one takes it over when told to, and its optimizers begin anew; else it keeps its own."""
    words = tokenizer.build()
    torch.manual_seed(5)
    encoder = models.build_text_encoder(words)
    save_state(tmp_path / "scale.pt", {"scaling_factor": 1.0})
    save_state(tmp_path / "text.pt", {"model": encoder.state_dict()})
    args = arguments(tmp_path)
    args.new_text = False
    trainer = build_trainer(args, Team())
    assert same(trainer.text, encoder)
    batch = torch.randn(2, *SHAPE), torch.zeros(2, 64, dtype=torch.long)
    trainer.args.frozen_text, before = True, trainer.unet.conv_in.weight.detach().clone()
    frozen = build_trainer(args, Team())
    frozen.step(*batch, None, 1e-3)
    assert same(frozen.text, encoder) and not torch.equal(frozen.unet.conv_in.weight, before)
    args.frozen_text = False
    trainer.step(*batch, None, 1e-3)
    save_state(tmp_path / "train.pt", trainer.state())
    assert same(build_trainer(args, Team()).text, trainer.text) and not same(trainer.text, encoder)
    args.new_text = True
    again = build_trainer(args, Team())
    assert same(again.text, encoder) and same(again.unet, trainer.unet)
    assert (again.steps, again.seen) == (0, trainer.seen)
    assert all(not each.state for each in again.optimizers)
    assert all(torch.equal(a, p) for a, p in zip(again.average, again.parameters, strict=True))


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether all weights are equal."""
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_blocks_are_compiled_where_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Residual and transformer blocks, and nothing where there is none."""
    for compiler in (None, "/usr/bin/g++"):
        monkeypatch.setattr("training.pocket.fast.shutil.which", lambda name, found=compiler: found)
        unet = fast.compile_blocks(models.build_unet())
        kinds = {type(part).__name__ for part in unet.modules() if part._compiled_call_impl is not None}
        assert kinds == ({"BasicTransformerBlock", "ResnetBlock2D"} if compiler else set())
