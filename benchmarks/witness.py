"""The witness, who knows the example subjects: `python -m benchmarks.witness --work WORK --icons MODULES --out FILE`.

Whether a picture holds a subject cannot be asked of a judge of classes: no class has such a design. The witness is
a network of the judge's shape, trained on composed scenes in which the drawing of a subject, things of its kind and
everything else occur. A third of them are as drawn, a third went through pocket's autoencoder, and a third through its
denoiser too, from a little noise on and under their captions, which name no subject: they are as soft as what pocket
draws, and their subjects a little less themselves. All are blurred and noisy to some degree. It never saw a picture
that pocket made up. WORK is the work folder of `training.pocket` with its sprites, MODULES one with
@iconify-json/openmoji; `benchmarks.plural --witness FILE` asks it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from conestool._atomic import write_atomic
from conestool.diffusion.losses import predict, schedule_of, stratified_timesteps
from conestool.diffusion.models import Model, load_model
from conestool.diffusion.photos import read_photos
from conestool.diffusion.prompts import encode
from conestool.evaluate.alignment import SIDE, pixels
from conestool.evaluate.judge import Judge, Labels, save_judge
from examples.make import SUBJECTS, draw
from training.pocket import domain, scenes
from training.pocket.captions import caption
from training.pocket.common import mixed_precision
from training.pocket.icons import SPRITE_SIZE
from training.pocket.scenes import Item, Scene
from training.pocket.sprites import SpriteBank

NAMES = tuple(subject.folder for subject in SUBJECTS)
NOUNS = {name: {"hat": "top hat"}.get(name, name) for name in NAMES}
LABELS = Labels(NAMES, ("any",), ("",))
MIX = scenes.WIDE
SHARE, CLASSMATES = 0.4, 0.4
"""How many things of a scene become a subject, and how many of the others a thing of a subject's kind."""
NOISE = (0.1, 0.4)
"""How much noise the denoiser takes away again, as shares of the schedule; with more it draws things of its own."""
HELD_OUT_SEED = 770_000


def subjects_of(icons: Path) -> dict[str, np.ndarray]:
    """The subjects' drawings as the bank has its sprites: `rgba` (8, S, S, 4), `noun` and `icon`."""
    table = json.loads((icons / "@iconify-json/openmoji/icons.json").read_text(encoding="utf-8"))
    drawings = []
    for subject in SUBJECTS:
        picture = draw(table, subject, round(SPRITE_SIZE * 11 / 12))
        square = Image.new("RGBA", (SPRITE_SIZE, SPRITE_SIZE))
        square.paste(picture, ((SPRITE_SIZE - picture.width) // 2, (SPRITE_SIZE - picture.height) // 2))
        drawings.append(np.asarray(square))
    names = [own(name) for name in NAMES]
    return {"rgba": np.stack(drawings), "noun": np.array(names), "icon": np.array([f"subject:{n}" for n in NAMES])}


def own(name: str) -> str:
    """What the bank calls a subject's drawing."""
    return f"subject {name}"


def bank_of(work: Path, icons: Path) -> SpriteBank:
    """The sprites that pocket is trained on, and the subjects' drawings, which it is not."""
    known, added = np.load(work / "sprites.npz"), subjects_of(icons)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sprites.npz"
        np.savez(path, **{key: np.concatenate([known[key], added[key]]) for key in added})
        bank = SpriteBank(path, torch.device("cpu"))
    return bank.restrict((*MIX.sets, "subject"), MIX.skips)


def with_subjects(rng: random.Random, scene: Scene) -> tuple[Scene, set[str]]:
    """The scene with some of its things replaced by subjects or by things of their kinds, and which subjects it has."""
    there: set[str] = set()
    items = []
    for item in scene.items:
        kind = rng.random()
        free = [name for name in NAMES if name not in there]
        if kind < SHARE:
            name = rng.choice(free)
            there.add(name)
            item = dressed(Item(NOUNS[name], NOUNS[name], drawn=own(name)), item.wears)
        elif kind < SHARE + (1 - SHARE) * CLASSMATES:
            item = dressed(Item(NOUNS[rng.choice(NAMES)], item.word, item.colour), item.wears)
        if item.wears and "hat" not in there and rng.random() < SHARE:
            there.add("hat")
            item = replace(item, wears=Item("top hat", "hat", drawn=own("hat")))
        items.append(item)
    return Scene(tuple(items), scene.background), there


def dressed(item: Item, wears: Item | None) -> Item:
    """The thing, with something on if it is an animal."""
    return replace(item, wears=wears if item.noun in domain.ANIMALS else None)


@dataclass(frozen=True)
class Painter:
    """Pocket, which shows pictures as it would draw them."""

    model: Model

    @torch.no_grad()
    def coded(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, 64, 64), -1 to 1, through the autoencoder."""
        return self.decoded(self.model.family.latents(self.model.pipe, images))

    @torch.no_grad()
    def redrawn(self, images: Tensor, captions: Sequence[str], seed: int) -> Tensor:
        """The same with `NOISE`, which the denoiser takes away in one step under the captions."""
        schedule, draw = schedule_of(self.model), torch.Generator().manual_seed(seed)
        latents = self.model.family.latents(self.model.pipe, images)
        times = stratified_timesteps(len(images), len(schedule), draw, NOISE)
        noisy = schedule.add_noise(latents, torch.randn(latents.shape, generator=draw), times)
        velocity = predict(self.model, schedule, noisy, times, encode(self.model, captions))
        signal, sigma = (rate[times].view(-1, 1, 1, 1) for rate in (schedule.signal, schedule.sigma))
        return self.decoded(signal * noisy - sigma * velocity)

    def decoded(self, latents: Tensor) -> Tensor:
        """Pictures of latents."""
        vae = self.model.pipe.vae
        images: Tensor = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample
        return images.float().clamp(-1, 1)


def batch(count: int, seed: int, bank: SpriteBank, painter: Painter, way: int) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, 64, 64), and which subjects they hold (B, 8); `way` 0: as drawn, 1: coded, 2: redrawn."""
    rng = random.Random(seed)
    drawn, truth = [], torch.zeros(count, len(NAMES))
    for row in range(count):
        scene, there = with_subjects(rng, scenes.sample_scene(rng, MIX))
        drawn.append(scene)
        truth[row, [NAMES.index(name) for name in there]] = 1
    images = scenes.compose(drawn, bank, seed, MIX.jitter)
    if way == 2:
        images = painter.redrawn(images, [caption(scene, rng, identifiers=0.0) for scene in drawn], seed)
    return (painter.coded(images) if way == 1 else images), truth


def softened(images: Tensor) -> Tensor:
    """Every picture blurred (up to twice a 3x3 mean) and noisy by an amount of its own."""
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), "replicate"), 3, 1)
    images = images.lerp(blurred, torch.rand(len(images), 1, 1, 1))
    return images + 0.1 * torch.rand(len(images), 1, 1, 1) * torch.randn_like(images)


def train(bank: SpriteBank, painter: Painter, minutes: float, size: int = 64) -> Judge:
    """A witness after so many minutes."""
    torch.manual_seed(0)
    witness, step, start = Judge(LABELS), 0, time.monotonic()
    optimizer = torch.optim.AdamW(witness.parameters(), lr=2e-3, weight_decay=0.05)
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        images, truth = batch(size, step, bank, painter, step % 3)
        with mixed_precision(bank.device):
            logits = witness(softened(images).contiguous(memory_format=torch.channels_last))[0]
        optimizer.zero_grad()
        torch.autograd.backward(F.binary_cross_entropy_with_logits(logits.float(), truth))
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(step, [check(witness, bank, painter, way, 200) for way in (1, 2)], flush=True)
    return witness.eval()


@torch.no_grad()
def check(witness: Judge, bank: SpriteBank, painter: Painter, way: int, count: int = 1000) -> dict[str, float]:
    """On scenes it never saw, shown that way: how many subjects it finds, and false alarms per picture."""
    witness.eval()
    images, truth = batch(count, HELD_OUT_SEED, bank, painter, way)
    seen = torch.cat([witness(part)[0] for part in torch.split(images, 100)]) > 0
    witness.train()
    found, alarms = seen[truth.bool()].float().mean(), (seen & ~truth.bool()).sum() / count
    return {"found": round(float(found), 4), "false alarms": round(float(alarms), 4)}


@torch.no_grad()
def photos(witness: Judge, folder: Path) -> dict[str, float]:
    """The same on the subjects' photos, drawn larger and on other backgrounds than any scene."""
    found, alarms, count = 0, 0, 0
    for row, name in enumerate(NAMES):
        images = [photo.image for photo in read_photos([folder / name])[0]]
        seen = witness(pixels(images, SIDE))[0] > 0
        found, count = found + int(seen[:, row].sum()), count + len(images)
        alarms += int(seen.sum()) - int(seen[:, row].sum())
    return {"found": round(found / count, 4), "false alarms": round(alarms / count, 4)}


def main() -> None:
    """Train, say how good it is, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    args = parser.parse_args()
    bank, painter = bank_of(args.work, args.icons), Painter(load_model("pocket"))
    witness = train(bank, painter, args.minutes)
    told = {
        "scenes": check(witness, bank, painter, 1),
        "redrawn": check(witness, bank, painter, 2),
        "photos": photos(witness.eval(), Path(__file__).parents[1] / "examples"),
    }
    write_atomic(args.out, save_judge(witness.eval()), force=True)
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
