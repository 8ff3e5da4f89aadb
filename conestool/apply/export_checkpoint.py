"""A patched model as one checkpoint in the original key layout, for A1111, ComfyUI, InvokeAI and others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conestool._atomic import atomic_file
from conestool.apply._modelspec import modelspec
from conestool.apply._safetensors import patch_copy, save_tensors
from conestool.apply.edits import Strength, WeightEdit, weight_edits
from conestool.apply.export_folder import checked_model, component_tensors, metadata, patched_tensors
from conestool.concept import Cone
from conestool.errors import UsageError
from conestool.models.conversion.fused_qkv import (
    DENOISER_PREFIX,
    has_layout,
    key_prefix,
    map_key,
    to_original_state_dict,
)
from conestool.models.conversion.ldm import (
    clip_state_dict,
    open_clip_state_dict,
    unet_name,
    unet_names,
    unet_state_dict,
    vae_state_dict,
)
from conestool.models.families import family_of
from conestool.models.kv_weights import unwrap_compiled
from conestool.models.loading import tensor_names
from conestool.models.model import Model

_VAE_PREFIX = "first_stage_model."
_ASSUMED_SCALING = {
    "stable-diffusion": (0.18215, 0.0),
    "stable-diffusion-xl": (0.13025, 0.0),
    "stable-diffusion-3": (1.5305, 0.0609),
    "flux": (0.3611, 0.1159),
}
"""Factor and shift between latents and the autoencoder's output that programs assume, by family."""
_MODELSPEC_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}


def write_checkpoint(
    pipe: Any,
    cone: Cone,
    out: str | Path,
    *,
    strength: Strength = 1.0,
    overwrite: bool = False,
    allow_base_mismatch: bool = False,
) -> Path:
    """Write the patched model as one `.safetensors` in the original layout; returns its path.

    A model that is such a file is copied byte for byte but for its concept neurons and a few lines of metadata. Any
    other has denoiser, autoencoder and text encoders converted, in the dtype in which they are stored. UsageError for a
    part that has no place in the layout; the rest as `write_folder`.
    """
    model = checked_model(pipe, cone, allow_base_mismatch)
    about, told = modelspec(model, cone, "checkpoint"), metadata(model, cone, strength)
    told["modelspec.trigger_phrase"] = about["modelspec.trigger_phrase"]
    if not has_layout(model.denoiser):
        told["modelspec.prediction_type"] = _MODELSPEC_PREDICTIONS.get(_prediction(model), _prediction(model))
    with atomic_file(Path(out), overwrite=overwrite) as temporary:
        if model.path is not None and not model.in_folder:
            edits = _checkpoint_edits(model, model.path, weight_edits(cone, strength))
            patch_copy(model.path, temporary, edits, told, defaults=about)
        else:
            if not has_layout(model.denoiser):
                _checked_unet(model)
            others = {name: component_tensors(model, name) for name in ("vae", *_text_encoders(model.pipe))}
            tensors = original_state_dict(model.pipe, patched_tensors(model, cone, strength), others)
            save_tensors(tensors, temporary, about | told)
    return Path(out)


def _checkpoint_edits(model: Model, file: Path, wanted: Mapping[str, WeightEdit]) -> dict[str, WeightEdit]:
    """The changes by the names, and at the positions, that a checkpoint's tensors have."""
    if not has_layout(model.denoiser):
        names = unet_names(_checked_unet(model).config)
        return {DENOISER_PREFIX + unet_name(param, names): edit for param, edit in wanted.items()}
    prefix, found = key_prefix(tensor_names(file)), dict[str, list[tuple[int, WeightEdit]]]()
    for param, edit in wanted.items():
        mapping, shape = map_key(param, model.denoiser), model.info.tensors[param]
        part = mapping.part or 0
        moved = replace(edit, index=edit.index + part * shape[0] * shape[1])
        found.setdefault(prefix + mapping.key, []).append((part, moved))
    out = {}
    for key, parts in found.items():
        edits = [edit for _, edit in sorted(parts, key=itemgetter(0))]  # in the order of their rows
        out[key] = WeightEdit(torch.cat([edit.index for edit in edits]), torch.cat([edit.scale for edit in edits]))
    return out


def checkpoint_notes(pipe: Any) -> list[str]:
    """What a program cannot tell from such a file alone, and would take to be otherwise."""
    model, notes = Model.from_pipeline(pipe), []
    texts, config = _text_encoders(model.pipe), model.pipe.vae.config
    (usual, zero), factor = _ASSUMED_SCALING[model.family.name], config.scaling_factor
    shift = getattr(config, "shift_factor", None) or 0.0
    if abs(factor - usual) > 1e-6:
        notes.append(f"its latents are scaled by {factor:g}; programs assume {usual:g}")
    if abs(shift - zero) > 1e-6:
        notes.append(f"its latents are shifted by {shift:g}; programs assume {zero:g}")
    if has_layout(model.denoiser):
        return notes + _projection_notes(texts["text_encoder"])
    if _prediction(model) != "epsilon" and not (len(texts) == 1 and _is_open_clip(texts["text_encoder"])):
        notes.append(f"it was trained for {_prediction(model)}; choose that by hand, programs assume epsilon")
    return notes


def _projection_notes(encoder: Any) -> list[str]:
    """A note where SD3's first text encoder has a projection of its own; programs take it for the identity."""
    weight = getattr(getattr(encoder, "text_projection", None), "weight", None)
    if weight is None or torch.equal(weight, torch.eye(len(weight)).to(weight)):
        return []
    return ["its first text encoder projects the pooled vector; programs take that one as it is"]


def _prediction(model: Model) -> str:
    """What the denoiser predicts, as diffusers calls it."""
    return str(model.pipe.scheduler.config.get("prediction_type", "epsilon"))


def original_state_dict(
    pipe: Any, denoiser: Mapping[str, Tensor], parts: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """All tensors of a checkpoint: the denoiser's, and those of `parts` (vae, and each text encoder)."""
    kind = type(unwrap_compiled(pipe.vae)).__name__
    if kind != "AutoencoderKL":
        raise _unsupported(f"autoencoder ({kind})")
    vae, texts = vae_state_dict(parts["vae"], pipe.vae.config), _text_encoders(pipe)
    if has_layout(family_of(pipe).denoiser(pipe)):
        places = family_of(pipe).single_file_components
        states = {DENOISER_PREFIX: to_original_state_dict(denoiser, pipe.transformer), places["vae"]: vae}
        states |= {places[name]: _text_encoder_state_dict(encoder, parts[name]) for name, encoder in texts.items()}
    else:
        states = {DENOISER_PREFIX: unet_state_dict(denoiser, pipe.unet.config), _VAE_PREFIX: vae}
        states |= _unet_text_encoders(texts, parts)
    return {place + key: value.contiguous() for place, state in states.items() for key, value in state.items()}


def _unet_text_encoders(
    texts: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """The tensors of one or two CLIP text encoders, by their place in a U-Net's checkpoint."""
    states = {}
    for number, (name, encoder) in enumerate(texts.items()):
        place = "cond_stage_model" if len(texts) == 1 else f"conditioner.embedders.{number}"
        if _is_open_clip(encoder):
            states[f"{place}.model."] = open_clip_state_dict(parts[name])
        else:
            states[f"{place}.transformer."] = clip_state_dict(parts[name])
    return states


def _text_encoder_state_dict(encoder: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder of SD3 or Flux as transformers names it; T5's embedding under both its names.

    Some readers know it by the one, and diffusers reads every tensor that it does not find as missing.
    """
    if encoder.config.model_type == "clip_text_model":
        return clip_state_dict(state)
    return {**state, "encoder.embed_tokens.weight": state["shared.weight"].clone()}


def _text_encoders(pipe: Any) -> dict[str, Any]:
    """The text encoders by component; UsageError unless the layout has a place for them: CLIP's one or two, or T5."""
    found = {
        name: part for name, part in pipe.components.items() if name.startswith("text_encoder") and part is not None
    }
    kinds = [part.config.model_type for part in found.values()]
    stacked = has_layout(family_of(pipe).denoiser(pipe))
    if not (stacked and set(kinds) <= {"clip_text_model", "t5"}) and set(kinds) != {"clip_text_model"}:
        raise _unsupported(f"text encoders ({', '.join(kinds)})")
    return found


def _is_open_clip(encoder: Any) -> bool:
    """Whether programs expect a text encoder in open_clip's layout: its GELU is exact, OpenAI's is the quick one."""
    return bool(encoder.config.hidden_act == "gelu")


def _checked_unet(model: Model) -> Any:
    """The denoiser, which must be a U-Net."""
    if getattr(model.pipe, "unet", None) is not model.denoiser:
        raise _unsupported(f"denoiser ({type(unwrap_compiled(model.denoiser)).__name__})")
    return model.denoiser


def _unsupported(what: str) -> UsageError:
    """The refusal of a part."""
    return UsageError(
        f"the original checkpoint layout has no place for the {what}", "write a diffusers folder, or a LoRA, instead"
    )
