"""The nodes: concepts into a MODEL through its ModelPatcher, and the names in a prompt into what the model knows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import folder_paths
import numpy as np
import torch
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from conestool.concept import BaseModelInfo, Cone
from conestool.errors import ConesError
from conestool.fingerprint import fingerprint, match
from conestool.format import load
from conestool.ops import extract, merge

from .kv_keys import Place, kv_places

_PREFIX = "diffusion_model."
_KEY = "conestool"
"""Under which a ModelPatcher carries what is applied to it."""
_FOLDER = "cones"
_INFO: WeakKeyDictionary[torch.nn.Module, BaseModelInfo] = WeakKeyDictionary()
"""What each loaded model is, hashed once; its own weights do not change, patches are taken out of them again."""


class ConceptNeurons(WeightAdapterBase):
    """A patch of one tensor: `weights` are flat positions, int64, and what each is multiplied by, fp32; both (k,)."""

    name = "concept neurons"

    def __init__(self, loaded_keys: set[str], weights: list[Tensor]) -> None:
        self.loaded_keys, self.weights = loaded_keys, weights

    def calculate_weight(self, weight: Tensor, key: str, strength: float, *_: Any, **__: Any) -> Tensor:
        """`weight`, changed in place: multiplied in fp32, rounded once, and 0 where the factor is 0."""
        index, scale = (each.to(weight.device) for each in self.weights)
        scale = 1 - strength * (1 - scale)
        place = torch.unravel_index(index, weight.shape)
        product = weight[place].float() * scale
        weight[place] = torch.where(scale == 0, torch.zeros_like(product), product).to(weight.dtype)
        return weight


@dataclass(frozen=True)
class Applied:
    """The concepts that a ModelPatcher carries, and the strength of each by name."""

    cone: Cone
    strengths: Mapping[str, float]

    def with_more(self, cone: Cone, strengths: Mapping[str, float]) -> Applied:
        """These and others; of a concept that comes twice the larger strength holds, as with neurons."""
        both = {
            name: max(each.get(name, 0.0) for each in (self.strengths, strengths))
            for name in (*self.strengths, *strengths)
        }
        return Applied(merge(self.cone, cone), both)


class LoadConceptNeurons:
    """MODEL and a .cone file into MODEL, the words that call the subject, and how the base model was recognised."""

    CATEGORY = "conestool"
    DESCRIPTION = "Concepts of a .cone file in a model. Several in a row: the larger strength holds where they overlap."
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL", "STRING", "STRING")
    RETURN_NAMES = ("model", "trigger phrase", "base model")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """The widgets."""
        strength = {
            "default": 1.0,
            "min": 0.0,
            "max": 1.0,
            "step": 0.05,
            "tooltip": "1 zeroes the neurons, 0 does nothing",
        }
        names = {"default": "", "tooltip": "names of concepts in the file, with commas; empty: all"}
        other = {"default": False, "tooltip": "try it on a base model that the concept was not found on"}
        return {
            "required": {
                "model": ("MODEL",),
                "cone": (folder_paths.get_filename_list(_FOLDER), {"tooltip": "a file in models/cones"}),
                "strength": ("FLOAT", strength),
            },
            "optional": {"concepts": ("STRING", names), "allow_other_base": ("BOOLEAN", other)},
        }

    @classmethod
    def IS_CHANGED(cls, cone: str, **_: Any) -> str:  # noqa: N802
        """A file that was found again is read again."""
        about = Path(folder_paths.get_full_path_or_raise(_FOLDER, cone)).stat()
        return f"{about.st_mtime_ns} {about.st_size}"

    def load(
        self, model: Any, cone: str, strength: float, concepts: str = "", allow_other_base: bool = False
    ) -> tuple[Any, str, str]:
        """A clone of `model` with the concepts, "sks dog, zwx hat", and a line for each concept.

        ValueError for a damaged file, an unknown name, a clash with a concept before it, or another base model.
        """
        try:
            read = load(folder_paths.get_full_path_or_raise(_FOLDER, cone))
            names = [name.strip() for name in concepts.split(",") if name.strip()]
            chosen = merge(*(extract(read, name) for name in names)) if names else read
            places, told = _check_base(model, chosen, allow_other_base)
            new = Applied(chosen, dict.fromkeys(chosen.names, strength))
            before = model.get_attachment(_KEY)
            applied = before.with_more(new.cone, new.strengths) if before else new
        except ConesError as error:
            raise _told(error) from error
        return _patched(model, applied, places), ", ".join(each.phrase for each in applied.cone.concepts), told


class ConceptPrompt:
    """The names in a text replaced by the words that the model knows them by."""

    CATEGORY = "conestool"
    DESCRIPTION = 'Replaces the names of concepts in a text: "a dog in a hat" becomes "a sks dog in a zwx hat".'
    FUNCTION = "replace"
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("text",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """The widgets."""
        text = {"multiline": True, "dynamicPrompts": True, "tooltip": "a prompt with the names of the concepts"}
        return {"required": {"model": ("MODEL", {"tooltip": "of Load Concept Neurons"}), "text": ("STRING", text)}}

    def replace(self, model: Any, text: str) -> tuple[str]:
        """The prompt for CLIP Text Encode. ValueError if the model carries no concept, or the text names none."""
        applied = model.get_attachment(_KEY)
        if applied is None:
            raise ValueError("This model carries no concepts: connect the model that Load Concept Neurons gives.")
        try:
            return (applied.cone.prompt(text),)
        except ConesError as error:
            raise _told(error) from error


def _told(error: ConesError) -> ValueError:
    """The error with its hint, as ComfyUI shows it."""
    return ValueError(f"{error}; {error.hint}" if error.hint else str(error))


def _check_base(model: Any, cone: Cone, allow_other_base: bool) -> tuple[dict[str, Place], str]:
    """Where the K/V weights lie, and how the model matches the base of each concept, a line each.

    ValueError if it does not, unless allowed; always if a weight is missing or has another shape.
    """
    weights = {key.removeprefix(_PREFIX): found[0][0] for key, found in model.get_key_patches(_PREFIX).items()}
    places = kv_places({key: weight.shape for key, weight in weights.items()})
    if model.model not in _INFO:
        found = ((name, _array(weights[at.key][at.start : at.start + at.rows])) for name, at in places.items())
        _INFO[model.model] = BaseModelInfo(id="", family="", dtype="", **fingerprint(found))
    info, lines = _INFO[model.model], []
    merged = any(patch[2] != 1 for at in places.values() for patch in model.patches.get(_PREFIX + at.key, ()))
    for concept in cone.concepts:
        outcome = match(concept.base, info)
        if outcome.accepted and merged:
            text, accepted = "merged with another model before this node", False
        else:
            text, accepted = outcome.text, outcome.accepted
        fits = all(info.tensors.get(param) == concept.base.tensors[param] for param in concept.indices)
        if not fits or not (accepted or allow_other_base):
            dtypes = {str(weights[at.key].dtype).removeprefix("torch.") for at in places.values()}
            odd = dtypes - {"float32", "float16", "bfloat16"}
            raise ValueError(
                f"{concept.name} was found on {concept.base.id}, and this model is another: {text}"
                f"{f' (stored as {min(odd)}, which cannot be recognised)' if odd else ''}. Load {concept.base.id}"
                f"{', or set allow_other_base to try all the same' if fits else ''}."
            )
        lines.append(f"{concept.name}: base model {concept.base.id}, {text}")
    logging.info("conestool: %s", "; ".join(lines))
    return places, "\n".join(lines)


def _array(weight: Tensor) -> Any:
    """A tensor as a numpy array; what numpy lacks, such as bfloat16, as float32, which is exact."""
    weight = weight.detach().cpu()
    return (weight if weight.dtype in (torch.float32, torch.float16) else weight.float()).numpy()


def _patched(model: Any, applied: Applied, places: Mapping[str, Place]) -> Any:
    """A clone of `model` that carries `applied` and nothing that it carried of concepts before.

    The patch stands before all others of its tensor: a concept zeroes the base model's weights, and what LoRAs add is
    added to that, whatever the order of the nodes.
    """
    clone = model.clone()
    kept = {
        key: [each for each in found if not isinstance(each[1], ConceptNeurons)] for key, found in clone.patches.items()
    }
    clone.patches = {key: patches for key, patches in kept.items() if patches}
    edits = _edits(applied, places)
    clone.add_patches({_PREFIX + key: ConceptNeurons({key}, weights) for key, weights in edits.items()})
    for key in edits:
        clone.patches[_PREFIX + key].insert(0, clone.patches[_PREFIX + key].pop())
    clone.set_attachments(_KEY, applied)
    return clone


def _edits(applied: Applied, places: Mapping[str, Place]) -> dict[str, list[Tensor]]:
    """By key the positions that the concepts change, in order, and for each the smallest factor asked for."""
    parts: dict[str, list[tuple[Any, float]]] = {}
    for concept in applied.cone.concepts:
        for param, indices in concept.indices.items():
            at, columns = places[param], concept.base.tensors[param][1]
            found = indices.astype(np.int64) + at.start * columns
            parts.setdefault(at.key, []).append((found, 1 - applied.strengths[concept.name]))
    edits = {}
    for key, found in parts.items():
        positions, inverse = np.unique(np.concatenate([each for each, _ in found]), return_inverse=True)
        factors = np.ones(len(positions), np.float32)
        np.minimum.at(
            factors, inverse, np.concatenate([np.full(len(each), scale, np.float32) for each, scale in found])
        )
        edits[key] = [torch.from_numpy(positions), torch.from_numpy(factors)]
    return edits
