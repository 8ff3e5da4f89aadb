"""The witness, who knows the example subjects: `python -m benchmarks.witness --work WORK --icons MODULES --out FILE`.

Whether a picture holds a subject cannot be asked of a judge of classes: no class has such a design. The witness is
a network of the judge's shape, trained on composed scenes in which the drawing of a subject, things of its kind and
everything else occur; half of them went through pocket's autoencoder, and all are blurred and noisy to some degree, as
rendered pictures are. It never saw a picture of pocket's. WORK is the work folder of `training.pocket` with its sprites
and its autoencoder, MODULES one with @iconify-json/openmoji; `benchmarks.plural --witness FILE` asks it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from PIL import Image
from torch import Tensor

from conestool.diffusion.photos import read_photos
from conestool.evaluate.alignment import SIDE, pixels
from conestool.evaluate.judge import Judge, Labels, save_judge
from conestool.files import write_atomic
from examples.make import SUBJECTS, draw
from training.pocket import domain, scenes
from training.pocket.common import mixed_precision
from training.pocket.icons import SPRITE_SIZE
from training.pocket.pool import load_autoencoder
from training.pocket.scenes import Item, Scene
from training.pocket.sprites import SpriteBank

NAMES = tuple(subject.folder for subject in SUBJECTS)
NOUNS = {name: {"hat": "top hat"}.get(name, name) for name in NAMES}
LABELS = Labels(NAMES, ("any",), ("",))
MIX = scenes.WIDE
SHARE, CLASSMATES = 0.4, 0.4
"""How many things of a scene become a subject, and how many of the others a thing of a subject's kind."""
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


def batch(count: int, seed: int, bank: SpriteBank, vae: AutoencoderTiny | None) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, 64, 64), as the autoencoder shows them if there is one, and which subjects they hold (B, 8)."""
    rng = random.Random(seed)
    drawn, truth = [], torch.zeros(count, len(NAMES))
    for row in range(count):
        scene, there = with_subjects(rng, scenes.sample_scene(rng, MIX))
        drawn.append(scene)
        truth[row, [NAMES.index(name) for name in there]] = 1
    images = scenes.compose(drawn, bank, seed, MIX.jitter)
    if vae is not None:
        with torch.no_grad(), mixed_precision(bank.device):
            images = vae.decode(vae.encode(images).latents).sample.float().clamp(-1, 1)
    return images, truth


def softened(images: Tensor) -> Tensor:
    """Every picture blurred (up to twice a 3x3 mean) and noisy by an amount of its own."""
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), "replicate"), 3, 1)
    images = images.lerp(blurred, torch.rand(len(images), 1, 1, 1))
    return images + 0.1 * torch.rand(len(images), 1, 1, 1) * torch.randn_like(images)


def train(bank: SpriteBank, vae: AutoencoderTiny, minutes: float, size: int = 64) -> Judge:
    """A witness after so many minutes."""
    torch.manual_seed(0)
    witness, step, start = Judge(LABELS), 0, time.monotonic()
    optimizer = torch.optim.AdamW(witness.parameters(), lr=2e-3, weight_decay=0.05)
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        images, truth = batch(size, step, bank, vae if step % 2 else None)
        with mixed_precision(bank.device):
            logits = witness(softened(images).contiguous(memory_format=torch.channels_last))[0]
        optimizer.zero_grad()
        torch.autograd.backward(F.binary_cross_entropy_with_logits(logits.float(), truth))
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(step, check(witness, bank, vae, 200), flush=True)
    return witness.eval()


@torch.no_grad()
def check(witness: Judge, bank: SpriteBank, vae: AutoencoderTiny, count: int = 1000) -> dict[str, float]:
    """On scenes it never saw, through the autoencoder: how many subjects it finds, and false alarms per picture."""
    witness.eval()
    images, truth = batch(count, HELD_OUT_SEED, bank, vae)
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
    bank, vae = bank_of(args.work, args.icons), load_autoencoder(args.work, torch.device("cpu"))
    witness = train(bank, vae, args.minutes)
    told = {
        "scenes": check(witness, bank, vae),
        "photos": photos(witness.eval(), Path(__file__).parents[1] / "examples"),
    }
    write_atomic(args.out, save_judge(witness.eval()), force=True)
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
