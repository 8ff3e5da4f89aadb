"""Several concepts at once: `python -m benchmarks.multi_subject --out FOLDER`.

For the first 2, 3, 4 and 6 of the subjects: the loss on every subject's held-out photos with its concept alone, with
all merged, after `tune` and after `tune` with `reopen_only`, beside as many random indices and, as the ceiling, a float
training of all K/V weights on the losses of `tune`; what the concepts share against chance; and how often all subjects
are in a picture: by pocket's judge, which knows their classes alone, beside what the base model draws of the same
words. Finished rows are kept in FOLDER/multi_subject.json and not repeated; concepts that are not in FOLDER yet are
found first.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.fidelity.floats import gathered
from benchmarks.interpretation import overlaps
from conestool import ops
from conestool._atomic import write_atomic
from conestool._names import rewrite
from conestool.concept import Cone
from conestool.evaluation.attribute_metric import AttributeMetric
from conestool.evaluation.judge import load_judge
from conestool.evaluation.pictures import draw
from conestool.format import load, save
from conestool.images.photos import Photo, read_photos
from conestool.models.model import Model
from conestool.rendering import grid, render
from conestool.search.composites import compose
from conestool.search.config import SearchConfig
from conestool.search.context import SearchContext
from conestool.search.find import find
from conestool.search.methods.joint_mask import JointMaskConfig
from conestool.search.parameters import trainable_kv_weights
from conestool.search.prior_images import draw_prior_images
from conestool.search.tune import TUNED, TuneConfig, composite_subject, match_photos, prepare_subjects, tune

EXAMPLES = Path(__file__).parents[1] / "examples" / "openmoji"
SUBJECTS = ("dog", "hat", "cat", "rabbit", "car", "bear")
PLACES = ("", " on the beach", " in a field", " in the snow", " at night", " on the street")
STEPS = ("alone", "merged", "reopened", "tuned", "random", "ceiling")
KINDS = ("bare", "merged", "reopened", "tuned", "ceiling")
SHOWN = 6
"""Pictures of a group on its sheet."""


class Bench:
    """The model, the subjects' concepts and photos, and the rows that are done."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        args.out.mkdir(parents=True, exist_ok=True)
        self.file = args.out / "multi_subject.json"
        self.rows: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.model = Model.from_pretrained(args.model)
        self.metric = AttributeMetric(load_judge())

    def row(self, key: str, make: Callable[[], Any]) -> Any:
        """The row `key`, made if it is not there yet, with its CPU seconds."""
        if key not in self.rows:
            begun = time.process_time()
            self.rows[key] = {"value": make(), "cpu_seconds": round(time.process_time() - begun, 1)}
            write_atomic(self.file, (json.dumps(self.rows, indent=1) + "\n").encode(), overwrite=True)
            print(f"{key}: {self.rows[key]['cpu_seconds']} s", flush=True)
        return self.rows[key]["value"]

    def photos(self, name: str) -> list[Photo]:
        """The photos of one subject."""
        return read_photos([self.args.photos / name])[0]

    def concept(self, name: str) -> Cone:
        """The concept of one subject, found if its file is not there yet."""
        file = self.args.out / f"{name}.cone"
        if not file.exists():
            method = f"mask,steps={self.args.search_steps}" if self.args.search_steps else "mask"
            weight = self.args.find_composite_weight
            config = SearchConfig(method=method, seed=self.args.seed, composite_weight=weight)
            begun = time.process_time()
            save(find(self.model, self.photos(name), name, config=config), file)
            print(f"find {name}: {time.process_time() - begun:.1f} s", flush=True)
        return load(file)

    def tuning(self, reopen_only: bool) -> TuneConfig:
        """The tuning that was asked for."""
        config = SearchConfig(seed=self.args.seed)
        mask = JointMaskConfig(steps=self.args.steps, reopen_only=reopen_only)
        return TuneConfig(mask=mask, composite_weight=self.args.composite_weight, search=config)

    def context(self) -> SearchContext:
        """What the losses of tuning share."""
        return SearchContext(model=self.model, config=self.tuning(False).subject_config)


def tuned(bench: Bench, cone: Cone, file: Path, reopen_only: bool) -> dict[str, Any]:
    """Tune `cone` into `file`; what it says of every concept, empty where the cone came back as it was."""
    photos = {name: bench.photos(name) for name in cone.names}
    done = tune(bench.model, cone, photos, config=bench.tuning(reopen_only))
    save(done, file, overwrite=True)
    return {each.name: each.origin.parameters.get(TUNED, {}) for each in done.concepts}


def ceiling(bench: Bench, names: Sequence[str], cone: Cone) -> dict[str, Any]:
    """All K/V weights as floats, trained together on the losses of `tune`: Adam, its rate falling to 0.

    As "losses" those on each one's held-out photos, as "present" what `seen` finds in the pictures.
    """
    photos = match_photos(cone, {name: bench.photos(name) for name in cone.names})
    with trainable_kv_weights(bench.model.denoiser) as params:
        subjects = prepare_subjects(bench.context(), params, cone, photos)
        weights = subjects[0].objective.weights.float().clone()
        optimizer = torch.optim.Adam([weights])
        for index in range(bench.args.ceiling_steps):
            for group in optimizer.param_groups:
                group["lr"] = bench.args.ceiling_rate * (1 - index / bench.args.ceiling_steps)
            weights.grad = torch.stack([gathered(each.objective, weights, index) for each in subjects]).sum(0)
            optimizer.step()
        losses = {each.concept.name: each.objective.loss(weights, each.eval_batches.held_out) for each in subjects}
        texts = [rewrite(text, cone.concepts) for text in texts_of(bench, names)]
        images = [draw(bench.model, params, weights, [text], [number])[0] for number, text in enumerate(texts)]
    return {"losses": losses, "present": seen(bench, names, images, "ceiling")}


def sentence(names: Sequence[str]) -> str:
    """ "a dog in a hat, a cat and a car": the hat on the first animal, as pocket's captions have it."""
    others = [name for name in names if name != "hat"]
    phrases = [f"a {name}" for name in others]
    if "hat" in names:
        phrases[0] += " in a hat"
    return " and ".join(part for part in (", ".join(phrases[:-1]), phrases[-1]) if part)


def judged(images: Sequence[Image.Image], names: Sequence[str], metric: AttributeMetric) -> list[list[bool]]:
    """Per picture, whether the judge sees each of `names` among as many things, or worn; any top hat is a hat."""
    world = metric.judge.world
    accepted = [set(world.classes(name)) for name in names]
    found = [reading.classes(world.wear) for reading in metric.read(images)]
    return [[bool(kinds & seen) for kinds in accepted] for seen in found]


def shares(rows: Sequence[Sequence[bool]], names: Sequence[str]) -> dict[str, Any]:
    """Share of pictures that hold all, and each."""
    each = {name: sum(row[i] for row in rows) / len(rows) for i, name in enumerate(names)}
    return {"all": sum(all(row) for row in rows) / len(rows), "each": each, "pictures": len(rows)}


def texts_of(bench: Bench, names: Sequence[str]) -> list[str]:
    """What is asked for: the same words in one place after the other."""
    return [sentence(names) + PLACES[number % len(PLACES)] for number in range(bench.args.renders)]


def present(bench: Bench, names: Sequence[str], cone: Cone | None, kind: str) -> dict[str, Any]:
    """What `seen` finds with a cone, or of the base model; the same words, places and seeds for every cone."""
    images: list[Image.Image] = []
    for number, text in enumerate(texts_of(bench, names)):
        drawn = render(bench.model, [text], cone, seeds=[number], steps=bench.args.draw_steps)
        images += [each.image for each in drawn]
    return seen(bench, names, images, kind)


def seen(bench: Bench, names: Sequence[str], images: Sequence[Image.Image], kind: str) -> dict[str, Any]:
    """`shares` by the judge; the first pictures are kept under `kind`."""
    sheet(bench.args.out / f"{len(names)}-{kind}.png", [images])
    return shares(judged(images, names, bench.metric), names)


def sheet(file: Path, rows: Sequence[Sequence[Image.Image]]) -> None:
    """The first pictures of every row."""
    out = io.BytesIO()
    grid([list(row[:SHOWN]) for row in rows]).save(out, "PNG")
    write_atomic(file, out.getvalue(), overwrite=True)


def show_scenes(bench: Bench, cone: Cone) -> None:
    """The first scenes of the first concept, as the base model drew them and with all subjects in them."""
    context, (first, *others) = bench.context(), cone.concepts
    subjects = [composite_subject(each, bench.photos(each.name), context.config) for each in (first, *others)]
    priors = draw_prior_images(context, first.class_noun, beside=[each.noun for each in subjects[1:]])
    specs, drawn = priors.composite_specs, priors.scene_images
    composites = compose(context, specs, drawn, subjects, others=priors.other_classes)
    sheet(bench.args.out / f"{len(cone.concepts)}-scenes.png", [priors.scene_images, composites.images])


def group(bench: Bench, count: int) -> None:
    """All rows of the first `count` subjects."""
    names = bench.args.subjects[:count]
    cone = ops.merge(*[bench.concept(name) for name in names])
    files = {kind: bench.args.out / f"{count}-{kind}.cone" for kind in bench.args.tunings}
    bench.row(f"{count} overlap", lambda: overlaps(cone))
    for kind, file in files.items():
        bench.row(f"{count} {kind}", partial(tuned, bench, cone, file, kind == "reopened"))
    if bench.args.ceiling_steps:
        bench.row(f"{count} ceiling", lambda: ceiling(bench, names, cone))
    if bench.args.renders:
        if bench.args.composite_weight:
            show_scenes(bench, cone)
        cones = {"bare": None, "merged": cone, **{kind: load(file) for kind, file in files.items()}}
        for kind, each in cones.items():
            bench.row(f"{count} present {kind}", partial(present, bench, names, each, kind))


def losses_of(rows: dict[str, Any], count: int, name: str, prefix: str = "") -> dict[str, float]:
    """Change against the base model's, in per cent, per step of the table that is done: of one subject's held-out loss,
    or with the prefix `class_` of its class's."""
    full, opened = (rows.get(f"{count} {kind}", {}).get("value", {}).get(name) for kind in ("tuned", "reopened"))
    source = (full or opened or {}).get("losses")
    if not source:
        return {}
    found = {key: source[prefix + key] for key in ("alone", "merged", "random")}
    for key, done in (("tuned", full), ("reopened", opened)):
        if done is not None:  # empty where the cone came back as it was
            found[key] = done["losses"][f"{prefix}tuned"] if done else source[f"{prefix}merged"]
    if not prefix and f"{count} ceiling" in rows:
        found["ceiling"] = rows[f"{count} ceiling"]["value"]["losses"][name]
    return {key: 100 * (value / source[f"{prefix}base_model"] - 1) for key, value in found.items()}


def tables(rows: dict[str, Any], groups: Sequence[int], subjects: Sequence[str]) -> str:
    """The results as Markdown."""
    lines = ["Change of the loss on held-out photos against the base model, and (on its class), in per cent.", ""]
    lines += [f"| concepts | subject | {' | '.join(STEPS)} |", f"|{'---|' * (len(STEPS) + 2)}"]
    for count in groups:
        for name in subjects[:count]:
            own, of_class = losses_of(rows, count, name), losses_of(rows, count, name, "class_")
            cells = [f"{own[k]:+.1f}" if k in own else "" for k in STEPS]
            cells = [f"{c} ({of_class[k]:+.1f})" if k in of_class else c for k, c in zip(STEPS, cells, strict=True)]
            lines.append(f"| {count} | {name} | {' | '.join(cells)} |")
    lines += ["", "Pictures that hold all, and the share of all that are there: by the judge, of their classes.", ""]
    lines += [f"| concepts | {' | '.join(KINDS)} |", f"|{'---|' * (len(KINDS) + 1)}"]
    for count in groups:
        found = [there(rows, count, kind) for kind in KINDS]
        if found[0]:
            lines.append(f"| {count} | " + " | ".join(presence(each) for each in found) + " |")
    lines += ["", "| pair | shared | by chance |", "|---|---|---|"]
    for pair, found in rows[f"{max(groups)} overlap"]["value"].items():
        lines.append(f"| {pair} | {found['shared']:,} | {found['chance']:,.0f} |")
    return "\n".join(lines) + "\n"


def there(rows: dict[str, Any], count: int, kind: str) -> dict[str, Any]:
    """What `seen` found in the pictures of a kind; empty where they are not drawn."""
    value: dict[str, Any] = rows.get(f"{count} ceiling" if kind == "ceiling" else f"{count} present {kind}", {}).get(
        "value", {}
    )
    return value.get("present", {}) if kind == "ceiling" else value


def presence(found: dict[str, Any]) -> str:
    """ "58 % (81 %)": pictures that hold all, and the mean over subjects of those that hold each."""
    return "" if not found else f"{found['all']:.0%} ({sum(found['each'].values()) / len(found['each']):.0%})"


def main() -> None:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--photos", type=Path, default=EXAMPLES, help="a folder with a folder per subject")
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS))
    parser.add_argument("--groups", type=int, nargs="+", default=[2, 3, 4, 6])
    parser.add_argument("--steps", type=int, default=20, help="of tune")
    parser.add_argument("--search-steps", type=int, help="of find; its default otherwise")
    parser.add_argument("--find-composite-weight", type=float, default=0.0, help="weight of scenes for find")
    parser.add_argument(
        "--composite-weight", type=float, default=TuneConfig.composite_weight, help="weight of scenes for tune"
    )
    parser.add_argument("--tunings", nargs="+", default=["reopened", "tuned"], choices=["reopened", "tuned"])
    parser.add_argument("--ceiling-steps", type=int, default=60, help="of the float training; 0 for none")
    parser.add_argument("--ceiling-rate", type=float, default=3e-3, help="Adam's in it, at the beginning")
    parser.add_argument("--renders", type=int, default=48)
    parser.add_argument("--draw-steps", type=int, help="sampling steps; the model's default otherwise")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    bench = Bench(args)
    for count in args.groups:
        group(bench, count)
    text = tables(bench.rows, args.groups, args.subjects)
    write_atomic(args.out / "multi_subject.md", text.encode(), overwrite=True)
    print(text)


if __name__ == "__main__":
    main()
