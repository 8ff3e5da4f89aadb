"""Run what is missing: `python -m benchmarks.identity --out build/identity`; see the package's docstring."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.fidelity.plan import CEILINGS, Options, parse_variant
from benchmarks.fidelity.store import CELL_FOLDER, Store
from benchmarks.identity.cells import SEARCHED, SETS, Cell, Studio
from benchmarks.identity.report import best_rates, write_report
from benchmarks.identity.subjects import DEVELOPMENT, OUTSIDE, TEST, subject_of
from benchmarks.identity.together import GROUPS, KINDS, OF_SETS, Together
from conestool.evaluation.attribute_metric import AttributeMetric
from conestool.evaluation.judge import load_judge
from conestool.models.model import Model
from training.pocket.sprites import SpriteBank, rasterise_all


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="results, kept and gone on with")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--judge", type=Path, help="default: the one beside the model")
    parser.add_argument("--subjects", nargs="+", default=[*DEVELOPMENT, *TEST, *OUTSIDE])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--method", default="mask", help="METHOD,KEY=VALUE,...")
    parser.add_argument("--ceilings", nargs="*", default=list(CEILINGS))
    parser.add_argument("--groups", nargs="*", type=int, default=list(GROUPS), help="how many subjects in one picture")
    parser.add_argument("--steps", type=int, default=Options.steps)
    parser.add_argument("--renders", type=int, default=3, help="pictures of every scene")
    parser.add_argument("--report", action="store_true", help="run nothing: report what is there")
    parser.add_argument("--page", type=Path, help="put the tables into this page, such as docs/experiments/identity.md")
    return parser.parse_args()


def open_store(args: argparse.Namespace, model: Model) -> Store:
    """Open what is there of a model."""
    return Store(args.out / CELL_FOLDER / model.info.digests["f32"][:12])


def open_studio(args: argparse.Namespace, model: Model) -> Studio:
    """Load judge and sprites."""
    sprites = args.out / "sprites.npy"
    if not sprites.exists():
        rasterise_all(sprites, os.cpu_count() or 1)
    options = Options(steps=args.steps, renders=args.renders)
    metric = AttributeMetric(load_judge(args.judge))
    return Studio(model, metric, SpriteBank(sprites), open_store(args, model), options, parse_variant(args.method))


def run(args: argparse.Namespace, studio: Studio) -> Iterator[str]:
    """Run everything; yields a line for each thing that was not there."""
    subjects = {key: subject_of(key) for key in args.subjects}
    for seed in args.seeds:
        first = seed == args.seeds[0]
        cells = {key: Cell(studio, subject, seed) for key, subject in subjects.items()}
        yield from (f"{key}, seed {seed}: set" for key, cell in cells.items() if cell.find())
        for key, cell in cells.items():
            if cell.draw_sets(_other(cells, key), SETS if first else SEARCHED):
                yield f"{key}, seed {seed}: pictures"
            if cell.draw_in_region():
                yield f"{key}, seed {seed}: pictures with --regions"
            if first and cell.draw_references():
                yield f"{key}: references"
        for kind in args.ceilings:
            tried = [key for key in cells if key in DEVELOPMENT] if first else []
            jobs = [(key, rate) for rate in CEILINGS[kind] for key in tried]
            yield from (f"{key}: {kind} {rate:g}" for key, rate in jobs if cells[key].train(kind, rate))
            for rate in dict.fromkeys(best_rates(studio.store, kind)):
                yield from (f"{key}, seed {seed}: {kind} {rate:g}" for key in cells if cells[key].train(kind, rate))
        for count in args.groups:
            yield from Together(studio, cells, seed, count).run(KINDS if first else OF_SETS)


def _other(cells: dict[str, Cell], key: str) -> Cell:
    """Return another subject, of the same class if there is one."""
    others = [cell for name, cell in cells.items() if name != key]
    return next((each for each in others if each.subject.noun == cells[key].subject.noun), others[0])


def main() -> None:
    """Run, saying what is done and how long it took, then write the report."""
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    model, begun = Model.from_pretrained(args.model), time.monotonic()
    for line in () if args.report else run(args, open_studio(args, model)):
        print(f"{line} ({time.monotonic() - begun:.0f} s)", flush=True)
        begun = time.monotonic()
    subjects = [subject_of(key) for key in args.subjects]
    print(*write_report(open_store(args, model), args.out, subjects, args.seeds[0], args.page), sep="\n")


if __name__ == "__main__":
    main()
