"""Judge the model: ``python -m training.pocket.evaluate --work F --renders 500 --out F``.

Every row renders captions of random scenes at the default steps and guidance. Writes ``evaluation.json``, the table
``evaluation.md`` and one contact sheet per row (the first renders, not chosen).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from conestool.render.drawing import other_scheduler
from training.pocket import captions, domain, evaluator, export, measures, sample, scenes
from training.pocket.scenes import Item, Mix, Scene
from training.pocket.sheets import write_sheet
from training.pocket.sprites import SpriteBank


def _scene(rng: random.Random, mix: Mix, things: int) -> Scene:
    """Return a scene of bare things in their native colours."""
    return scenes.sample_scene(rng, dataclasses.replace(mix, alone=0.0, worn=0.0, colour=0.0), things)


def _coloured(rng: random.Random, mix: Mix) -> Scene:
    scene = _scene(rng, mix, 1)
    colours = [c for c in domain.COLOURS if c != scene.background]
    return Scene((dataclasses.replace(scene.items[0], colour=rng.choice(colours)),), scene.background)


def _placed(rng: random.Random, mix: Mix) -> Scene:
    return Scene(_scene(rng, mix, 1).items, rng.choice([b for b in mix.kinds if b != "plain"]))


def _hatted(rng: random.Random, mix: Mix) -> Scene:
    noun, hat = rng.choice(mix.animals), rng.choice([w for w in mix.wearables if w in domain.HATS])
    word = "hat" if hat in domain.GENERIC_HATS and rng.random() < 0.4 else hat
    return Scene((Item(noun, noun, "", Item(hat, word)),), _scene(rng, mix, 1).background)


Judged = Callable[[tuple[Tensor, Tensor, Tensor], int, Scene], bool]


def _nouns_right(out: tuple[Tensor, Tensor, Tensor], row: int, scene: Scene) -> bool:
    """Tell whether the likeliest nouns, as many as the scene has, are the scene's."""
    things = [t for item in scene.items for t in (item, item.wears) if t]
    names = {evaluator.NOUNS[int(i)] for i in out[0][row].topk(len(things)).indices}
    accepted = [domain.GENERIC_HATS if t.word == "hat" else (t.noun,) for t in things]
    return all(names & set(kinds) for kinds in accepted)


def _colour_right(out: tuple[Tensor, Tensor, Tensor], row: int, scene: Scene) -> bool:
    return list(domain.COLOURS)[int(out[2][row, 1:].argmax())] == scene.items[0].colour


def _place_right(out: tuple[Tensor, Tensor, Tensor], row: int, scene: Scene) -> bool:
    return evaluator.PLACES[int(out[1][row].argmax())] == scene.background


@dataclasses.dataclass(frozen=True)
class Row:
    """Captions of one kind, and what is judged of their pictures: a name and a goal for each verdict."""

    draw: Callable[[random.Random, Mix], Scene]
    verdicts: tuple[tuple[str, str, Judged], ...]


ROWS = (
    Row(lambda rng, mix: _scene(rng, mix, 1), (("one object: class right", ">= 97 %", _nouns_right),)),
    Row(lambda rng, mix: _scene(rng, mix, 2), (("two objects: both right", ">= 80 %", _nouns_right),)),
    Row(
        _coloured,
        (("colour word right", ">= 90 %", _colour_right), ("coloured object: class right", "report (%)", _nouns_right)),
    ),
    Row(_placed, (("background right", ">= 95 %", _place_right),)),
    Row(_hatted, (("X in a HAT: both right", ">= 80 %", _nouns_right),)),
    Row(lambda rng, mix: _scene(rng, mix, 3), (("three objects: all right", ">= 60 %", _nouns_right),)),
    Row(lambda rng, mix: _scene(rng, mix, 4), (("four objects: all right", ">= 40 %", _nouns_right),)),
)


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """Turn (N, 64, 64, 3) bytes into (N, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclasses.dataclass
class Study:
    """What the rows share, and what they leave for the measures after them."""

    pipe: StableDiffusionPipeline
    judge: evaluator.Judge
    bank: SpriteBank
    mix: Mix
    renders: int
    out: Path
    guidance: float = export.GUIDANCE
    pictures: list[Tensor] = dataclasses.field(default_factory=list)
    scenes: list[Scene] = dataclasses.field(default_factory=list)

    @torch.no_grad()
    def judge_all(self, images: Tensor, drawn: list[Scene], right: Judged) -> float:
        """Return the share that the judge finds right."""
        heads = [self.judge(part) for part in torch.split(images, 100)]
        out = tuple(torch.cat(parts) for parts in zip(*heads, strict=True))
        return sum(right(out, i, s) for i, s in enumerate(drawn)) / len(drawn)  # type: ignore[arg-type]

    def draw_row(self, row: Row, index: int) -> tuple[list[Scene], NDArray[np.uint8]]:
        """Render one row's captions; pictures that an earlier call left in the folder are taken from there."""
        rng = random.Random(measures.SEED + index)
        drawn = [row.draw(rng, self.mix) for _ in range(self.renders)]
        texts = [captions.caption(s, rng, identifiers=0) for s in drawn]
        kept = self.out / f"row-{index + 1}.npz"
        if not kept.exists():
            np.savez_compressed(kept, pictures=self.render(texts, 10_000 * index))
        pictures = np.load(kept)["pictures"]
        if len(pictures) != len(drawn):
            raise SystemExit(f"{kept} holds {len(pictures)} pictures, not {len(drawn)}: delete it or give --renders")
        write_sheet(self.out / f"row-{index + 1}.png", pictures[:48], texts[:48], 12, 2)
        return drawn, pictures

    def render(self, texts: list[str], seed: int) -> NDArray[np.uint8]:
        """Draw one picture per text: (N, 64, 64, 3)."""
        return sample.render(self.pipe, texts, seed, guidance=self.guidance)

    def run_row(self, row: Row, index: int) -> list[dict[str, Any]]:
        """Render one row's captions and judge them, and composed scenes of the same captions as the ceiling."""
        drawn, pictures = self.draw_row(row, index)
        images, real = to_tensor(pictures), scenes.compose(drawn, self.bank, measures.SEED + index, self.mix.jitter)
        self.pictures.append(images)
        self.scenes += drawn
        results = [
            {
                "measure": name,
                "goal": goal,
                "value": round(self.judge_all(images, drawn, right), 4),
                "scenes": round(self.judge_all(real, drawn, right), 4),
            }
            for name, goal, right in row.verdicts
        ]
        print(*results, sep="\n", flush=True)
        return results

    def distances(self) -> list[dict[str, Any]]:
        """Compare all renders with scenes of the same captions: Frechet distance and two-sample test."""
        renders = torch.cat(self.pictures)
        real = scenes.compose(self.scenes, self.bank, measures.SEED + 50, self.mix.jitter)
        again = scenes.compose(self.scenes, self.bank, measures.SEED + 51, self.mix.jitter)
        seen = measures.decoded(self.pipe.vae, real)
        ours, first, second, coded = (measures.features(self.judge, x) for x in (renders, real, again, seen))
        unit = measures.frechet(first, second)
        return [
            {
                "measure": "Frechet distance to scenes, multiple of scenes to scenes",
                "goal": "<= 5",
                "value": round(measures.frechet(ours, first) / unit, 2),
                "autoencoded": round(measures.frechet(coded, second) / unit, 2),
            },
            {
                "measure": "two-sample test, accuracy",
                "goal": "<= 80 %",
                "value": round(measures.tell_apart(renders, seen), 4),
            },
        ]


def table(results: list[dict[str, Any]]) -> str:
    """Format the results as a Markdown table."""
    lines = ["| measure | goal | value | on composed scenes |", "|---|---|---|---|"]
    for row in results:
        percent = "%" in row["goal"]
        value = f"{100 * row['value']:.1f} %" if percent else f"{row['value']:g}"
        ceiling = f"{100 * row['scenes']:.1f} %" if "scenes" in row else ""
        ceiling = f"{row['autoencoded']:g} (autoencoded)" if "autoencoded" in row else ceiling
        lines.append(f"| {row['measure']} | {row['goal']} | {value} | {ceiling} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all rows and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--renders", type=int, default=500)
    parser.add_argument("--model", type=Path, help="an exported folder instead of the last checkpoint")
    parser.add_argument("--guidance", type=float, default=export.GUIDANCE, help="each its own --out")
    parser.add_argument(
        "--sampler", help="a diffusers scheduler instead of the model's own, e.g. DDIM; each its own --out"
    )
    parser.add_argument("--draw", type=int, nargs="+", help="only render these rows (from 1), for the next call")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pipe, facts = load_pipeline(args.work, args.model)
    if args.sampler:
        pipe.scheduler = other_scheduler(f"{args.sampler}Scheduler", pipe.scheduler.config)
    bank = SpriteBank(args.work / "sprites.npz", torch.device("cpu"))
    measures.check_not_held_out(bank)
    judge, mix = evaluator.load(args.work, torch.device("cpu")), scenes.MIXES[facts["domain"]]
    bank.restrict(mix.sets, mix.skips)
    study = Study(pipe, judge, bank, mix, args.renders, args.out, args.guidance)
    if args.draw:
        for number in args.draw:
            study.draw_row(ROWS[number - 1], number - 1)
        return
    results = [result for index, row in enumerate(ROWS) for result in study.run_row(row, index)]
    quality = measures.autoencoder_psnr(pipe.vae, args.work)
    for name, goal in (("scenes", ">= 27 dB"), ("openmoji", ">= 25 dB")):
        results.append({"measure": f"autoencoder PSNR, {name}", "goal": goal, "value": round(quality[name], 2)})
    ratio = measures.text_ratio(pipe, args.work, study.mix)
    results.append({"measure": "loss with text : without", "goal": "report", "value": round(ratio, 4)})
    for words, cosine in measures.text_cosines(pipe, study.mix.objects).items():
        results.append({"measure": f"cosine of text states: {words}", "goal": "report", "value": round(cosine, 4)})
    results += study.distances()
    if args.model:
        results += measures.costs(args.model)
    report = {
        "images_seen": facts["images_seen"],
        "domain": facts["domain"],
        "renders_per_row": args.renders,
        "guidance": args.guidance,
        "sampler": type(pipe.scheduler).__name__.removesuffix("Scheduler"),
        "results": results,
    }
    report["judge_on_held_out_scenes"] = evaluator.check(study.judge, bank, None, mix)
    (args.out / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "evaluation.md").write_text(table(results))
    print(table(results), flush=True)


def load_pipeline(work: Path, model: Path | None) -> tuple[StableDiffusionPipeline, dict[str, Any]]:
    """Return the pipeline in fp32 and what ``pocket.json`` says of it."""
    if model is None:
        pipe, state = export.build_pipeline(work)
        return pipe, export.facts(state)
    pipe = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe, json.loads((model / "pocket.json").read_text())


if __name__ == "__main__":
    main()
