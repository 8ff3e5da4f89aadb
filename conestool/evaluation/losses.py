"""Losses on fixed latents, timesteps and noise: what weights gain on a subject, and what they cost elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from conestool.images.class_images import GROUP_SIZE
from conestool.models.model import Model
from conestool.models.prompts import encode
from conestool.search.batches import Batch, LatentImages
from conestool.search.config import DEFAULT_RESOURCES, Resources
from conestool.search.loss_terms import encode_images
from conestool.search.objective import Objective
from conestool.search.parameters import FlatParameters

__all__ = ["LossProbes", "make_probes"]


@dataclass(frozen=True)
class LossProbes:
    """Questions by name, each a list of batches; a change is the mean over them of loss after : before, less 1.

    `held_out` and `no_identifier` ask for the photos, `class` for the model's own pictures of the class, `unrelated`
    for those of other nouns. What there are no pictures for is not there.
    """

    objective: Objective
    batches: Mapping[str, Sequence[Batch]]
    before: dict[str, list[float]] = field(init=False)

    def __post_init__(self) -> None:
        weights = self.objective.weights
        found = {name: [self.objective.loss(weights, b) for b in group] for name, group in self.batches.items()}
        object.__setattr__(self, "before", found)

    def losses(self) -> dict[str, float]:
        """The untouched model's mean loss by question."""
        return {name: sum(values) / len(values) for name, values in self.before.items()}

    def changes(self, weights: Tensor, names: Collection[str] | None = None) -> dict[str, float]:
        """The change of every loss, or of those in `names`, at `weights` (n,), as a fraction: -0.2 is a fifth less."""
        out = {}
        for name, group in self.batches.items():
            if names is not None and name not in names:
                continue
            ratios = [
                self.objective.loss(weights, batch) / before
                for batch, before in zip(group, self.before[name], strict=True)
            ]
            out[name] = sum(ratios) / len(ratios) - 1
        return out


def make_probes(
    model: Model,
    params: FlatParameters,
    phrases: tuple[str, str],
    photos: Sequence[Image.Image],
    drawings: Mapping[str, Sequence[Image.Image]],
    size: int,
    resources: Resources = DEFAULT_RESOURCES,
) -> LossProbes:
    """Probes of `size` samples for `phrases` (the subject's prompt and the class's) and `drawings` by their prompt.

    The class's own drawings stand under the class prompt; those of all other prompts are unrelated.
    """
    objective = Objective(model, params, (), micro_batch_size=resources.micro_batch)
    batch = resources.image_batch_size(GROUP_SIZE)
    instance, of_class = phrases

    def probe(pictures: LatentImages, prompt: str) -> Batch:
        return objective.eval_batch(pictures, encode(model, [prompt]), size)

    batches: dict[str, list[Batch]] = {}
    if photos:
        seen = encode_images(model, photos, batch)
        batches = {"held_out": [probe(seen, instance)], "no_identifier": [probe(seen, of_class)]}
    for prompt, images in drawings.items():
        name = "class" if prompt == of_class else "unrelated"
        batches.setdefault(name, []).append(probe(encode_images(model, images, batch), prompt))
    return LossProbes(objective, batches)
