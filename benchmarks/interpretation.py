"""What concept neurons are: `python -m benchmarks.interpretation A.cone B.cone --photos DIR --out FOLDER`.

Of every concept: where its neurons lie (K or V, self- or cross-attention, crowded rows and columns beside random
positions), the held-out loss when one attention layer's neurons are zeroed, when all but it are, and when layers are so
one after the other; on pocket which of the subject's attributes pictures lose when one layer's neurons are put back;
the loss and pictures at strengths 0 to 1; and the loss on a base whose weights are rounded to bfloat16, float16 and
int8. Of every pair: what they share against chance. DIR has a folder of photos per concept name. Finished rows are kept
in FOLDER/interpretation.json and not repeated; tables and PNGs are written beside it.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conestool import _layers, ops
from conestool._atomic import write_atomic
from conestool.cli._plot import FULLEST, crowding, map_png
from conestool.concept import Concept, Cone
from conestool.evaluation.attribute_metric import attributes_of, judge_for, kept
from conestool.format import load
from conestool.images.photos import read_photos
from conestool.models.model import Model
from conestool.rendering import grid, render
from conestool.search.context import SearchContext
from conestool.search.parameters import FlatParameters, trainable_kv_weights
from conestool.search.report import random_mask_like
from conestool.search.tune import TunedConcept, prepare_subject

EXAMPLES = Path(__file__).parents[1] / "examples" / "openmoji"
STRENGTHS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
PICTURED = (0.0, 0.25, 0.5, 0.75, 1.0)
PLACES = ("on the beach", "in a field", "in the snow", "at night", "in front of a brick wall", "on the street")
ATTRIBUTE_SEEDS = 4
PRECISIONS = ("float32", "bfloat16", "float16", "int8")


def chance(a: Concept, b: Concept) -> float:
    """Neurons that two concepts would share if each had as many at random in every tensor."""
    return sum(
        len(a.indices[param]) * len(b.indices[param]) / prod(a.base.tensors[param])
        for param in a.indices.keys() & b.indices.keys()
    )


def change(subject: TunedConcept, mask: Tensor, strength: float = 1.0) -> float:
    """Change of the loss on the held-out photos, in per cent of the untouched model's."""
    objective, batch = subject.objective, subject.eval_batches.held_out
    weights = objective.weights * (1 - strength * mask.float())
    return round(100 * (objective.loss(weights, batch) / objective.loss(objective.weights, batch) - 1), 2)


def in_layer(params: FlatParameters, layer: str) -> Tensor:
    """Which weights belong to one attention layer, boolean, (n,)."""
    parts = [torch.full((p.numel(),), _layers.layer_name(name) == layer) for name, p in params.parameters.items()]
    return torch.cat(parts)


def by_layer(subject: TunedConcept, mask: Tensor) -> list[dict[str, Any]]:
    """Per attention layer in the order of the network: zeroed alone, all but it, and all up to it; with the number."""
    params = subject.objective.params
    order = sorted(params.parameters, key=_layers.natural)
    rows, so_far = [], torch.zeros_like(mask)
    for layer in dict.fromkeys(map(_layers.layer_name, order)):
        here = mask & in_layer(params, layer).to(mask.device)
        so_far |= here
        rows.append(
            {
                "layer": _layers.label(layer),
                "neurons": int(here.sum()),
                "alone": change(subject, here),
                "without": change(subject, mask & ~here),
                "up to": change(subject, so_far),
            }
        )
    return rows


def by_attribute(model: Model, concept: Concept, photos: Path) -> list[dict[str, Any]]:
    """Of each attribute of the subject, the share of pictures that show it: with the set, without one layer's, without.

    Layers with less than a hundredth of the neurons are left out. Empty unless the base model has an attribute judge.
    """
    metric = judge_for(model.settings)
    if metric is None:
        return []
    shown = [photo.image for photo in read_photos([photos / concept.name])[0]]
    wanted = attributes_of(metric.read(shown), metric.judge.world.identity)
    counts: dict[str, int] = {}
    for param, found in concept.indices.items():
        counts[_layers.layer_name(param)] = counts.get(_layers.layer_name(param), 0) + len(found)
    few = sum(counts.values()) / 100
    sets: dict[str, dict[str, Any]] = {"the concept": dict(concept.indices)}
    for layer in sorted((layer for layer, count in counts.items() if count >= few), key=_layers.natural):
        left = {param: found for param, found in concept.indices.items() if _layers.layer_name(param) != layer}
        sets[f"without {_layers.label(layer)}"] = left
    rows = []
    for name, indices in sets.items():
        cone = Cone((replace(concept, indices=indices),))
        prompts = [f"a {concept.name} {place}" for place in PLACES]
        read = metric.read([each.image for each in render(model, prompts, cone, seeds=range(ATTRIBUTE_SEEDS))])
        things = [max(reading.things, key=lambda thing: kept(thing, wanted)) for reading in read]
        shares = {name: sum(t[name] == value for t in things) / len(things) for name, value in wanted.items()}
        rows.append({"set": name, "pictures": len(things), "shares": shares})
    return rows


@contextmanager
def rounded(denoiser: nn.Module, precision: str) -> Iterator[None]:
    """All weights of the denoiser rounded to `precision` and computed with in fp32; afterwards they are as before.

    int8 is symmetric, with a scale per output row.
    """
    kept = {name: weight.detach().clone() for name, weight in denoiser.named_parameters()}
    try:
        with torch.no_grad():
            for weight in denoiser.parameters():
                weight.copy_(nearest(weight, precision))
        yield
    finally:
        with torch.no_grad():
            for name, weight in denoiser.named_parameters():
                weight.copy_(kept[name])


def nearest(weight: Tensor, precision: str) -> Tensor:
    """The values that `precision` holds nearest to `weight`."""
    if precision != "int8":
        return weight.to(getattr(torch, precision)).float()
    scale = weight.flatten(1).abs().amax(1) / 127 if weight.dim() > 1 else weight.abs().max() / 127
    scale = scale.clamp_min(1e-12).view(-1, *[1] * (weight.dim() - 1)) if weight.dim() > 1 else scale.clamp_min(1e-12)
    return (weight / scale).round() * scale


def at_precision(model: Model, concept: Concept, photos: Path, precision: str) -> dict[str, float]:
    """Change of the held-out loss, in per cent of the rounded base's own, with the concept and with random indices."""
    with rounded(model.denoiser, precision), subject_on(model, concept, photos) as (subject, mask):
        control = random_mask_like(subject.objective.params, mask, 0)
        base = subject.objective.loss(subject.objective.weights, subject.eval_batches.held_out)
        return {"base": round(base, 5), "concept": change(subject, mask), "random": change(subject, control)}


@contextmanager
def subject_on(model: Model, concept: Concept, photos: Path) -> Iterator[tuple[TunedConcept, Tensor]]:
    """The concept's losses on `model` as it stands, and its set; class images are the photos, as none are measured."""
    found = read_photos([photos / concept.name])[0]
    with trainable_kv_weights(model.denoiser) as params:
        pictures = [photo.image for photo in found] * 2
        subject = prepare_subject(SearchContext(model=model), params, concept, found, class_images=pictures)
        yield subject, params.mask_from_indices(concept.indices)


def measure(model: Model, concept: Concept, photos: Path) -> dict[str, Callable[[], Any]]:
    """The rows of one concept by name."""

    def on(function: Callable[[TunedConcept, Tensor], Any]) -> Any:
        with subject_on(model, concept, photos) as (subject, mask):
            return function(subject, mask)

    rows: dict[str, Callable[[], Any]] = {
        "kinds": lambda: _layers.kinds({param: len(v) for param, v in concept.indices.items()}, concept.base.tensors),
        "crowding": lambda: crowding(concept),
        "layers": lambda: on(by_layer),
        "attributes": lambda: by_attribute(model, concept, photos),
        "strength": lambda: on(lambda s, mask: [{"strength": x, "change": change(s, mask, x)} for x in STRENGTHS]),
    }
    for precision in PRECISIONS:
        rows[precision] = partial(at_precision, model, concept, photos, precision)
    return rows


def pictures(model: Model, concept: Concept, steps: int | None) -> bytes:
    """A PNG strip of one prompt and seed per row at rising strengths."""
    cone = Cone((concept,))
    prompts = [f"a {concept.name}", f"a {concept.name} on the beach"]
    rows = [
        [render(model, [prompt], cone, strength=s, seeds=[seed], steps=steps)[0].image for s in PICTURED]
        for seed, prompt in enumerate(prompts)
    ]
    out = io.BytesIO()
    grid(rows, prompts, [f"strength {s:g}" for s in PICTURED]).save(out, "PNG")
    return out.getvalue()


def tables(rows: Mapping[str, Any], concepts: Sequence[Concept]) -> str:
    """The results as Markdown."""
    lines = ["Changes are of the loss on held-out photos, in per cent of the untouched model's.", ""]
    for each in concepts:
        lines += concept_tables(each, {key: rows[f"{each.name} {key}"]["value"] for key in ROWS})
    lines += ["## Overlap", "", "| pair | shared | by chance | times chance |", "|---|---|---|---|"]
    for pair, found in rows["overlap"]["value"].items():
        times = found["shared"] / found["chance"] if found["chance"] else 0
        lines.append(f"| {pair} | {found['shared']:,} | {found['chance']:,.0f} | {times:.1f} |")
    return "\n".join(lines) + "\n"


ROWS = ("kinds", "crowding", "layers", "attributes", "strength", *PRECISIONS)


def concept_tables(concept: Concept, rows: Mapping[str, Any]) -> list[str]:
    """The tables of one concept."""
    lines = [f"## {concept.name}", "", "| projection | share of the neurons | density |", "|---|---|---|"]
    lines += [f"| {kind} | {v['share']:.1%} | {v['density']:.2%} |" for kind, v in rows["kinds"].items()]
    crowded = rows["crowding"]
    lines += ["", f"| in the fullest {FULLEST:.0%} of | neurons | random positions |", "|---|---|---|"]
    lines += [f"| {line} | {crowded[line]:.1%} | {crowded[f'random {line}']:.1%} |" for line in ("rows", "columns")]
    lines += ["", "| layer | neurons | alone | all but it | up to it |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['layer']} | {row['neurons']:,} | {row['alone']:+.1f} | {row['without']:+.1f} | {row['up to']:+.1f} |"
        for row in rows["layers"]
    ]
    if told := rows["attributes"]:
        lines += ["", f"| {told[0]['pictures']} pictures: | {' | '.join(told[0]['shares'])} |"]
        lines += [f"|{'---|' * (1 + len(told[0]['shares']))}"]
        lines += [f"| {row['set']} | {' | '.join(f'{100 * v:.0f}' for v in row['shares'].values())} |" for row in told]
    lines += ["", "| strength | " + " | ".join(f"{row['strength']:g}" for row in rows["strength"]) + " |"]
    lines += [f"|{'---|' * (len(STRENGTHS) + 1)}"]
    lines += ["| change | " + " | ".join(f"{row['change']:+.1f}" for row in rows["strength"]) + " |"]
    lines += ["", "| base rounded to | its loss | concept | random indices |", "|---|---|---|---|"]
    lines += [
        f"| {p} | {rows[p]['base']:.4f} | {rows[p]['concept']:+.1f} | {rows[p]['random']:+.1f} |" for p in PRECISIONS
    ]
    return [*lines, ""]


def run(args: argparse.Namespace) -> str:
    """Measure what is missing; the tables."""
    cone = ops.merge(*[load(file) for file in args.cones])
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "interpretation.json"
    rows = json.loads(file.read_text()) if file.exists() else {}
    model = Model.from_pretrained(args.model or cone.base.id)
    wanted: dict[str, Callable[[], Any]] = {"overlap": lambda: overlaps(cone)}
    for each in cone.concepts:
        wanted |= {f"{each.name} {key}": make for key, make in measure(model, each, args.photos).items()}
    for key, make in wanted.items():
        if key not in rows:
            begun = time.process_time()
            rows[key] = {"value": make(), "cpu_seconds": round(time.process_time() - begun, 1)}
            write_atomic(file, (json.dumps(rows, indent=1) + "\n").encode(), overwrite=True)
            print(f"{key}: {rows[key]['cpu_seconds']} s", flush=True)
    for each in cone.concepts:
        write_atomic(args.out / f"{each.name}-map.png", map_png(Cone((each,))), overwrite=True)
        if not (args.out / f"{each.name}-strength.png").exists():
            write_atomic(args.out / f"{each.name}-strength.png", pictures(model, each, args.draw_steps))
    return tables(rows, cone.concepts)


def overlaps(cone: Cone) -> dict[str, Any]:
    """What every pair shares, and by chance."""
    shared = ops.overlap(cone)
    return {
        f"{a.name} and {b.name}": {"shared": shared[a.name, b.name], "chance": round(chance(a, b), 1)}
        for a, b in combinations(cone.concepts, 2)
    }


def main() -> None:
    """Run and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cones", type=Path, nargs="+")
    parser.add_argument("--photos", type=Path, default=EXAMPLES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="default: the concepts' base model")
    parser.add_argument("--draw-steps", type=int, help="sampling steps; the model's default otherwise")
    args = parser.parse_args()
    text = run(args)
    write_atomic(args.out / "interpretation.md", text.encode(), overwrite=True)
    print(text)


if __name__ == "__main__":
    main()
