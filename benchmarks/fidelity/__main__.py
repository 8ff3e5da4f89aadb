"""Run what is missing: `python -m benchmarks.fidelity --out build/fidelity`; see the package's docstring."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.fidelity.cells import Bench
from benchmarks.fidelity.matrix import compare
from benchmarks.fidelity.plan import AUTO, CEILINGS, DENSITIES, Ceiling, Options, parse_variant, searches
from benchmarks.fidelity.report import best_rates, write_page
from benchmarks.fidelity.store import CELL_FOLDER, Store
from benchmarks.fidelity.subjects import DEVELOPMENT, EXAMPLES, TEST, subject_of
from conestool.evaluation import TEMPLATES, check_templates, load_metrics
from conestool.models.model import Model
from conestool.search.methods import METHODS

VARIANTS = (
    *sorted(METHODS),
    "mask,composite_weight=1",
    "mask,l1=0",
    "mask,l1=0,other_class_weight=0",
    'mask,l1=0,other_class_weight=0,unbound_weight=0,timestep_range=[0,1],captions="none"',
)
QUICK = {
    "subjects": ["dog", "cat"],
    "seeds": [0],
    "methods": ["mask", "tstat"],
    "densities": [AUTO, "0.01"],
    "cross": [AUTO],
    "ceilings": ["fine-tune", "lora"],
    "rates": 1,
    "steps": 8,
    "renders": 1,
}
QUICK_TEMPLATES = ("a photo of a {}", "a {} on the beach")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; with --quick other defaults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="results, kept and gone on with")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--root", type=Path, default=EXAMPLES, help="a folder per subject, such as CustomConcept101's")
    parser.add_argument("--subjects", nargs="+", default=[*DEVELOPMENT, *TEST])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=VARIANTS, help="METHOD,KEY=VALUE,...")
    parser.add_argument("--densities", nargs="+", default=DENSITIES, help="auto, or a share of the K/V weights")
    parser.add_argument("--cross", nargs="*", default=[AUTO, "0.01"], help="densities with a cross-subject matrix")
    parser.add_argument("--ceilings", nargs="*", default=list(CEILINGS))
    parser.add_argument("--rates", type=int, default=3, help="learning rates tried for each ceiling")
    parser.add_argument("--steps", type=int, default=Options.steps)
    parser.add_argument("--renders", type=int, default=Options.renders, help="pictures per prompt; 0 for none")
    parser.add_argument("--prompts", type=Path, help="a file of prompts, {} for the subject, for the pictures")
    parser.add_argument("--clip", help="CLIP-I and CLIP-T by this folder or Hub id")
    parser.add_argument("--dino", help="DINO-I by this folder or Hub id")
    parser.add_argument("--quick", action="store_true", help="under five minutes: shows that it works, no more")
    if "--quick" in (arguments or []):
        parser.set_defaults(**QUICK)
    return parser.parse_args(arguments)


def options_of(args: argparse.Namespace) -> Options:
    """What all runs share."""
    if args.quick:
        return Options(args.steps, 16, 8, args.renders, QUICK_TEMPLATES, drawn=(AUTO,), unrelated=1)
    lines = args.prompts.read_text(encoding="utf-8").splitlines() if args.prompts else TEMPLATES
    templates = check_templates(line for line in lines if line.strip())
    return Options(args.steps, renders=args.renders, templates=templates)


def run(args: argparse.Namespace) -> Iterator[str]:
    """Run all jobs in order; yields a line for each that was not there."""
    model = Model.from_pretrained(args.model)
    info = model.info
    store = Store(args.out / CELL_FOLDER / info.digests["f32"][:12])
    metrics, options = load_metrics(model.settings, args.clip, args.dino), options_of(args)
    benches = {n: Bench(model, info, subject_of(n, args.root), options, store, metrics) for n in args.subjects}
    for name, bench in benches.items():
        if bench.options.renders and bench.bare():
            yield f"{name}: base model"
    yield from run_ceilings(args, benches, store)
    variants = [parse_variant(text) for text in args.methods]
    for job in searches(args.subjects, args.seeds, variants, args.densities):
        done = benches[job.subject].search(job)
        if done:
            yield f"{job.subject}, seed {job.seed}: {job.variant.name}, {done} densities"
    for seed in args.seeds:
        for variant in variants:
            jobs = list(searches(args.subjects, [seed], [variant], args.densities))
            for density in args.cross:
                if density in args.densities and compare(store, list(benches.values()), jobs, density):
                    yield f"matrix, seed {seed}: {variant.name}, {density}"


def run_ceilings(args: argparse.Namespace, benches: dict[str, Bench], store: Store) -> Iterator[str]:
    """All rates on the development half, then the best of them on the test half."""
    halves = ("development", "test")
    for kind in args.ceilings:
        for half in halves:
            names = [name for name, bench in benches.items() if bench.subject.half == half]
            rates = CEILINGS[kind][: args.rates] if half == halves[0] else [best_rates(store)[kind]] if names else []
            for job in (Ceiling(name, seed, kind, rate) for seed in args.seeds for rate in rates for name in names):
                if benches[job.subject].ceiling(job):
                    yield f"{job.subject}, seed {job.seed}: {kind} at {job.rate:g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, saying what is done and how long it took, then write the page beside the results."""
    args = parse(arguments)
    begun = time.monotonic()
    for line in run(args):
        print(f"{line} ({time.monotonic() - begun:.0f} s)", flush=True)
        begun = time.monotonic()
    print(write_page(args.out, args.out / "results.md"))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
