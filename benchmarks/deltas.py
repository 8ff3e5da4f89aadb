"""Floats at the indices of a plain merge: `python -m benchmarks.deltas dog.cone hat.cone`.

For each rate: the sum of L_con on fixed noise, as `tune` compares it, and the losses on held-out photos and class
images, with floats in 32 bits, in 16, and in 8 with a scale per tensor, as files hold them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from conestool import algebra
from conestool.concept import Cone
from conestool.diffusion.models import Model, load_model
from conestool.diffusion.photos import read_photos
from conestool.format import load
from conestool.search import Settings
from conestool.search.deltas import TrainedDeltas, divided, filled
from conestool.search.layout import Layout, borrowed
from conestool.search.tuning import COMPARED, Subject, Tuning, photos_of, subjects_of

EXAMPLES = Path(__file__).parents[1] / "examples"


def line(name: str, subjects: Sequence[Subject], weights: Tensor) -> str:
    """The row of one vector of weights."""
    total = sum(each.objective.loss(weights, each.objective.batch_of(COMPARED)) for each in subjects)
    probes = [each.losses_at("held_out", weights) for each in subjects]
    cells = [f"{each['held_out']:.6f} ({each['class_held_out']:.6f})" for each in probes]
    return f"| {name} | {total:.6f} | {' | '.join(cells)} |"


def rows(
    layout: Layout, cone: Cone, subjects: Sequence[Subject], steps: int, rate: float, tell: Callable[[str], None]
) -> None:
    """Train at one rate, and tell what becomes of it in each precision."""
    owners = torch.stack([layout.shut(each.indices) for each in cone.concepts])
    trained = TrainedDeltas([each.objective for each in subjects], owners, steps, rate)
    for index in range(steps):
        trained.step(index)
    whole, shut = torch.cat(list(trained.weights())), layout.theta * ~owners.any(0)
    pairs = zip(cone.concepts, divided(trained, layout), strict=True)
    stored = filled(layout.theta, layout, [concept.with_deltas(share) for concept, share in pairs])
    for name, weights in {"32": whole, "16": shut + (whole - shut).half().float(), "8": stored}.items():
        tell(line(f"rate {rate:g}, {name} bits", subjects, weights))


def measure(model: Model, cone: Cone, args: argparse.Namespace) -> None:
    """The whole table."""
    photos = photos_of(cone, {name: read_photos([args.photos / name])[0] for name in cone.names})
    settings = Settings(seed=args.seed)
    with borrowed(model.denoiser) as layout:
        subjects = subjects_of(model, layout, cone, photos, Tuning(settings=settings))
        print(f"| weights | sum | {' | '.join(cone.names)} |\n|{'---|' * (2 + len(cone.names))}")
        print(line("bare", subjects, layout.theta))
        merged = filled(layout.theta, layout, [each.with_deltas({}) for each in cone.concepts])
        print(line("merged", subjects, merged), flush=True)
        for rate in args.rates:
            rows(layout, cone, subjects, args.steps, rate, lambda text: print(text, flush=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help=".cone files")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--photos", type=Path, default=EXAMPLES, help="a folder with a folder per concept")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    measure(load_model(args.model), algebra.merge(*map(load, args.files)), args)


if __name__ == "__main__":
    main()
