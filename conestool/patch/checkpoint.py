"""A patched model as one checkpoint in the original key layout, for A1111, ComfyUI, InvokeAI and others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from conestool.concept import Cone
from conestool.diffusion.models import Model, wrap
from conestool.diffusion.weights import bare
from conestool.errors import UsageError
from conestool.files import atomic_file
from conestool.patch.original import clip_state, open_clip_state, unet_name, unet_names, unet_state, vae_state
from conestool.patch.saving import save_tensors
from conestool.patch.shutting import Strength, factors
from conestool.patch.stored import patch_copy
from conestool.patch.writing import checked, component_tensors, metadata, patched_tensors

__all__ = ["checkpoint_notes", "original_state", "write_checkpoint"]

UNET = "model.diffusion_model."
VAE = "first_stage_model."
SCALING = {1: 0.18215, 2: 0.13025}
"""The factor between latents and the autoencoder's output that programs assume, by number of text encoders."""
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}


def write_checkpoint(
    pipe: Any,
    cone: Cone,
    out: str | Path,
    *,
    strength: Strength = 1.0,
    force: bool = False,
    force_model: bool = False,
) -> Path:
    """Write the patched model as one `.safetensors` in the original layout; returns its path.

    A model that is such a file is copied byte for byte but for its concept neurons and a few lines of metadata. Any
    other has U-Net, autoencoder and text encoders converted, in the dtype in which they are stored. UsageError for a
    part that has no place in the layout; the rest as `write_folder`.
    """
    model = checked(pipe, cone, force_model)
    told = metadata(model, cone, strength)
    told["modelspec.prediction_type"] = PREDICTIONS.get(prediction(model), prediction(model))
    with atomic_file(Path(out), force=force) as temporary:
        if model.path is not None and not model.in_folder:
            names = unet_names(checked_unet(model).config)
            changes = {UNET + unet_name(param, names): change for param, change in factors(cone, strength).items()}
            patch_copy(model.path, temporary, changes, told)
        else:
            with patched_tensors(model, cone, strength) as tensors:
                save_tensors(original_state(model.pipe, tensors, other_parts(model)), temporary, told)
    return Path(out)


def checkpoint_notes(pipe: Any) -> list[str]:
    """What a program cannot tell from such a file alone, and would take to be otherwise."""
    model, notes = wrap(pipe), []
    texts = text_encoders(model.pipe)
    usual, factor = SCALING[len(texts)], model.pipe.vae.config.scaling_factor
    if abs(factor - usual) > 1e-6:
        notes.append(f"its latents are scaled by {factor:g}; programs assume {usual:g}")
    if prediction(model) != "epsilon" and not (len(texts) == 1 and is_open_clip(texts["text_encoder"])):
        notes.append(f"it was trained for {prediction(model)}; choose that by hand, programs assume epsilon")
    return notes


def prediction(model: Model) -> str:
    """What the denoiser predicts, as diffusers calls it."""
    return str(model.pipe.scheduler.config.get("prediction_type", "epsilon"))


def other_parts(model: Model) -> dict[str, Mapping[str, Tensor]]:
    """The tensors of autoencoder and text encoders, by component."""
    checked_unet(model)
    return {name: component_tensors(model, name) for name in ("vae", *text_encoders(model.pipe))}


def original_state(
    pipe: Any, unet: Mapping[str, Tensor], parts: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """All tensors of a checkpoint: the U-Net's, and those of `parts` (vae, text_encoder, text_encoder_2)."""
    kind = type(bare(pipe.vae)).__name__
    if kind != "AutoencoderKL":
        raise unsupported(f"autoencoder ({kind})")
    states = {UNET: unet_state(unet, pipe.unet.config), VAE: vae_state(parts["vae"], pipe.vae.config)}
    texts = text_encoders(pipe)
    for number, (name, encoder) in enumerate(texts.items()):
        place = "cond_stage_model" if len(texts) == 1 else f"conditioner.embedders.{number}"
        if is_open_clip(encoder):
            states[f"{place}.model."] = open_clip_state(parts[name])
        else:
            states[f"{place}.transformer."] = clip_state(parts[name])
    return {place + key: value.contiguous() for place, state in states.items() for key, value in state.items()}


def text_encoders(pipe: Any) -> dict[str, Any]:
    """The text encoders by component; UsageError unless they are one or two of CLIP's kind."""
    found = {
        name: part for name, part in pipe.components.items() if name.startswith("text_encoder") and part is not None
    }
    kinds = [part.config.model_type for part in found.values()]
    if len(found) not in SCALING or set(kinds) != {"clip_text_model"}:
        raise unsupported(f"text encoders ({', '.join(kinds)})")
    return found


def is_open_clip(encoder: Any) -> bool:
    """Whether programs expect a text encoder in open_clip's layout: its GELU is exact, OpenAI's is the quick one."""
    return bool(encoder.config.hidden_act == "gelu")


def checked_unet(model: Model) -> Any:
    """The denoiser, which must be a U-Net."""
    if getattr(model.pipe, "unet", None) is not model.denoiser:
        raise unsupported(f"denoiser ({type(model.denoiser).__name__})")
    return model.denoiser


def unsupported(what: str) -> UsageError:
    """The refusal of a part."""
    return UsageError(
        f"the original checkpoint layout has no place for the {what}", "write a diffusers folder, or a LoRA, instead"
    )
