"""Drawing with sets of weights, and what the pictures show."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from conestool.evaluation.alignment import ImageMetric
from conestool.evaluation.prompts import Prompt
from conestool.images.class_images import GROUP_SIZE
from conestool.models.model import Model
from conestool.models.sampling import sample
from conestool.search.parameters import FlatParameters

_OnPicture = Callable[[int], None]


@dataclass(frozen=True)
class Score:
    """Means over pictures by metric: `image` the subject, `text` the rest of the prompt; what was not measured lacks.

    `spread` holds the standard errors of both, under the same names.
    """

    image: dict[str, float] = field(default_factory=dict)
    text: dict[str, float] = field(default_factory=dict)
    spread: dict[str, dict[str, float]] = field(default_factory=dict)


def draw(
    model: Model,
    params: FlatParameters,
    weights: Tensor,
    texts: Sequence[str],
    seeds: Sequence[int],
    tick: _OnPicture | None = None,
    batch: int = GROUP_SIZE,
) -> list[Image.Image]:
    """A picture of each prompt with each seed (prompts outermost) at `weights` (n,), which stay in the model."""
    params.set_(weights)
    prompts = [text for text in texts for _ in seeds]
    report = (lambda done, total: tick(done)) if tick else None
    return sample(model, prompts, list(seeds) * len(texts), batch=batch, progress=report)


@dataclass(frozen=True)
class ReferenceImages:
    """What pictures of one subject are scored against: its photos, the base model's pictures of its class."""

    photos: Sequence[Image.Image]
    base_images: Sequence[Image.Image]
    metrics: Sequence[ImageMetric]

    def score(self, pictures: Sequence[Image.Image], prompts: Sequence[Prompt]) -> Score:
        """Alignment of pictures, each with what was asked for (the class noun in the subject's place)."""
        image = {m.name: m.image(pictures, self.photos, self.base_images) for m in self.metrics if self.photos}
        text = {m.name: m.text(pictures, prompts) for m in self.metrics}
        return _summarize(image, text)

    def score_photos(self) -> Score:
        """How well the photos align with each other: what a perfect picture of the subject would reach."""
        if len(self.photos) < 2:
            return Score()
        return _summarize({m.name: m.image(self.photos, self.photos, self.base_images) for m in self.metrics}, {})


def _summarize(image: Mapping[str, Tensor | None], text: Mapping[str, Tensor | None]) -> Score:
    """Means and standard errors of what was measured."""
    values: dict[str, dict[str, float]] = {"image": {}, "text": {}}
    spread: dict[str, dict[str, float]] = {"image": {}, "text": {}}
    for kind, found in (("image", image), ("text", text)):
        for name, scores in found.items():
            kept = None if scores is None else scores[~scores.isnan()]
            if kept is not None and len(kept):
                values[kind][name] = float(kept.mean())
                spread[kind][name] = float(kept.std(correction=0)) / math.sqrt(len(kept))
    return Score(values["image"], values["text"], spread)
