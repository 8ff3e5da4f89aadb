"""Descriptions of scenes as tensors, made ahead of time by worker processes: what `composer` paints, and captions."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training.pocket import backgrounds, captions, scenes, tokenizer, world
from training.pocket.sprites import SpriteIndex
from training.pocket.world import Scene

#: What a scene can have at most: four things with two worn ones each, pasted in this order.
SLOTS = scenes.PASSES * max(scenes.LAYOUTS)
BACKGROUNDS = sorted([*backgrounds.KINDS, *world.COLOURS])


class Description(NamedTuple):
    """A batch of scenes.

    ``sprites`` (B, 12, 3) int16: rows of drawing, main and second colour, -1 for the drawing where nothing is;
    ``place`` (B, 12, 5): as `SpriteBank.paste` has it; ``background_rows`` (B,): rows of the batch in the order of
    their kinds, of which ``background_counts`` says how many each of `BACKGROUNDS` has; ``tokens`` (B, 64) int16.
    """

    sprites: Tensor
    place: Tensor
    background_rows: Tensor
    background_counts: Tensor
    tokens: Tensor

    def to(self, device: torch.device) -> Description:
        """Return it on a device, without waiting; the counts stay, since the host needs them."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in self._fields}
        return Description(**(moved | {"background_counts": self.background_counts}))


class Words:
    """Token ids of captions, each word of which is one token."""

    def __init__(self) -> None:
        words = tokenizer.build()
        self.ids = {token.removesuffix("</w>"): row for token, row in words.get_vocab().items() if token[-4:] == "</w>"}
        self.begin, self.end = words.bos_token_id, words.eos_token_id

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return what the tokenizer does, (N, 64) as int16, several times as fast."""
        out = np.full((len(texts), tokenizer.MAX_LENGTH), self.end, dtype=np.int16)
        out[:, 0] = self.begin
        for row, text in zip(out, texts, strict=True):
            ids = [self.ids[word] for word in text.replace(",", " ,").split()]
            row[1 : 1 + len(ids)] = ids
        return torch.from_numpy(out)


class Descriptions(IterableDataset[Description]):
    """Batches without end; every worker draws its own."""

    def __init__(self, batch: int, seed: int) -> None:
        self.batch, self.seed = batch, seed
        self.index, self.words = SpriteIndex(), Words()

    def describe(self, drawn: Sequence[Scene], rng: random.Random) -> Description:
        """Place the things of scenes and word them."""
        sprites = np.full((len(drawn), SLOTS, 3), (-1, 0, 0), dtype=np.int16)
        place = np.ones((len(drawn), SLOTS, 5), dtype=np.float32)
        for slot, each in enumerate(scenes.lay_out(drawn, self.index, rng)):
            if each.rows:
                sprites[each.rows, slot], place[each.rows, slot] = each.sprites, each.place
        kinds = np.array([BACKGROUNDS.index(scene.background) for scene in drawn])
        tokens = self.words([captions.caption(scene, rng) for scene in drawn])
        rows, counts = np.argsort(kinds, kind="stable"), np.bincount(kinds, minlength=len(BACKGROUNDS))
        sprite, where, row, count = (torch.from_numpy(values) for values in (sprites, place, rows, counts))
        return Description(sprite, where, row, count, tokens)

    def __iter__(self) -> Iterator[Description]:
        worker = get_worker_info()
        rng = random.Random(f"{self.seed} {worker.id if worker else 0}")
        while True:
            yield self.describe([world.sample_scene(rng) for _ in range(self.batch)], rng)


def load(batch: int, seed: int, workers: int, *, pin: bool) -> Iterator[Description]:
    """Return batches from worker processes; without any they are made when they are asked for."""
    loader = DataLoader(Descriptions(batch, seed), batch_size=None, num_workers=workers, pin_memory=pin,
                        prefetch_factor=8 if workers else None)  # fmt: skip
    return iter(loader)
