"""The fidelity benchmark on a small random model: what it runs, keeps, does not repeat, and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.fidelity import report
from benchmarks.fidelity.__main__ import main, parse
from benchmarks.fidelity.floats import train
from benchmarks.fidelity.plan import parse_variant
from benchmarks.fidelity.store import CELL_FOLDER, Store
from benchmarks.fidelity.subjects import DEVELOPMENT, TEST, subject_of
from benchmarks.fidelity.tables import mean_of
from conestool.models.model import Model
from conestool.models.prompts import encode
from conestool.search.batches import LatentImages, LossTerm
from conestool.search.objective import Objective
from conestool.search.parameters import trainable_kv_weights

VARIANT = "mask,lr=0.2,unbound_weight=1"
FAST = ["--quick", "--steps", "2", "--densities", "0.01", "--cross", "0.01", "--ceilings", "fine-tune"]
FAST += ["--methods", VARIANT]


@pytest.fixture(scope="module")
def out(epsilon_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one whole run."""
    folder = tmp_path_factory.mktemp("fidelity")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONES_CACHE", str(folder / "cache"))
        main(["--out", str(folder / "out"), "--model", str(epsilon_folder), *FAST])
    return folder / "out"


@pytest.fixture(scope="module")
def records(out: Path) -> list[dict[str, Any]]:
    (folder,) = (out / CELL_FOLDER).iterdir()
    return list(Store(folder).records())


def test_every_cell_has_its_controls(records: list[dict[str, Any]]) -> None:
    searches = [record for record in records if record["kind"] == "search"]
    assert {(r["subject"], r["half"]) for r in searches} == {("dog", "development"), ("cat", "test")}
    for record in searches:
        assert set(record["losses"]) == {"held_out", "no_identifier", "class", "unrelated"}
        assert [set(control) for control in record["controls"].values()] == [{"held_out"}, {"held_out"}]
        assert record["share"] == pytest.approx(0.01, rel=0.05)
        assert record["bytes"] > 0
    assert {(r["variant"], r["config"]["unbound_weight"]) for r in searches} == {(VARIANT, 1)}


def test_ceilings_and_matrix_are_there(records: list[dict[str, Any]]) -> None:
    kinds = [record["kind"] for record in records]
    assert (kinds.count("fine-tune"), kinds.count("bare"), kinds.count("matrix")) == (2, 2, 1)
    matrix = next(record for record in records if record["kind"] == "matrix")
    own = next(r for r in records if r["kind"] == "search" and r["subject"] == "dog")
    assert matrix["losses"]["dog"]["dog"] == pytest.approx(own["losses"]["held_out"], abs=1e-6)


def test_a_second_run_repeats_nothing(
    out: Path, epsilon_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.fidelity.cells.rank", None)
    monkeypatch.setattr("benchmarks.fidelity.cells.train", None)
    main(["--out", str(out), "--model", str(epsilon_folder), *FAST])
    assert capsys.readouterr().out.splitlines() == [str(out / "results.md")]


def test_the_page_has_every_table_and_its_pictures(out: Path) -> None:
    text = (out / "results.md").read_text(encoding="utf-8")
    titles = ["Test half", "Development half", "Sets of other subjects", "Float ceilings", "Contact sheets"]
    assert all(f"## {title}" in text for title in titles)
    assert f"`{VARIANT}`" in text
    assert (out / "results" / "dog.png").is_file()


def test_rates_are_chosen_on_the_development_half_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for subject, half, seed, rate, change in (
        ("dog", "development", 0, 0.1, -0.2),
        ("dog", "development", 0, 0.2, -0.1),
        ("dog", "development", 1, 0.2, -0.9),  # a seed that the other rate has not run
        ("cat", "test", 0, 0.2, -0.9),
    ):
        record = {"kind": "lora", "half": half, "rate": rate, "subject": subject, "losses": {"held_out": change}}
        store.save(f"{subject}/{seed}/lora/{rate}", record | {"seed": seed})
    assert report.best_rates(store) == {"lora": 0.1}


def test_variants_take_any_setting_and_any_parameter() -> None:
    made = parse_variant("mask,unbound_weight=2,lr=0.1").make(3, 7, batch_size=4)
    assert (made.method, made.unbound_weight, made.seed, made.batch_size) == ("mask,steps=7,lr=0.1", 2, 3, 4)
    listed = parse_variant("mask,timestep_range=[0,0.5],unbound_weight=0")
    assert listed.config == {"timestep_range": [0, 0.5], "unbound_weight": 0}
    args = parse(["--out", "x", "--quick", "--seeds", "5"])
    assert (args.seeds, args.subjects) == ([5], ["dog", "cat"])


def test_the_halves_are_apart_and_means_are_over_subjects_first() -> None:
    assert not set(DEVELOPMENT) & set(TEST)
    assert all(subject_of(name).folder.is_dir() for name in (*DEVELOPMENT, *TEST))
    assert [subject_of(name).noun for name in ("dog", "pet_cat1", "furniture_sofa2")] == ["dog", "cat", "sofa"]
    rows = [{"subject": "dog", "x": 1.0}, {"subject": "dog", "x": 3.0}, {"subject": "cat", "x": 4.0}]
    assert mean_of(rows, lambda row: float(row["x"])) == (3.0, 1.0)
    assert mean_of(rows, lambda row: None) is None


@pytest.mark.parametrize("kind", ["fine-tune", "lora"])
def test_float_training_lowers_its_loss_and_lora_stays_of_low_rank(epsilon_folder: Path, kind: str) -> None:
    model = Model.from_pretrained(str(epsilon_folder))
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with trainable_kv_weights(model.denoiser) as params:
        term = LossTerm(
            name="instance", images=LatentImages(latents), conditioning=encode(model, ["a sks dog"]), size=4
        )
        objective = Objective(model, params, [term])
        batch = objective.selection_batch(8)
        weights = train(objective, kind, 8, 1e-2)
        assert objective.loss(weights, batch) < objective.loss(objective.weights, batch)
        change = torch.split(weights - objective.weights, params.sizes)[0].view_as(
            next(iter(params.parameters.values()))
        )
        rank = int(torch.linalg.matrix_rank(change, atol=1e-5))
    assert rank <= 4 if kind == "lora" else rank > 4
