"""The judge of 64-pixel emoji scenes that lies beside pocket: which nouns, which background and which colour it sees.

It was trained on composed scenes alone (its recipe is in the history of training/pocket), never on a picture of
pocket's, and knows nothing else: for other models CLIP and DINO serve.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from conestool.errors import ModelLoadError
from conestool.models.loading import pocket_folder

SIDE = 64
WIDE = 192


@dataclass(frozen=True)
class Labels:
    """What the outputs mean, in order.

    `colours[0]` is "" (a thing's own colours); `phrases` maps a place to the wordings that ask for it, `kinds` a word
    that is no noun of the judge's to the nouns that it may mean ("hat").
    """

    nouns: tuple[str, ...]
    places: tuple[str, ...]
    colours: tuple[str, ...]
    phrases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kinds: dict[str, tuple[str, ...]] = field(default_factory=dict)


def stage(narrow: int, wide: int) -> nn.Sequential:
    """Two convolutions, the first of which halves both sides."""
    return nn.Sequential(
        nn.Conv2d(narrow, wide, 3, 2, 1, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU(),
        nn.Conv2d(wide, wide, 3, 1, 1, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU(),
    )


class Judge(nn.Module):
    """Four stages of convolutions, 64 px to 4x4; the nouns' logits are the logsumexp over the 16 places."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self.labels = labels
        self.body = nn.Sequential(stage(3, 32), stage(32, 64), stage(64, 128), stage(128, WIDE))
        self.noun = nn.Conv2d(WIDE, len(labels.nouns), 1)
        self.place = nn.Linear(WIDE, len(labels.places))
        self.colour = nn.Linear(WIDE, len(labels.colours))

    def features(self, images: Tensor) -> Tensor:
        """The mean of the last stage, (B, 192), for images (B, 3, 64, 64) in [-1, 1]."""
        pooled: Tensor = self.body(images).mean((2, 3))
        return pooled

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of nouns (B, nouns), places (B, places) and colours (B, colours)."""
        maps = self.body(images)
        pooled = maps.mean((2, 3))
        return self.noun(maps).flatten(2).logsumexp(2), self.place(pooled), self.colour(pooled)


def judge_path() -> Path:
    """The file of the judge inside the package."""
    return pocket_folder() / "judge.safetensors"


def save_judge(judge: Judge) -> bytes:
    """The judge as safetensors: convolutions and linear maps in fp16, what normalises in fp32, labels as metadata."""
    state = {key: value.cpu().contiguous() for key, value in judge.state_dict().items()}
    halved = {key: value.half() if value.dim() > 1 else value for key, value in state.items()}
    return save(halved, {"labels": json.dumps(asdict(judge.labels))})


def load_judge(path: Path | None = None) -> Judge:
    """The judge in `path`, by default the packaged one, in fp32 on the CPU; ModelLoadError if it cannot be read."""
    path = path or judge_path()
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {})["labels"])
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        judge = Judge(labels_of(told))
        judge.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelLoadError(f"{path}: not a judge: {str(error).splitlines()[0]}", "install conestool again") from error
    return judge.eval().requires_grad_(False)


def labels_of(told: dict[str, Any]) -> Labels:
    """Labels as JSON holds them."""
    nouns, places, colours = (tuple(map(str, told[key])) for key in ("nouns", "places", "colours"))
    phrases, kinds = ({str(k): tuple(map(str, v)) for k, v in told[key].items()} for key in ("phrases", "kinds"))
    return Labels(nouns, places, colours, phrases, kinds)
