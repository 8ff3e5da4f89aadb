"""Every setting of a search: default, meaning and allowed values. The options of `cones find` are made of these.

Nothing here needs torch, so that `cones find --help` starts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from conestool.errors import UsageError

_Rule = tuple[Callable[[Any], bool], str]


def above(least: float) -> _Rule:
    """The rule of a number that must be greater."""
    return lambda value: value > least, f"above {least:g}"


def at_least(least: float) -> _Rule:
    """The rule of a number that must be as great."""
    return lambda value: value >= least, f"at least {least:g}"


def count(least: int, most: int = 10_000) -> _Rule:
    """The rule of a number of steps, samples or pictures."""
    return lambda value: least <= value <= most, f"from {least} to {most:,}"


def _within(low: float, high: float) -> _Rule:
    """The rule of a number between two others, and neither of them."""
    return lambda value: low < value < high, f"between {low:g} and {high:g}"


def _one_of(choices: Sequence[str]) -> _Rule:
    """The rule of one word among several."""
    return lambda value: value in choices, f"one of {', '.join(choices)}"


SHARE: _Rule = (lambda value: 0 <= value <= 1, "from 0 to 1")
DECAY: _Rule = (lambda value: 0 <= value < 1, "from 0 to below 1")
_RANGE: _Rule = (lambda value: 0 <= value[0] < value[1] <= 1, "two rising numbers from 0 to 1")


def setting(default: Any, text: str, rule: _Rule | None = None, metavar: str = "X") -> Any:
    """A field of a `Config`; `text` is also the help of its option, `metavar` what stands there for the value."""
    return field(default=default, metadata={"help": text, "rule": rule, "metavar": metavar})


@dataclass(frozen=True, kw_only=True)
class Config:
    """A record whose values are checked by the rules of its fields; UsageError for one that breaks its rule."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value, rule = getattr(self, each.name), each.metadata.get("rule")
            if rule and value is not None and not rule[0](value):
                raise UsageError(f"{each.name} is {value}, but must be {rule[1]}")

    def record(self) -> dict[str, Any]:
        """The values in force as plain ones, for the file's header."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class MethodConfig(Config):
    """The parameters of a search method; every method has a class of its own in `search/methods`."""

    name: ClassVar[str]

    steps: int = setting(60, "Steps of the search.", count(1, 1_000_000))

    def doubts(self, eps: float) -> list[str]:
        """What to warn of where weights have the relative resolution `eps`."""
        return []


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Config):
    """How `find` searches.

    `method` is the name of a method, with parameters if wanted (`mask,lr=0.1`), or its configuration (`MaskConfig()`).
    `prior_loss_weight` is lambda of L_con. The unbound term holds the model still on the photos when the identifier is
    missing or another one, the term of other classes holds its pictures of these still, and that of composites shows
    the subject among other things (`composites.py`). `timestep_range` is from 0, no noise, to 1, nothing but noise:
    where there is much, the prompt decides, and with all of it no concept is bound to its identifier (docs/method.md).
    `subject_share` is of the loss of the cells in which the model finds the subject; with 0 all count alike.
    Of the class images a quarter is only for the report. `term_weights` are for terms of the loss that have no setting
    of their own, by their names in `loss_terms.py`; without a weight such a term is left out.
    """

    method: MethodConfig | str = setting(  # noqa: RUF009
        "mask", "How weights are ranked, and its parameters: mask,lr=0.1.", metavar="M"
    )
    density: float | None = setting(None, "Share of the K/V weights to zero. Default: found.", _within(0, 1))
    layers: str = setting(
        "cross", "Attention that is searched: what reads the prompt, or all.", _one_of(("cross", "all")), "cross|all"
    )
    seed: int = setting(0, "Seed of all noise.", count(0, (1 << 63) - 1), "N")
    prior_loss_weight: float = setting(1.0, "Weight of the class images.", at_least(0))
    unbound_weight: float = setting(1.0, "Weight of the photos without the identifier.", at_least(0))
    num_negative_identifiers: int = setting(8, "Other identifiers that must not draw it.", count(0), "N")
    other_class_weight: float = setting(1.0, "Weight of pictures of other classes.", at_least(0))
    composite_weight: float = setting(0.0, "Weight of scenes with other things.", at_least(0))
    subject_share: float = setting(0.9, "The subject's share of a photo's loss, at least.", SHARE)
    timestep_range: tuple[float, float] = setting((0.3, 1.0), "Part of the noise schedule.", _RANGE, "LOW HIGH")
    batch_size: int = setting(8, "Samples of each term in a step.", count(1), "N")
    num_class_images: int = setting(32, "Class images to draw.", count(4), "N")
    num_crops: int = setting(3, "Crops of each photo, besides the whole.", count(0), "N")
    captions: str = setting(
        "auto",
        "Words for the rest of a photo: photo.txt (given), else the model's own (auto), or none.",
        _one_of(("auto", "given", "none")),
        "auto|given|none",
    )
    num_validation_images: int | None = setting(
        None, "Photos for the report alone. Default: one of four or more.", count(0), "N"
    )
    term_weights: Mapping[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The values in force as plain ones, without method and seed, which have keys of their own in a header."""
        left_out = {"method", "seed"} if self.term_weights else {"method", "seed", "term_weights"}
        return {key: value for key, value in asdict(self).items() if key not in left_out}


@dataclass(frozen=True, kw_only=True)
class Resources(Config):
    """How a search spends memory and time; nothing of it goes into the file.

    `micro_batch` is how many samples go through the model at once; gradients of the parts are added in fp32. Where it
    is None a search measures how many fit, and where few do it takes the other two by itself.
    `gradient_checkpointing` recomputes activations in the backward pass instead of keeping them. `offload_scores` keeps
    the search's own vectors (several fp32 numbers for every K/V weight) in the machine's memory, where its steps then
    run, instead of on the device.
    """

    micro_batch: int | None = setting(None, "Samples at once. Default: as many as fit.", count(1), "N")
    gradient_checkpointing: bool = setting(False, "Recompute activations instead of keeping them.")
    offload_scores: bool = setting(False, "Keep scores in the machine's memory, off the GPU.")

    def image_batch_size(self, default: int) -> int:
        """The most pictures that are drawn or encoded at once, where it is `default` with memory to spare."""
        return min(default, self.micro_batch or default)


DEFAULT_RESOURCES = Resources()
