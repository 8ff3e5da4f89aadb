"""Concepts as a LoRA: the change of each weight, cut down to a few singular values. An approximation, and it says so.

A LoRA adds a product of two thin matrices to a weight, so it holds a change of low rank. Zeroing scattered scalars is
a change of nearly full rank, of which the best product of rank r (Eckart and Young, 1936) keeps the r largest singular
values. What that loses is measured and written into the file as the kept energy, 1 - |change - product|^2 / |change|^2
over all weights, with the factors as rounded in the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conestool._atomic import atomic_file
from conestool.apply._safetensors import save_tensors
from conestool.apply.edits import Strength, WeightEdit, apply_edit_, weight_edits
from conestool.apply.export_folder import checked, component, component_tensors, metadata
from conestool.concept import Cone
from conestool.errors import UsageError
from conestool.models.model import Model

__all__ = ["Lora", "write_lora"]

RANK = 64
PREFIX = "lora_unet_"
FAMILIES = {"stable-diffusion-3": "sd3", "flux": "flux1"}
Progress = Callable[[int, int], None]
"""Called with the weights done so far and their total."""


@dataclass(frozen=True)
class Lora:
    """A LoRA that was written: `energy` is the part of the weight change's energy that it keeps, 0 to 1."""

    path: Path
    rank: int
    energy: float


def write_lora(
    pipe: Any,
    cone: Cone,
    out: str | Path,
    *,
    rank: int = RANK,
    strength: Strength = 1.0,
    overwrite: bool = False,
    allow_base_mismatch: bool = False,
    progress: Progress | None = None,
) -> Lora:
    """Write the weight change as a LoRA safetensors under names that diffusers and ComfyUI read.

    For a U-Net kohya's, which A1111 reads too; for SD3 and Flux those of peft, below `transformer`.
    All weights get the same rank, padded with zeros where a side is shorter: diffusers mistakes the scale of some if
    the ranks differ. In float16, or float32 for a model stored as that. UsageError for PixArt, whose pipelines read no
    LoRA; the rest as `write_folder`.
    """
    if rank < 1:
        raise UsageError(f"rank {rank}: expected at least 1")
    model = checked(pipe, cone, allow_base_mismatch)
    if component(model) != "unet" and model.family.name not in FAMILIES:
        raise UsageError(
            f"{model.id}: no LoRA can be written for {model.family.name}, whose pipelines read none",
            "write a diffusers folder instead",
        )
    wanted = weight_edits(cone, strength)
    if not wanted:
        raise UsageError("every strength is 0: there is no change to write")
    rank = min(rank, max(min(model.info.tensors[param]) for param in wanted))
    # float16 is finer than bfloat16 and reaches far enough here
    dtype = torch.float32 if (model.stored_dtype or model.dtype) == torch.float32 else torch.float16
    tensors: dict[str, Tensor] = {}
    total = lost = 0.0
    for count, (param, change) in enumerate(changes(model, wanted)):
        up, down = factorise(change, rank, dtype)
        total += energy_of(change)
        lost += energy_of(change - up.float() @ down.float())
        tensors |= named(param, up, down) if component(model) == "unet" else peft_named(param, up, down)
        if progress:
            progress(count + 1, len(wanted))
    energy = 1 - lost / total if total else 1.0
    with atomic_file(Path(out), overwrite=overwrite) as temporary:
        save_tensors(tensors, temporary, lora_metadata(model, cone, strength, rank, energy))
    return Lora(Path(out), rank, energy)


def energy_of(change: Tensor) -> float:
    """The sum of squares."""
    return float(change.square().sum(dtype=torch.float64))


def changes(model: Model, wanted: Mapping[str, WeightEdit]) -> Iterator[tuple[str, Tensor]]:
    """By param name: the patched weight minus the stored one, (out, in), fp32 on the CPU."""
    weights = component_tensors(model, component(model))
    for param, change in wanted.items():
        patched = weights[param].clone()
        apply_edit_(patched, change)
        yield param, patched.float() - weights[param].float()


def factorise(change: Tensor, rank: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The best `up` (out, rank) and `down` (rank, in) with up @ down near `change`; singular values are shared out."""
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    root = s[:rank].sqrt()
    up, down = u[:, :rank] * root, root[:, None] * vh[:rank]
    missing = rank - len(root)
    padded = nn.functional.pad(up, (0, missing)), nn.functional.pad(down, (0, 0, 0, missing))
    return padded[0].to(dtype).contiguous(), padded[1].to(dtype).contiguous()


def named(param: str, up: Tensor, down: Tensor) -> dict[str, Tensor]:
    """The tensors of one weight under kohya's names; alpha is the rank: weight 1 adds the product itself."""
    name = PREFIX + param.removesuffix(".weight").replace(".", "_")
    alpha = torch.tensor(float(len(down)))
    return {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": alpha}


def peft_named(param: str, up: Tensor, down: Tensor) -> dict[str, Tensor]:
    """The tensors of one weight of a transformer under peft's names; without an alpha the product itself is added."""
    name = f"transformer.{param.removesuffix('.weight')}"
    return {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}


def lora_metadata(model: Model, cone: Cone, strength: Strength, rank: int, energy: float) -> dict[str, str]:
    """What the file tells: concepts, rank, kept energy, and the family by which programs sort LoRAs."""
    config: Any = model.denoiser.config
    second = config.get("cross_attention_dim") == 1024
    xl = "sdxl_base_v1-0" if config.get("addition_embed_type") else None
    family = FAMILIES.get(model.family.name) or xl or ("sd_v2" if second else "sd_v1")
    told = {
        "cones_approximation": json.dumps({"rank": rank, "energy": round(energy, 6)}),
        "modelspec.description": f"Rank {rank}: keeps {energy:.1%} of the energy of the weight change.",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_base_model_version": family,
    }
    return metadata(model, cone, strength) | told | ({"ss_v2": "True"} if second else {})
