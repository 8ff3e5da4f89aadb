"""The attribute judge that lies beside pocket: what each thing of a picture is, attribute by attribute.

It was trained on composed scenes alone (training/pocket/judge.py), never on a picture of pocket's, and knows nothing
but pocket's world: for other models CLIP and DINO serve. Two small networks: one reads the whole picture (how many
things, which background), one reads each thing from a square around its place in the layout of that many things.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from conestool.errors import ModelLoadError
from conestool.models.loading import pocket_folder

__all__ = ["AttributeJudge", "Reading", "World", "judge_path", "load_judge", "save_judge"]

#: Side of the whole picture, and of the square that is read of each thing.
SIDE, CROP = 64, 48
#: Side of that square in sides of the layout's place: what is worn sticks out.
MARGIN = 1.3
WIDE = 256


@dataclass(frozen=True, kw_only=True)
class World:
    """What the outputs mean.

    `heads` maps each attribute to its values in order, "" among them where a thing may lack it. `layouts` has the
    centres and sides of 1, 2, ... things as shares of the picture. `phrases` maps a background to the wordings that ask
    for it, `kinds` a word that is no class to the classes that it may mean ("hat"). `wear` are the heads that tell what
    a thing has on, by class.
    """

    heads: dict[str, tuple[str, ...]]
    backgrounds: tuple[str, ...]
    layouts: tuple[tuple[tuple[float, float, float], ...], ...]
    phrases: dict[str, tuple[str, ...]]
    kinds: dict[str, tuple[str, ...]]
    wear: tuple[str, ...]

    @property
    def identity(self) -> tuple[str, ...]:
        """The heads that make an individual, whatever it wears."""
        return tuple(name for name in self.heads if not name.startswith(self.wear))

    def details(self, wear: str) -> tuple[str, ...]:
        """Return the heads that describe what is worn; they say nothing where the head `wear` reads nothing."""
        return tuple(name for name in self.heads if name.startswith(f"{wear} "))

    def classes(self, noun: str) -> tuple[str, ...]:
        """Return the classes that a word may mean, worn ones too; () for a word of another world."""
        known = {value for name in ("class", *self.wear) for value in self.heads[name] if value}
        return self.kinds.get(noun, (noun,) if noun in known else ())


_WORLD = TypeAdapter(World)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the judge sees in one picture: a background and, in reading order, each thing's attributes."""

    background: str
    things: tuple[dict[str, str], ...]

    def classes(self, wear: Sequence[str]) -> set[str]:
        """Return the class of every thing, and of what they wear as the heads `wear` tell."""
        return {thing[name] for thing in self.things for name in ("class", *wear)} - {""}


def _stage(narrow: int, wide: int) -> nn.Sequential:
    """Return two convolutions, the first of which halves both sides."""
    return nn.Sequential(
        nn.Conv2d(narrow, wide, 3, 2, 1, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU(),
        nn.Conv2d(wide, wide, 3, 1, 1, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU(),
    )


class AttributeJudge(nn.Module):
    """Reads pictures (B, 3, 64, 64) in [-1, 1]."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.whole = nn.Sequential(_stage(3, 24), _stage(24, 48), _stage(48, 96), _stage(96, 96))
        self.count = nn.Linear(96 * 16, len(world.layouts))
        self.background = nn.Linear(96 * 16, len(world.backgrounds))
        stem = nn.Sequential(nn.Conv2d(3, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.body = nn.Sequential(stem, _stage(24, 48), _stage(48, 96), _stage(96, 160), _stage(160, 160))
        self.join = nn.Sequential(nn.Linear(160 * 9, WIDE), nn.ReLU())
        self.heads = nn.ModuleDict({name.replace(" ", "_"): nn.Linear(WIDE, len(v)) for name, v in world.heads.items()})

    def read_whole(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of the number of things (B, layouts) and of the background (B, backgrounds)."""
        flat = self.whole(images).flatten(1)
        return self.count(flat), self.background(flat)

    def crops(self, images: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Cut out each thing of pictures that hold ``counts`` (B,) of them.

        Returns the squares (N, 3, 48, 48), in the order of pictures and of reading, and the picture of each (N,).
        """
        boxes = [(row, box) for row, n in enumerate(counts.tolist()) for box in self.world.layouts[n - 1]]
        rows = torch.tensor([row for row, _ in boxes], device=images.device)
        x, y, side = torch.tensor([box for _, box in boxes], device=images.device).unbind(1)
        zero, side = torch.zeros_like(x), side * MARGIN
        theta = torch.stack([torch.stack([side, zero, 2 * x - 1], 1), torch.stack([zero, side, 2 * y - 1], 1)], 1)
        grid = F.affine_grid(theta, [len(boxes), 3, CROP, CROP], align_corners=False)
        return F.grid_sample(images[rows], grid, padding_mode="border", align_corners=False), rows

    def features(self, squares: Tensor) -> Tensor:
        """Return what is known of each square (N, 3, 48, 48): (N, 256)."""
        joined: Tensor = self.join(self.body(squares).flatten(1))
        return joined

    def read_things(self, squares: Tensor) -> dict[str, Tensor]:
        """Return the logits of each attribute for squares: (N, values)."""
        joined = self.features(squares)
        return {name: self.heads[name.replace(" ", "_")](joined) for name in self.world.heads}

    @torch.no_grad()
    def read(self, images: Tensor) -> list[Reading]:
        """Return what is in each picture."""
        count, background = self.read_whole(images)
        squares, rows = self.crops(images, count.argmax(1) + 1)
        read = {name: logits.argmax(1).tolist() for name, logits in self.read_things(squares).items()}
        things: list[list[dict[str, str]]] = [[] for _ in images]
        for index, row in enumerate(rows.tolist()):
            thing = {name: self.world.heads[name][values[index]] for name, values in read.items()}
            nothing = {name for wear in self.world.wear if not thing[wear] for name in self.world.details(wear)}
            things[row].append(thing | dict.fromkeys(nothing, ""))
        places = [self.world.backgrounds[i] for i in background.argmax(1).tolist()]
        return [Reading(background=place, things=tuple(each)) for place, each in zip(places, things, strict=True)]


def save_judge(judge: AttributeJudge) -> bytes:
    """Return the judge as safetensors: matrices in fp16, vectors in fp32, the world as metadata."""
    state = {key: value.cpu().contiguous() for key, value in judge.state_dict().items()}
    halved = {key: value.half() if value.dim() > 1 else value for key, value in state.items()}
    return save(halved, {"world": json.dumps(asdict(judge.world))})


def judge_path() -> Path:
    """Return the file of the judge inside the package."""
    return pocket_folder() / "judge.safetensors"


def load_judge(path: Path | None = None) -> AttributeJudge:
    """Return the judge in ``path``, by default the packaged one, in fp32 on the CPU.

    ModelLoadError if it cannot be read.
    """
    path = path or judge_path()
    try:
        with safe_open(path, "pt") as file:
            world = _WORLD.validate_json((file.metadata() or {})["world"])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        judge = AttributeJudge(world)
        judge.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelLoadError(f"{path}: not a judge: {str(error).splitlines()[0]}", "install conestool again") from error
    return judge.eval().requires_grad_(False)
