"""The settings of a run, and how much it computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.fidelity.plan import Variant, parse_variant
from benchmarks.real.dataset import Subject
from conestool.images.class_images import GROUP_SIZE
from conestool.models.model import Defaults
from conestool.search.config import Resources, SearchConfig
from conestool.search.loss_terms import CAPTION_SAMPLES, COMMON_BACKGROUNDS, NUM_EVAL_SAMPLES
from conestool.search.objective import NUM_FROZEN_TARGETS
from conestool.search.prior_images import num_other_images

__all__ = ["CLASS_SEED", "Cost", "Options", "cost", "evenly"]

CLASS_SEED = 1_000_000
"""The first seed of the pictures of the bare class: no search has seen them, whose own begin at multiples of 1,000,003.
"""
FORWARD, TRAINED, DECODED = 0.68, 1.36, 2.5
"""TFLOP at 512 pixels on Stable Diffusion 1.5: a pass through the U-Net; with the backward pass to its K/V weights
(docs/experiments/speed.md); a picture through the autoencoder's decoder."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all subjects share.

    `pictures` are drawn of every prompt with each method, `control_pictures` with random indices and without the
    identifier, `class_pictures` of the bare class. A LoRA of `lora_rank` is trained with
    each of the `lora_rates`.
    """

    steps: int = 60
    method: str = "mask"
    pictures: int = 4
    control_pictures: int = 1
    class_pictures: int = 16
    prompts: int | None = None
    lora_rank: int = 4
    lora_rates: tuple[float, ...] = (1e-3, 1e-4)
    micro_batch: int | None = None

    @property
    def variant(self) -> Variant:
        """The search, with the settings that differ from the defaults."""
        return parse_variant(self.method)

    @property
    def resources(self) -> Resources:
        """With how much memory to make do."""
        return Resources(micro_batch=self.micro_batch)

    def config(self, seed: int) -> SearchConfig:
        """The search with one seed."""
        return self.variant.make(seed, self.steps)

    def templates(self, subject: Subject) -> tuple[str, ...]:
        """The prompts of a subject: all, or as many as wanted, evenly spaced."""
        return evenly(subject.templates, self.prompts or len(subject.templates))

    def record(self) -> dict[str, Any]:
        """What decides the results; more rates of LoRA change none."""
        return {key: value for key, value in asdict(self).items() if key not in ("lora_rates", "micro_batch")}


def evenly(texts: Sequence[str], count: int) -> tuple[str, ...]:
    """`count` of the texts, evenly spaced; all, where there are no more."""
    count = min(count, len(texts))
    return tuple(texts[number * len(texts) // count] for number in range(count))


@dataclass(frozen=True)
class Cost:
    """What a run computes: searches, LoRAs, pictures, and TFLOP of each."""

    searches: int
    loras: int
    pictures: int
    search_tflop: float
    lora_tflop: float
    picture_tflop: float

    def lines(self) -> Iterator[str]:
        """In words, with the hours at a few speeds that a card may reach."""
        total = self.search_tflop + self.lora_tflop + self.picture_tflop
        yield f"{self.searches} searches, {self.search_tflop / 1e3:,.0f} PFLOP"
        yield f"{self.loras} LoRAs, {self.lora_tflop / 1e3:,.0f} PFLOP"
        yield f"{self.pictures:,} pictures, {self.picture_tflop / 1e3:,.0f} PFLOP"
        hours = ", ".join(f"{total / rate / 3600:.1f} h at {rate} TFLOP/s" for rate in (20, 50, 100, 200))
        yield f"computed for Stable Diffusion 1.5 at 512 pixels, not measured: {hours}"


def cost(subjects: Sequence[Subject], seeds: int, options: Options, photos: int, drawing: Defaults) -> Cost:
    """What a whole run computes for Stable Diffusion 1.5 at 512 pixels, with so many `photos` of all subjects.

    By the counts of samples that a search and a picture take, times the published size of the U-Net; encoders of text
    and pictures are left out, and so is what a run finds in the cache.
    """
    config = options.config(0)
    sizes = [config.batch_size * bool(weight) for weight in (1, config.unbound_weight)]
    shared = [bool(weight) for weight in (config.prior_loss_weight, config.other_class_weight)]
    sizes += [config.batch_size // max(1, sum(shared)) * each for each in shared]
    frozen = NUM_FROZEN_TARGETS * sum(map(bool, sizes[1:]))
    step = sum(sizes) * TRAINED
    asked = photos * CAPTION_SAMPLES * (1 + len(COMMON_BACKGROUNDS)) if config.captions == "auto" else 0
    searches, loras = len(subjects) * seeds, len(subjects) * seeds * len(options.lora_rates)
    search = options.steps * step + (frozen + 7 * NUM_EVAL_SAMPLES) * FORWARD
    picture = drawing.steps * (2 if drawing.guidance > 1 else 1) * FORWARD + DECODED
    nouns = {subject.noun for subject in subjects}
    drawn = sum(_pictures(options, subject) for subject in subjects) * seeds
    drawn += options.pictures * len({(s.noun, t) for s in subjects for t in options.templates(s)})
    drawn += len(nouns) * options.class_pictures
    whole = sum(-(-count // GROUP_SIZE) * GROUP_SIZE for count in (config.num_class_images, num_other_images(config)))
    drawn += len(nouns) * seeds * whole
    return Cost(
        searches,
        loras,
        drawn,
        searches * search + seeds * asked * FORWARD,
        loras * (options.steps * step + frozen * FORWARD),
        drawn * picture,
    )


def _pictures(options: Options, subject: Subject) -> int:
    """Pictures of one subject with one seed: by the concept, its two controls, and each LoRA."""
    methods, prompts = 1 + len(options.lora_rates), len(options.templates(subject))
    return methods * (prompts * options.pictures + options.class_pictures) + 2 * prompts * options.control_pictures
