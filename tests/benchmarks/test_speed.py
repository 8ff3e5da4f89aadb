"""The speed benchmark on a toy: every part runs, is kept, and is reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.fidelity.store import Store
from benchmarks.speed import files
from benchmarks.speed.__main__ import main
from benchmarks.speed.report import write_page
from benchmarks.speed.shapes import SHAPES, blank
from benchmarks.speed.steps import KINDS
from conestool.models.kv_weights import KV_SUFFIXES

TOY = ["--bases", "toy", "--side", "8", "--rounds", "1", "--parts", "steps", "profile", "kept", "render"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one run of the parts with a model."""
    folder = tmp_path_factory.mktemp("speed")
    threads, default = torch.get_num_threads(), torch.get_default_dtype()
    main(["--out", str(folder), *TOY])
    torch.set_num_threads(threads)
    assert torch.get_default_dtype() == default
    return folder


def test_every_kind_of_step_is_measured_and_costs_time(out: Path) -> None:
    store = Store(out / "rounds")
    found = store.load("steps/toy/8-1-cpu-float32/0")
    assert all(found[kind] > 0 for kind in KINDS)
    assert store.load("steps/toy/8-1-cpu-float32/flops")["bare"] > 0
    profiled = store.load("profile/toy/8-1-cpu-float32/find mask")
    assert {"aten::mm", "aten::addmm"} & {name for name, _, _ in profiled["rows"]}
    assert sum(own for _, _, own in profiled["rows"]) > 0
    assert set(store.load("render/toy/8-1-cpu-float32-4/0")) == {"first", "concepts", "bare", "key"}


def test_the_page_has_a_table_for_each_part(out: Path) -> None:
    text = (out / "speed.md").read_text(encoding="utf-8")
    assert all(f"| {kind} |" in text for kind in KINDS)
    assert all(f"\n## {title}" in text for title in ("One step", "Where a step goes", "A picture", "Activations kept"))
    assert "Nothing on this page ran on a GPU" in text


def test_a_page_can_be_written_before_the_first_round_is_done(tmp_path: Path) -> None:
    """A run in parts leaves the number of operations first."""
    store = Store(tmp_path / "rounds")
    store.save("steps/toy/8-1-cpu-float32/flops", {"bare": 1})
    assert "No round is done yet" in write_page(store, tmp_path / "speed.md").read_text(encoding="utf-8")


def test_a_second_run_repeats_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--out", str(out), *TOY])
    assert capsys.readouterr().out.splitlines() == [str(out / "speed.md")]


def test_files_are_made_merged_and_read(tmp_path: Path) -> None:
    files.make_files(tmp_path, 3, {"a.to_k.weight": [8, 8], "a.to_v.weight": [8, 8]}, density=0.2)
    assert set(files.functions(tmp_path)) == {"encode", "decode"}
    assert {"inspect", "diff", "merge 2", "merge 3"} <= set(files.commands(tmp_path, [3]))


def test_lora_keeps_more_than_a_search_and_full_fine_tuning_more_than_both(out: Path) -> None:
    store = Store(out / "rounds")
    bare, lora, full = (store.load(f"kept/toy/{kind}-float32")["bytes"] for kind in ("bare", "lora", "full"))
    assert bare < lora < full


@pytest.mark.parametrize(("base", "millions"), [("sd15", 859.5), ("sdxl", 2567.5)])
def test_configurations_have_the_published_sizes(base: str, millions: float) -> None:
    """Stable Diffusion 1.5 has 859.5 and XL 2,567.5 million weights; 43,950,080 of the former are K/V weights."""
    weights = dict(blank(SHAPES[base]).named_parameters())
    assert sum(weight.numel() for weight in weights.values()) / 1e6 == pytest.approx(millions, abs=0.1)
    if base == "sd15":
        assert sum(weight.numel() for name, weight in weights.items() if name.endswith(KV_SUFFIXES)) == 43_950_080
