"""Concepts as a LoRA: the change of each weight, cut down to a few singular values. An approximation, and it says so.

A LoRA adds a product of two thin matrices to a weight, so it holds a change of low rank. Zeroing scattered scalars is
a change of nearly full rank, of which the best product of rank r (Eckart and Young, 1936) keeps the r largest singular
values. What that loses is measured and written into the file as the kept energy, 1 - |change - product|^2 / |change|^2
over all weights, with the factors as rounded in the file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conestool._atomic import atomic_file
from conestool.apply._modelspec import kohya_metadata, modelspec
from conestool.apply._safetensors import save_tensors
from conestool.apply.edits import Strength, WeightEdit, apply_edit_, weight_edits
from conestool.apply.export_folder import checked_model, component, component_tensors, metadata
from conestool.concept import Cone
from conestool.errors import UsageError
from conestool.models.conversion.fused_qkv import has_layout, map_key
from conestool.models.kv_weights import canonical_name
from conestool.models.model import Model

_RANK = 64
_PREFIX = "lora_unet_"
"""What kohya's names begin with, whatever the denoiser is."""
_Progress = Callable[[int, int], None]
"""Called with the weights done so far and their total."""


@dataclass(frozen=True)
class Lora:
    """A LoRA that was written: `energy` is the part of the weight change's energy that it keeps, 0 to 1."""

    path: Path
    rank: int
    energy: float


@dataclass(frozen=True)
class Target:
    """One matrix that a LoRA changes: the `name` it has in the file, its `rows`, and by param name where parts lie."""

    name: str
    rows: int
    parts: Mapping[str, slice]


def write_lora(
    pipe: Any,
    cone: Cone,
    out: str | Path,
    *,
    rank: int = _RANK,
    strength: Strength = 1.0,
    overwrite: bool = False,
    allow_base_mismatch: bool = False,
    progress: _Progress | None = None,
) -> Lora:
    """Write the weight change as a LoRA safetensors under kohya's names, which ComfyUI, A1111 and others read.

    A U-Net's modules are called as in diffusers, those of SD3 and Flux as in their original layout: there K and V are
    rows of one matrix, which has one pair of factors. All matrices get the same rank, padded with zeros where a side is
    shorter: diffusers mistakes the scale of some if the ranks differ. In float16, or float32 for a model stored as
    that. UsageError for PixArt, whose pipelines read no LoRA; the rest as `write_folder`.
    """
    if rank < 1:
        raise UsageError(f"rank {rank}: expected at least 1")
    model = checked_model(pipe, cone, allow_base_mismatch)
    if component(model) != "unet" and not has_layout(model.denoiser):
        raise UsageError(
            f"{model.id}: no LoRA can be written for {model.family.name}, whose pipelines read none",
            "write a diffusers folder instead",
        )
    wanted = weight_edits(cone, strength)
    if not wanted:
        raise UsageError("every strength is 0: there is no change to write")
    found = _targets(model, wanted)
    shapes = [[model.info.tensors[param] for param in target.parts] for target in found]
    exact = max(min(sum(shape[0] for shape in parts), parts[0][1]) for parts in shapes)  # from here on nothing is lost
    rank = min(rank, exact)
    # float16 is finer than bfloat16 and reaches far enough here
    dtype = torch.float32 if (model.stored_dtype or model.dtype) == torch.float32 else torch.float16
    tensors: dict[str, Tensor] = {}
    total = lost = 0.0
    done = 0
    for target, change in _changes(model, wanted, found):
        up, down = factorise(change, rank, dtype)
        total += energy_of(change)
        lost += energy_of(change - up.float() @ down.float())
        tensors |= named(target, up, down)
        done += len(target.parts)
        if progress:
            progress(done, len(wanted))
    energy = 1 - lost / total if total else 1.0
    with atomic_file(Path(out), overwrite=overwrite) as temporary:
        save_tensors(tensors, temporary, _lora_metadata(model, cone, strength, Lora(Path(out), rank, energy)))
    return Lora(Path(out), rank, energy)


def energy_of(change: Tensor) -> float:
    """The sum of squares."""
    return float(change.square().sum(dtype=torch.float64))


def _targets(model: Model, params: Iterable[str]) -> list[Target]:
    """The matrices in which `params` lie in the layout that kohya's names go by; their parts in the order of rows."""
    shapes = {canonical_name(key): value.shape for key, value in model.denoiser.state_dict().items()}
    if not has_layout(model.denoiser):
        return [Target(kohya_name(param), shapes[param][0], {param: slice(0, shapes[param][0])}) for param in params]
    rows, parts = Counter[str](), dict[str, dict[str, slice]]()
    for param, shape in shapes.items():
        rows[map_key(param, model.denoiser).key] += shape[0]
    for param in params:
        place = map_key(param, model.denoiser)
        parts.setdefault(place.key, {})[param] = place.rows(shapes[param][0], rows[place.key])
    return [
        Target(kohya_name(key), rows[key], dict(sorted(found.items(), key=lambda each: each[1].start)))
        for key, found in parts.items()
    ]


def kohya_name(param: str) -> str:
    """kohya's name of the module that a weight belongs to."""
    return _PREFIX + param.removesuffix(".weight").replace(".", "_")


def _changes(
    model: Model, wanted: Mapping[str, WeightEdit], found: Iterable[Target]
) -> Iterator[tuple[Target, Tensor]]:
    """For each matrix the patched weights minus the stored ones, its parts one below the other, fp32 on the CPU."""
    weights = component_tensors(model, component(model))
    for target in found:
        parts = []
        for param in target.parts:
            patched = weights[param].clone()
            apply_edit_(patched, wanted[param])
            parts.append(patched.float() - weights[param].float())
        yield target, torch.cat(parts)


def factorise(change: Tensor, rank: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The best `up` (out, rank) and `down` (rank, in) with up @ down near `change`; singular values are shared out."""
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    root = s[:rank].sqrt()
    up, down = u[:, :rank] * root, root[:, None] * vh[:rank]
    missing = rank - len(root)
    padded = nn.functional.pad(up, (0, missing)), nn.functional.pad(down, (0, 0, 0, missing))
    return padded[0].to(dtype).contiguous(), padded[1].to(dtype).contiguous()


def named(target: Target, up: Tensor, down: Tensor) -> dict[str, Tensor]:
    """The tensors of one matrix, `up` with all its rows; alpha is the rank: weight 1 adds the product itself."""
    whole = up.new_zeros(target.rows, len(down))
    starts = [0]
    for rows in target.parts.values():
        starts.append(starts[-1] + rows.stop - rows.start)
        whole[rows] = up[starts[-2] : starts[-1]]
    alpha = torch.tensor(float(len(down)))
    name = target.name
    return {f"{name}.lora_up.weight": whole, f"{name}.lora_down.weight": down, f"{name}.alpha": alpha}


def _lora_metadata(model: Model, cone: Cone, strength: Strength, lora: Lora) -> dict[str, str]:
    """What the file tells: concepts, rank, kept energy, and what programs sort and show LoRAs by."""
    told = {
        "cones_approximation": json.dumps({"rank": lora.rank, "energy": round(lora.energy, 6)}),
        "modelspec.description": f"Rank {lora.rank}: keeps {lora.energy:.1%} of the energy of the weight change.",
    }
    about = modelspec(model, cone, "lora") | kohya_metadata(model, cone, lora.path.stem, lora.rank)
    return metadata(model, cone, strength) | about | told
