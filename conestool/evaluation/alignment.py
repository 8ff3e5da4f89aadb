"""How much pictures show a subject, and how much of the rest of their prompt: a small protocol, and the judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from conestool.evaluation.judge import SIDE as SIDE
from conestool.evaluation.judge import Judge, load_judge
from conestool.evaluation.prompts import Prompt
from conestool.images.photos import square

Images = Sequence[Image.Image]


class ImageMetric(Protocol):
    """Scores pictures; higher is better. A measure that it does not have is None."""

    name: str

    def image(self, pictures: Images, photos: Images, base_images: Images) -> Tensor | None:
        """How much each picture (n,) shows the subject of `photos`; `base_images` are the base model's of its class."""
        ...

    def text(self, pictures: Images, prompts: Sequence[Prompt]) -> Tensor | None:
        """How much each picture (n,) shows what its prompt says; NaN where the prompt says nothing that can be seen."""
        ...


@dataclass
class JudgeMetric:
    """Pocket's judge, in both measures of our own definition.

    Image: how close the middle of the picture is to that of the photos, as the mean of two cosines, both centred on the
    mean of the base model's pictures of the class, so that the class alone scores about 0. One is of what is there (the
    mean of the last stage, without the directions from which the judge reads the background), one of how it is drawn
    (the contrast of the first two stages: a faceless patch in the subject's colours falls behind).
    Text: the probability that the judge gives to the background, or to the thing or colour, that the prompt names.
    """

    judge: Judge
    name: str = "judge"
    place: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.place = torch.linalg.qr(self.judge.place.weight.T)[0]  # (192, places)

    @torch.no_grad()
    def features(self, images: Images) -> tuple[Tensor, Tensor]:
        """What is there, (n, 192), and how it is drawn, (n, 96), of the middle quarter of each picture."""
        maps, stages = pixels(images, SIDE), []
        for stage in self.judge.body:
            maps = stage(maps)
            stages.append(middle(maps))
        there = stages[-1].mean((2, 3))
        drawn = torch.cat([F.normalize(part.std((2, 3)), dim=1) for part in stages[:2]], 1)
        return there - there @ self.place @ self.place.T, drawn

    def image(self, pictures: Images, photos: Images, base_images: Images) -> Tensor | None:
        """See the class."""
        groups = zip(self.features(pictures), self.features(photos), self.features(base_images), strict=True)
        pairs = [cosines(seen - own.mean(0), real - own.mean(0), pictures is photos) for seen, real, own in groups]
        return torch.stack(pairs).mean(0)

    @torch.no_grad()
    def text(self, pictures: Images, prompts: Sequence[Prompt]) -> Tensor | None:
        """See the class; the mean where a prompt names several."""
        nouns, places, colours = self.judge(pixels(pictures, SIDE))
        heads = (nouns.sigmoid(), places.softmax(1), colours.softmax(1))
        scores = []
        for row, prompt in enumerate(prompts):
            found = [heads[head][row, list(columns)].max() for head, columns in self.asked(prompt.background_text)]
            scores.append(torch.stack(found).mean() if found else torch.tensor(torch.nan))
        return torch.stack(scores)

    def asked(self, rest: str) -> list[tuple[int, tuple[int, ...]]]:
        """Which outputs (head, alternatives) the words of a prompt without its subject ask for."""
        labels, text = self.judge.labels, f" {' '.join(rest.lower().split())} "
        found: list[tuple[int, tuple[int, ...]]] = []
        for index, place in enumerate(labels.places):
            phrase = next((p for p in labels.phrases.get(place, ()) if f" {p} " in text), None)
            if phrase:
                found.append((1, (index,)))
                text = text.replace(f" {phrase} ", " ")
        things = {noun: (noun,) for noun in labels.nouns} | labels.kinds
        for word in sorted(things, key=len, reverse=True):
            if f" {word} " in text:
                found.append((0, tuple(labels.nouns.index(noun) for noun in things[word])))
                text = text.replace(f" {word} ", " ")
        for index, colour in enumerate(labels.colours):
            if colour and f" {colour} " in text:
                found.append((2, (index,)))
        return found

    @torch.no_grad()
    def presence(self, pictures: Images, noun: str) -> float | None:
        """The share of pictures in which the judge sees `noun`; None without pictures, or if it knows no such thing."""
        labels = self.judge.labels
        kinds = labels.kinds.get(noun, (noun,) if noun in labels.nouns else ())
        if not kinds or not pictures:
            return None
        logits = self.judge(pixels(pictures, SIDE))[0][:, [labels.nouns.index(kind) for kind in kinds]]
        return float((logits.amax(1) > 0).float().mean())


def judge_for(settings: dict[str, Any]) -> JudgeMetric | None:
    """The packaged judge, if it knows the objects that a model's pocket.json lists; else None."""
    objects = settings.get("objects")
    if not isinstance(objects, list) or not objects:
        return None
    judge = load_judge()
    return JudgeMetric(judge) if set(map(str, objects)) <= set(judge.labels.nouns) else None


def cosines(pictures: Tensor, photos: Tensor, same: bool = False) -> Tensor:
    """(n,): mean cosine of each row of `pictures` (n, d) to those of `photos` (m, d).

    To the others if both are the `same`, and NaN where there is no other.
    """
    pairs = F.normalize(pictures, dim=1) @ F.normalize(photos, dim=1).T
    if not same:
        return pairs.mean(1)
    return pairs.fill_diagonal_(0).sum(1) / (len(photos) - 1)


def middle(maps: Tensor) -> Tensor:
    """The middle quarter of (n, c, side, side), where the subject is."""
    side = maps.shape[-1]
    return maps[:, :, side // 4 : side - side // 4, side // 4 : side - side // 4]


def pixels(images: Images, side: int) -> Tensor:
    """Centre squares as (n, 3, side, side), fp32 in [-1, 1]."""
    arrays = np.stack([np.asarray(square(image.convert("RGB"), side)) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1
