"""Judge the model: ``python -m training.pocket.evaluate --work F --renders 500 --out F``.

Every row renders captions of random individuals at the default steps and guidance, and the attribute judge reads
the pictures; a picture is right if the judge reads what the caption names. Writes ``evaluation.json`` (rows of
``name``, ``goal``, ``value``, ``met``), the table ``evaluation.md`` and a contact sheet of each row's first renders.
Pictures that an earlier call left in ``--out`` are taken from there, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from conestool.evaluation.judge import AttributeJudge, Reading
from training.pocket import captions, export, judge, labels, measures, sample, scenes, world
from training.pocket.sheets import write_sheet
from training.pocket.sprites import SpriteBank
from training.pocket.world import Scene

#: Attributes that make an individual, whatever it wears.
IDENTITY = ("class", "main", "second", "pattern", "outline", "ears", "ear colour", "muzzle", "eyes")
HAT = ("headwear", "headwear main", "headwear second", "headwear pattern")
Right = Callable[[Reading, Scene], bool]


def _bare(rng: random.Random, count: int) -> Scene:
    """Return a scene of things with nothing on."""
    return world.sample_scene(rng, count, worn=0.0)


def _animal(rng: random.Random, **changes: object) -> Scene:
    while True:
        thing = world.sample_animal(rng)
        if all(getattr(thing, name) not in ("", "plain") for name, value in changes.items() if value):
            return Scene(things=(thing,), background="plain")


def _described(rng: random.Random, count: int) -> Scene:
    return replace(_bare(rng, count), background="plain")


def _hatted(rng: random.Random) -> Scene:
    thing = replace(world.sample_animal(rng), headwear=world.sample_wearable(rng, rng.choice(world.HATS)))
    return Scene(things=(thing,), background="plain")


def _placed(rng: random.Random) -> Scene:
    return replace(_bare(rng, 1), background=rng.choice((*world.BACKGROUNDS, *world.COLOURS)))


def _agrees(names: Sequence[str]) -> Right:
    """Return a test: as many things as asked for, each with the named attributes as they are."""

    def right(reading: Reading, scene: Scene) -> bool:
        if len(reading.things) != len(scene.things):
            return False
        return all(
            read[name] == true[name]
            for read, true in zip(reading.things, map(labels.labels_of, scene.things), strict=True)
            for name in names
        )

    return right


@dataclass(frozen=True)
class Row:
    """Captions of one kind, and what is judged of their pictures: a name, a goal in % and a test for each verdict."""

    draw: Callable[[random.Random], Scene]
    named: tuple[str, ...]
    verdicts: tuple[tuple[str, float, Right], ...]


NAMED = tuple(n for n in captions.ATTRIBUTES if n not in ("headwear", "other wear"))
ROWS = (
    Row(lambda rng: _bare(rng, 1), (), (("class of one thing", 99, _agrees(["class"])),)),
    Row(lambda rng: _bare(rng, 2), (), (("both classes of two", 97, _agrees(["class"])),)),
    Row(lambda rng: _bare(rng, 3), (), (("all classes of three", 95, _agrees(["class"])),)),
    Row(lambda rng: _bare(rng, 4), (), (("all classes of four", 90, _agrees(["class"])),)),
    Row(lambda rng: _bare(rng, 1), ("main",), (("main colour when named", 97, _agrees(["main"])),)),
    Row(
        lambda rng: _animal(rng, pattern=True),
        ("main", "pattern"),
        (("marking kind", 92, _agrees(["pattern"])), ("marking colour", 92, _agrees(["second"]))),
    ),
    Row(lambda rng: _animal(rng, ears=True), ("main", "ears"), (("ears", 92, _agrees(["ears"])),)),
    Row(
        lambda rng: _described(rng, 2),
        NAMED,
        (("two described things, every attribute on its own", 80, _agrees(IDENTITY)),),
    ),
    Row(
        lambda rng: _hatted(rng),
        ("headwear", "pattern", "main"),
        (("X in a described hat", 90, _agrees(["class", *HAT])),),
    ),
    Row(_placed, (), (("background", 99, lambda reading, scene: reading.background == scene.background),)),
)


def caption_of(scene: Scene, named: Sequence[str], rng: random.Random) -> str:
    """Return a caption that names just these attributes of each thing, and the background."""
    phrases = [captions.thing_phrase(rng, thing, named) for thing in scene.things]
    return captions.join_phrases(rng, phrases, captions.place_phrase(rng, scene.background), prefix="a photo of ")


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """Turn (N, 64, 64, 3) bytes into (N, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def result(name: str, goal: str, value: float, met: bool | None, **more: object) -> dict[str, Any]:
    """Return one row of ``evaluation.json``; ``met`` is None where there is no goal."""
    return {"name": name, "goal": goal, "value": round(value, 4), "met": met, **more}


@dataclass
class Study:
    """What the rows share, and what they leave for the measures after them."""

    pipe: StableDiffusionPipeline
    judge: AttributeJudge
    bank: SpriteBank
    renders: int
    out: Path
    guidance: float = export.GUIDANCE
    pictures: list[Tensor] = field(default_factory=list)
    scenes: list[Scene] = field(default_factory=list)

    def read(self, images: Tensor) -> list[Reading]:
        """Return what the judge reads."""
        return [reading for part in torch.split(images, 100) for reading in self.judge.read(part)]

    def render(self, name: str, texts: list[str], seed: int) -> Tensor:
        """Draw one picture per text, or take those of an earlier call: (N, 3, 64, 64)."""
        kept = self.out / f"{name}.npz"
        if not kept.exists():
            np.savez_compressed(kept, pictures=sample.render(self.pipe, texts, seed, guidance=self.guidance))
        pictures = np.load(kept)["pictures"]
        if len(pictures) != len(texts):
            raise SystemExit(f"{kept} holds {len(pictures)} pictures, not {len(texts)}: delete it or give --renders")
        write_sheet(self.out / f"{name}.png", pictures[:48], texts[:48], 12, 2)
        return to_tensor(pictures)

    def run_row(self, row: Row, index: int) -> list[dict[str, Any]]:
        """Render one row's captions and judge them, and composed scenes of the same captions as the ceiling."""
        rng = random.Random(measures.SEED + index)
        drawn = [row.draw(rng) for _ in range(self.renders)]
        texts = [caption_of(scene, row.named, rng) for scene in drawn]
        images = self.render(f"row-{index + 1}", texts, 10_000 * index)
        real = self.read(scenes.compose(drawn, self.bank, measures.SEED + index))
        seen = self.read(images)
        self.pictures.append(images)
        self.scenes += drawn
        results = []
        for name, goal, right in row.verdicts:
            value, ceiling = (
                sum(right(reading, scene) for reading, scene in zip(readings, drawn, strict=True)) / len(drawn)
                for readings in (seen, real)
            )
            results.append(
                result(name, f">= {goal} %", 100 * value, 100 * value >= goal, scenes=round(100 * ceiling, 2))
            )
        print(*results, sep="\n", flush=True)
        return results

    def variety(self) -> list[dict[str, Any]]:
        """Draw the barest captions and compare the individuals with those that the world draws."""
        kinds = [world.ANIMALS[i % len(world.ANIMALS)] for i in range(self.renders)]
        images = self.render("variety", [f"a photo of a {kind}".replace("a e", "an e") for kind in kinds], 500_000)
        seen = [reading.things[0] for reading in self.read(images)]
        rng = random.Random(measures.SEED)
        truth = [labels.labels_of(world.sample_animal(rng, kinds[i % len(kinds)])) for i in range(20_000)]
        open_ones = [name for name in IDENTITY if name != "class"]
        shares = [
            measures.entropy_share([s[name] for s in seen], dict(Counter(t[name] for t in truth))) for name in open_ones
        ]
        value = 100 * sum(shares) / len(shares)
        same = self.render("same", ["a photo of a dog"] * self.renders, 600_000)
        dogs = [reading.things[0] for reading in self.read(same)]
        real = [labels.labels_of(world.sample_animal(rng, "dog")) for _ in range(3000)]
        rate = measures.same_individual(dogs, IDENTITY) / max(measures.same_individual(real, IDENTITY), 1e-9)
        return [
            result("variety of what captions leave open, share of the world's entropy", ">= 90 %", value, value >= 90),
            result("two seeds the same individual, multiple of the world's rate", "<= 2", rate, rate <= 2),
        ]

    def distances(self) -> list[dict[str, Any]]:
        """Compare all renders with scenes of the same captions: Frechet distance and two-sample test."""
        renders = torch.cat(self.pictures)
        count = min(len(renders), self.renders)
        chosen = torch.randperm(len(renders), generator=torch.Generator().manual_seed(0))[:count]
        drawn = [self.scenes[int(i)] for i in chosen]
        real, again = (scenes.compose(drawn, self.bank, measures.SEED + 50 + i) for i in (0, 1))
        coded = measures.decoded(self.pipe.vae, real)
        ours, first, second, seen = (measures.features(self.judge, x) for x in (renders[chosen], real, again, coded))
        unit = measures.frechet(first, second)
        multiple, own = measures.frechet(ours, first) / unit, measures.frechet(seen, second) / unit
        apart = 100 * measures.tell_apart(renders[chosen], coded)
        return [
            result("Frechet multiple to scenes", "<= 5", multiple, multiple <= 5, autoencoded=round(own, 2)),
            result("two-sample test against autoencoded scenes", "<= 75 %", apart, apart <= 75),
        ]

    def others(self, model: Path | None) -> list[dict[str, Any]]:
        """Measure speed, size, and how far the text is used."""
        seconds = measures.seconds_a_picture(self.pipe)
        rows = [result("picture of 25 steps, one thread, seconds", "<= 1.5", seconds, seconds <= 1.5)]
        if model:
            size = measures.weights_mb(model)
            rows.append(result("weights, MB", "< 60", size, size < 60))
        rows.append(result("loss with text : without", "report", measures.text_ratio(self.pipe, self.bank), None))
        cosines = measures.text_cosines(self.pipe).items()
        return rows + [result(f"cosine of text states: {words}", "report", value, None) for words, value in cosines]


def table(results: Sequence[dict[str, Any]]) -> str:
    """Format the results as a Markdown table."""
    lines = ["| measure | goal | value | on composed scenes |", "|---|---|---|---|"]
    for row in results:
        ceiling = f"{row['scenes']:g}" if "scenes" in row else ""
        ceiling = f"{row['autoencoded']:g} (autoencoded)" if "autoencoded" in row else ceiling
        value = f"{row['value']:.3g}"
        lines.append(
            f"| {row['name']} | {row['goal']} | {value if row['met'] is not False else f'**{value}**'} | {ceiling} |"
        )
    return "\n".join(lines) + "\n\nBold: the goal is missed.\n"


def main() -> None:
    """Run all rows and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--renders", type=int, default=500)
    parser.add_argument("--rows", type=int, nargs="+", help="only these rows (from 1), and no other measure")
    parser.add_argument("--model", type=Path, help="an exported folder instead of the last checkpoint")
    parser.add_argument("--guidance", type=float, default=export.GUIDANCE, help="each its own --out")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pipe = load_pipeline(args.work, args.model)
    bank = SpriteBank(args.work / "sprites.npy")
    study = Study(pipe, judge.load(args.work), bank, args.renders, args.out, args.guidance)
    numbers = args.rows or range(1, len(ROWS) + 1)
    results = [each for number in numbers for each in study.run_row(ROWS[number - 1], number - 1)]
    if not args.rows:
        results += study.variety() + study.distances() + study.others(args.model)
        (args.out / "evaluation.json").write_text(json.dumps(results, indent=1) + "\n")
        (args.out / "evaluation.md").write_text(table(results))
    print(table(results), flush=True)


def load_pipeline(work: Path, model: Path | None) -> StableDiffusionPipeline:
    """Return the pipeline of a checkpoint or of an exported folder, in fp32."""
    if model is None:
        return export.build_pipeline(work)[0]
    pipe = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


if __name__ == "__main__":
    main()
