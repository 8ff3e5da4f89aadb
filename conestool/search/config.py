"""Everything that `find` and `tune` can be told, checked once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from conestool.errors import UsageError

__all__ = ["CAPTIONS", "DEFAULT_METHOD", "DEFAULT_RESOURCES", "Resources", "SearchConfig", "TuneConfig"]

DEFAULT_METHOD = "mask"
CAPTIONS = ("auto", "given", "none")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How `find` searches.

    `prior_loss_weight` is lambda of L_con; `unbound_weight` the weight of a term that holds the model still on the
    photos when the identifier is missing or is one of `num_negative_identifiers` others; `other_class_weight` that of a
    term that holds its pictures of other classes still; `composite_weight` that of a term that shows the subject among
    other things (`composites.py`); `timestep_range` the part of the noise schedule that the search looks at (0: no
    noise, 1: nothing but noise): where there is much, the prompt decides, and with all of it no concept is bound to its
    identifier (docs/method.md). `batch_size` is the number of samples of each term in a step (see `term_sizes`);
    `num_class_images` how many the base model draws (a quarter of them only for the report); `num_crops` how many crops
    of each photo are seen besides the whole; `captions` is where words for the rest of a photo come from (auto: the
    photos' own captions, else the base model's; given: only their own; none); `num_validation_images` how many photos
    only the report sees (None: one of four or more); `density` fixes the fraction of K/V weights to zero; `options` are
    the method's own parameters.
    """

    method: str = DEFAULT_METHOD
    density: float | None = None
    seed: int = 0
    prior_loss_weight: float = 1.0
    unbound_weight: float = 1.0
    num_negative_identifiers: int = 8
    other_class_weight: float = 1.0
    composite_weight: float = 0.0
    timestep_range: tuple[float, float] = (0.3, 1.0)
    batch_size: int = 8
    num_class_images: int = 32
    num_crops: int = 3
    captions: str = "auto"
    num_validation_images: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_range(self, "density", self.density is None or 0 < self.density < 1, "between 0 and 1")
        for name in ("prior_loss_weight", "unbound_weight", "other_class_weight", "composite_weight", "num_crops"):
            _check_range(self, name, getattr(self, name) >= 0, "at least 0")
        _check_range(self, "num_negative_identifiers", self.num_negative_identifiers >= 0, "at least 0")
        low, high = self.timestep_range
        _check_range(self, "timestep_range", 0 <= low < high <= 1, "two rising numbers from 0 to 1")
        _check_range(self, "batch_size", self.batch_size >= 1, "at least 1")
        _check_range(self, "num_class_images", self.num_class_images >= 4, "at least 4")
        _check_range(self, "captions", self.captions in CAPTIONS, f"one of {', '.join(CAPTIONS)}")
        count = self.num_validation_images
        _check_range(self, "num_validation_images", count is None or count >= 0, "at least 0")

    def term_sizes(self) -> dict[str, int]:
        """Samples of each term of the loss in a step, of the terms that have a weight.

        Class images and pictures of other classes share the samples of one term: with as many of each, a step takes a
        third longer and finds nothing better (docs/method.md).
        """
        both = self.prior_loss_weight and self.other_class_weight
        shared = max(1, self.batch_size // 2) if both else self.batch_size
        sizes = {
            "instance": (self.batch_size, 1.0),
            "class": (shared, self.prior_loss_weight),
            "unbound": (self.batch_size, self.unbound_weight),
            "other_classes": (shared, self.other_class_weight),
            "composites": (self.batch_size, self.composite_weight),
        }
        return {name: size for name, (size, weight) in sizes.items() if weight}

    def record(self) -> dict[str, Any]:
        """The configuration as plain values, without those recorded elsewhere."""
        return {key: value for key, value in asdict(self).items() if key not in ("method", "seed", "options")}


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How `tune` works: its mask's parameters (see JointMask), and what `find` would do with the photos.

    `composite_weight` is that of the term that shows the subjects together (see `composites.py`). Of `search` seed,
    prior_loss_weight, unbound_weight, other_class_weight, batch_size, num_class_images, num_crops, captions and
    num_validation_images count. With the photos and the configuration of the search the same photos are held out again.
    """

    steps: int = 20
    lr: float = 0.05
    init_margin_on: float = 0.1
    init_margin_off: float = 0.5
    reopen_only: bool = False
    composite_weight: float = 2.0
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        _check_range(self, "steps", self.steps >= 1, "at least 1")
        _check_range(self, "lr", self.lr > 0, "above 0")
        for name in ("init_margin_on", "init_margin_off"):
            _check_range(self, name, 0 < getattr(self, name) <= 0.5, "above 0 and at most 0.5")
        _check_range(self, "composite_weight", self.composite_weight >= 0, "at least 0")

    def mask_options(self) -> dict[str, Any]:
        """The mask's parameters by name."""
        return {key: value for key, value in asdict(self).items() if key not in ("search", "composite_weight")}

    @property
    def subject_config(self) -> SearchConfig:
        """`search`, with the weight of composites that it has here."""
        return replace(self.search, composite_weight=self.composite_weight)

    def record(self) -> dict[str, Any]:
        """The values in force, for the file's header."""
        search = {key: value for key, value in self.subject_config.record().items() if key != "density"}
        return self.mask_options() | search


def _check_range(config: object, name: str, holds: bool, rule: str) -> None:
    """Raise UsageError unless `holds`."""
    if not holds:
        raise UsageError(f"{name} is {getattr(config, name)}, but must be {rule}")


MAX_SAMPLES = 32


@dataclass(frozen=True)
class Resources:
    """How a search spends memory and time; nothing of it goes into the file.

    `micro_batch` is how many samples go through the model at once (None: a step's whole batch, up to 32, and eight
    pictures where it draws or encodes); gradients of the parts are added in fp32. `gradient_checkpointing` recomputes
    activations in the backward pass instead of keeping them. `offload_scores` keeps the search's own vectors (several
    fp32 numbers for every K/V weight) in the machine's memory, where its steps then run, instead of on the device.
    """

    micro_batch: int | None = None
    gradient_checkpointing: bool = False
    offload_scores: bool = False

    def __post_init__(self) -> None:
        _check_range(self, "micro_batch", self.micro_batch is None or self.micro_batch >= 1, "at least 1")

    @property
    def max_samples(self) -> int:
        """The most samples that the denoiser sees at once."""
        return self.micro_batch or MAX_SAMPLES

    def image_batch_size(self, default: int) -> int:
        """The most pictures that are drawn or encoded at once, where it is `default` with memory to spare."""
        return min(default, self.max_samples)


DEFAULT_RESOURCES = Resources()
