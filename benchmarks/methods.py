"""Compare the search methods on the example subjects: `python -m benchmarks.methods --out results.json`.

For every subject and method: the change of the loss on held-out photos (with and without the identifier) and on class
images, in per cent of the untouched model's, beside random indices, the largest weights, other subjects' masks and a
float fine-tune of all K/V weights with the same terms and steps. Runs are kept in the JSON file and not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conestool.diffusion.models import Model, load_model
from conestool.diffusion.photos import read_photos
from conestool.files import write_atomic
from conestool.search.controls import largest, random
from conestool.search.density import choose
from conestool.search.events import ignore
from conestool.search.finding import draw_class, name_subject, prepare
from conestool.search.layout import Layout, borrowed
from conestool.search.methods import Ranking, make_method
from conestool.search.objective import Batch, Objective
from conestool.search.report import Probes
from conestool.search.settings import Settings
from conestool.search.subject import split

EXAMPLES = Path(__file__).parents[1] / "examples"
SUBJECTS = ("dog", "hat", "cat", "car", "rabbit", "pig", "bear", "house")
METHODS = ("mask", "tstat", "taylor", "cones")


def set_up(model: Model, layout: Layout, subject: str, settings: Settings) -> tuple[Objective, Probes]:
    """Objective and probes of one example subject."""
    photos, _ = read_photos([EXAMPLES / subject])
    words = name_subject(model, subject, None, None, ignore)
    pictures = split(photos, settings.crops, settings.held_out, settings.seed)
    priors = draw_class(model, words, settings, ignore)
    return prepare(model, layout, words, pictures, priors, settings)


def search(objective: Objective, name: str, steps: int) -> tuple[Ranking, float]:
    """The ranking that a method ends with, and the seconds it took."""
    begun = time.perf_counter()
    method = make_method(name, objective, steps=steps)
    for index in range(method.steps):
        method.step(index)
    return method.ranking(), time.perf_counter() - begun


def fine_tune(objective: Objective, steps: int, rate: float) -> Tensor:
    """All K/V weights trained with Adam on the same batches: the float ceiling; returns the weights (n,)."""
    weights = objective.theta.clone()
    optimizer = torch.optim.Adam([weights], lr=rate)
    for index in range(steps):
        weights.grad, _ = objective.gradient(weights, index)
        optimizer.step()
    return weights.detach()


def changes(objective: Objective, probes: Probes, weights: Tensor) -> dict[str, float]:
    """Loss at `weights` against the untouched one, in per cent, per probe."""

    def change(batch: Batch) -> float:
        before = objective.loss(objective.theta, batch)
        return round(100 * (objective.loss(weights, batch) / before - 1), 2)

    return {
        "held_out": change(probes.held_out),
        "no_identifier": change(probes.no_identifier),
        "class": change(probes.class_images),
    }


def subject_rows(model: Model, subject: str, args: argparse.Namespace, known: dict[str, Any]) -> dict[str, Any]:
    """All rows of one subject that are not known yet; masks go to files beside the results."""
    rows: dict[str, Any] = {}
    settings = Settings(seed=args.seed, contrast=args.contrast, prior_weight=args.prior_weight)
    keys = {
        (name, density): f"{subject} {name} {density or 'auto'}" for name in args.methods for density in args.densities
    }
    with borrowed(model.denoiser) as layout:
        objective, probes = set_up(model, layout, subject, settings)
        probe = objective.batch_of(64)
        for name in args.methods:
            wanted = [density for density in args.densities if keys[name, density] not in known]
            if not wanted:
                continue
            ranking, seconds = search(objective, name, args.steps)
            for density in wanted:
                shut = choose(objective, ranking, density, probe).shut
                rows[keys[name, density]] = measured(objective, probes, shut, seconds, args.seed)
                save_mask(args.out, keys[name, density], shut)
        for rate in args.rates:
            if (key := f"{subject} fine-tune {rate:g}") not in known:
                rows[key] = changes(objective, probes, fine_tune(objective, args.steps, rate))
    return rows


def measured(objective: Objective, probes: Probes, shut: Tensor, seconds: float, seed: int) -> dict[str, Any]:
    """One row: what the set does, and what its controls do."""
    theta = objective.theta
    return {
        **changes(objective, probes, theta * ~shut),
        "density": round(float(shut.float().mean()), 6),
        "random": changes(objective, probes, theta * ~random(objective.layout, shut, seed))["held_out"],
        "magnitude": changes(objective, probes, theta * ~largest(objective.layout, shut, theta))["held_out"],
        "seconds": round(seconds, 1),
    }


def save_mask(out: Path, key: str, shut: Tensor) -> None:
    """Keep a found set for the cross-subject matrix."""
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(shut, folder / f"{key}.pt")


def cross(model: Model, args: argparse.Namespace, method: str, density: float | None) -> dict[str, dict[str, float]]:
    """Change of the held-out loss of every subject (columns) under every subject's mask (rows), in per cent."""
    names = [f"{subject} {method} {density or 'auto'}" for subject in args.subjects]
    masks = [torch.load(args.out.with_suffix("") / f"{name}.pt", weights_only=True) for name in names]
    table: dict[str, dict[str, float]] = {subject: {} for subject in args.subjects}
    for column in args.subjects:
        with borrowed(model.denoiser) as layout:
            objective, probes = set_up(model, layout, column, Settings(seed=args.seed))
            for row, shut in zip(args.subjects, masks, strict=True):
                table[row][column] = changes(objective, probes, objective.theta * ~shut)["held_out"]
    return table


def show(results: dict[str, Any]) -> None:
    """Print medians over subjects per method."""
    rows: dict[str, list[dict[str, float]]] = {}
    for key, row in results["rows"].items():
        rows.setdefault(key.split(" ", 1)[1], []).append(row)
    columns = ("held_out", "no_identifier", "class", "random", "magnitude", "density", "seconds")
    print(f"{'':24}" + "".join(f"{column:>15}" for column in columns))
    for name, group in rows.items():
        cells = []
        for column in columns:
            values = [row[column] for row in group if column in row]
            cells.append(f"{statistics.median(values):15.4g}" if values else f"{'':15}")
        print(f"{name:24}" + "".join(cells))
    for name, table in results.get("cross", {}).items():
        print(f"\nmask of (row) on held-out photos of (column), {name}\n{'':10}" + "".join(f"{c:>9}" for c in table))
        for row, values in table.items():
            print(f"{row:10}" + "".join(f"{value:9.1f}" for value in values.values()))


def main() -> None:
    """Run what is missing, write the JSON file and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", nargs="+", default=SUBJECTS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--densities", nargs="+", type=lambda text: float(text) or None, default=[None, 0.01])
    parser.add_argument("--rates", nargs="*", type=float, default=[1e-3, 3e-3])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contrast", type=float, default=Settings.contrast)
    parser.add_argument("--prior-weight", type=float, default=Settings.prior_weight)
    parser.add_argument("--cross", nargs="*", default=["mask"], help="methods to compute the cross-subject matrix for")
    args = parser.parse_args()
    model = load_model(args.model)
    results = json.loads(args.out.read_text()) if args.out.exists() else {"rows": {}, "cross": {}}
    for subject in args.subjects:
        results["rows"] |= subject_rows(model, subject, args, results["rows"])
        write_atomic(args.out, json.dumps(results, indent=1).encode(), force=True)
    for method in args.cross:
        results["cross"][method] = cross(model, args, method, args.densities[0])
    write_atomic(args.out, json.dumps(results, indent=1).encode(), force=True)
    show(results)


if __name__ == "__main__":
    main()
