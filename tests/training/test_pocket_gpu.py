"""Training on a GPU, rehearsed on the CPU: scenes from tensors alone, pieces that travel, the whole command."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from training.pocket import autoencoder, backgrounds, captions, descriptions, drawings, gpu, pieces, scenes, world
from training.pocket.common import load_state, save_state
from training.pocket.composer import Composer
from training.pocket.drawings import Drawing
from training.pocket.pool import tokenize
from training.pocket.sprites import SpriteBank, rasterise_all
from training.pocket.tokenizer import build as build_tokenizer
from training.pocket.world import Scene

DRAWN = scenes.sample_scenes(24, 8)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpriteBank]:
    """A bank of only the drawings that the scenes of this file need, in a world of only these scenes."""
    things = {part for scene in DRAWN for thing in scene.things for part in (thing, *thing.worn())}
    needed = sorted({Drawing.of(thing) for thing in things}, key=str)
    path = tmp_path_factory.mktemp("sprites") / "sprites.npy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawings, "all_drawings", lambda: needed)
        patch.setattr(world, "sample_scene", lambda rng: rng.choice(DRAWN))
        rasterise_all(path, 1)
        yield SpriteBank(path)


def describe(drawn: list[Scene], seed: int) -> descriptions.Description:
    return descriptions.Descriptions(len(drawn), 0).describe(drawn, random.Random(seed))


def test_scenes_from_tensors_are_those_that_compose_paints(bank: SpriteBank) -> None:
    """Every pixel within a thousandth, of scenes with one to four things, worn things and many backgrounds."""
    kinds = {scene.background for scene in DRAWN}
    assert {len(scene.things) for scene in DRAWN} == {1, 2, 3, 4}
    assert len(kinds & set(backgrounds.KINDS)) > 4
    assert kinds & set(world.COLOURS)
    wanted = scenes.compose(DRAWN, bank, 5)
    painted = Composer(bank).compose(describe(DRAWN, 5), torch.Generator().manual_seed(5))
    assert painted.shape == wanted.shape
    assert (painted - wanted).abs().max() < 1e-3


def test_words_are_the_tokens_of_the_tokenizer(bank: SpriteBank) -> None:
    """Captions looked up word by word have the ids that the tokenizer gives."""
    rng = random.Random(6)
    texts = [captions.caption(scene, rng) for scene in DRAWN for _ in range(4)]
    assert torch.equal(descriptions.Words()(texts), tokenize(build_tokenizer(), texts))


def test_workers_draw_scenes_of_their_own(bank: SpriteBank) -> None:
    """Two processes give batches that differ; every row of a batch has one background."""
    loader = descriptions.load(8, 1, 2, pin=False)
    first, second = next(loader), next(loader)
    assert not torch.equal(first.place, second.place)
    assert sorted(first.background_rows.tolist()) == list(range(8))
    assert int(first.background_counts.sum()) == 8


def small_state() -> dict[str, Any]:
    """What ``train.pt`` holds of a small model after some steps of AdamW and Muon."""
    from training.pocket.optimizer import Muon

    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Conv2d(5, 7, 3), torch.nn.Linear(20, 30))
    chosen = [p for p in model.parameters() if p.ndim > 1]
    optimizers = [Muon(chosen, lr=1e-3), torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99))]
    for _ in range(30):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter) * torch.rand(parameter.shape[0]).view(
                -1, *[1] * (parameter.ndim - 1)
            )
        for each in optimizers:
            each.step()
    average = [p.detach().clone() for p in model.parameters()]
    stored = [each.state_dict() for each in optimizers]
    return {
        "model": model.state_dict(),
        "optimizers": stored,
        "average": average,
        "seen": 90,
        "steps": 30,
        "scale": 1.5,
    }


def test_pieces_give_back_what_they_were_made_from(tmp_path: Path) -> None:
    """Averages to fp16, first moments to a byte, second moments bounded; counters and groups exactly."""
    state = small_state()
    pieces.write(tmp_path / "pieces", pieces.pack(state, {"encoder.w": torch.ones(2)}, 1.5), tmp_path)
    (tmp_path / ".pieces.new").mkdir()
    (tmp_path / ".pieces.new" / "piece-0.bin").write_bytes(b"of a run that was cut")
    pieces.write(tmp_path / "pieces", pieces.pack(state, {"encoder.w": torch.ones(2)}, 1.5), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pieces"], "nothing else is left"
    packed = pieces.read(tmp_path / "pieces")
    assert pieces.encoder_of(packed)["encoder.w"].tolist() == [1, 1]
    back = pieces.unpack(packed)
    assert back
    assert list(back["model"]) == list(state["model"])
    assert [back[key] for key in ("seen", "steps", "scale")] == [90, 30, 1.5]
    for name, mean in zip(state["model"], state["average"], strict=True):
        assert torch.equal(back["model"][name], mean.half().float())
    for before, after in zip(state["optimizers"], back["optimizers"], strict=True):
        assert json.dumps(before["param_groups"]) == json.dumps(after["param_groups"])
        assert before["state"].keys() == after["state"].keys()
        for row, values in before["state"].items():
            found = after["state"][row]
            assert values.keys() == found.keys()
            moment = "exp_avg" if "exp_avg" in values else "momentum"
            assert (found[moment] - values[moment]).abs().max() <= values[moment].abs().max() / 250
            if "exp_avg_sq" in values:
                assert found["step"] == values["step"]
                old, new = (v["exp_avg"] / v["exp_avg_sq"].sqrt() for v in (values, found))
                assert new.abs().max() <= 1.001
                assert torch.cosine_similarity(old.flatten(), new.flatten(), dim=0) > 0.9


def test_damaged_pieces_are_refused(tmp_path: Path) -> None:
    """The message names the piece."""
    with pytest.raises(SystemExit, match="make pieces"):
        pieces.read(tmp_path)
    pieces.write(tmp_path / "pieces", pieces.pack(None, {"encoder.w": torch.ones(2)}, 1.5), tmp_path)
    assert pieces.unpack(pieces.read(tmp_path / "pieces")) is None
    path = tmp_path / "pieces" / "piece-0.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(SystemExit, match=r"piece-0\.bin is missing or damaged"):
        pieces.read(tmp_path / "pieces")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_whole_command_goes_on_from_its_own_pieces_and_on_the_cpu(
    bank: SpriteBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an encoder to pieces, from these to more steps, then to ``train.pt``, and back to pieces of the same."""
    monkeypatch.setattr(gpu, "HELD_OUT", 8)
    work, there = tmp_path / "work", tmp_path / "there"
    coded = {"model": autoencoder.build().state_dict(), "light": {}, "seen": 0}
    save_state(work / "autoencoder.pt", coded)
    save_state(work / "scale.pt", {"scaling_factor": 1.25})
    pieces.write(there / "pieces", pieces.pack_work(work), there)
    options = ["--device", "cpu", "--batch", "4", "--workers", "0", "--steps", "1", "--out", str(there / "pieces")]
    for _ in range(2):
        gpu.main(["--work", str(there), "--minutes", "60", *options])
    lines = [json.loads(line) for line in (there / "pieces.jsonl").read_text().splitlines()]
    assert [line["seen"] for line in lines] == [4, 8]
    assert all(0 < line["held_out"] < 10 for line in lines)
    state = pieces.unpack_work(pieces.read(there / "pieces"), work)
    stored = load_state(work / "train.pt")
    assert stored
    assert stored["steps"] == state["steps"] == 2
    again = pieces.unpack(pieces.pack_work(work))
    assert again
    assert all(torch.equal(a, b) for a, b in zip(again["average"], stored["average"], strict=True))
    assert any(values["exp_avg"].any() for values in again["optimizers"][0]["state"].values())
    with pytest.raises(SystemExit, match="kept"):
        pieces.unpack_work(pieces.read(there / "pieces"), work)
