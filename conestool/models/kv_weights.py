"""The weights among which concept neurons are sought: K and V projections of the denoiser's attention layers."""

from __future__ import annotations

import torch
from torch import nn

from conestool._layers import is_cross, is_joint
from conestool.errors import UsageError

KV_SUFFIXES = (".to_k.weight", ".to_v.weight", ".add_k_proj.weight", ".add_v_proj.weight")
_FUSED_SUFFIXES = (".to_qkv.weight", ".to_kv.weight", ".to_added_qkv.weight")


def kv_weights(denoiser: nn.Module, layers: str = "all") -> dict[str, nn.Parameter]:
    """The K/V weights of `denoiser` by param name (diffusers naming), in name order; each of shape (out, in).

    With the `layers` "cross" those through which the text alone passes: cross-attention, and the added projections of
    joint attention. Names are the same for a plain, a compiled and a LoRA-carrying denoiser. Raises UsageError if there
    are none, if they are fused with Q, or if they are not plain floating-point tensors (quantised, or offloaded to
    nowhere).
    """
    found: dict[str, nn.Parameter] = {}
    for key, param in denoiser.named_parameters():
        name = canonical_name(key)
        if name.endswith(_FUSED_SUFFIXES):
            raise UsageError(f"{name} fuses K and V with other weights", "call pipe.unfuse_qkv_projections() first")
        if name.endswith(KV_SUFFIXES):
            _check_plain(name, param)
            found[name] = param
    if not found:
        raise UsageError(
            f"{type(denoiser).__name__} has no K/V projections", "use a text-to-image model with attention layers"
        )
    joint = is_joint(found)
    chosen = {name: found[name] for name in sorted(found) if layers == "all" or is_cross(name, joint)}
    if not chosen:
        raise UsageError(f"{type(denoiser).__name__} has no projections of the text alone", "search all layers")
    return chosen


def canonical_name(key: str) -> str:
    """A state-dict key as the bare denoiser has it: without the marks of torch.compile and of peft's wrappers."""
    return key.replace("_orig_mod.", "").replace(".base_layer.", ".")


def unwrap_compiled(module: nn.Module) -> nn.Module:
    """The module itself where torch.compile returned a wrapper around it."""
    inner: nn.Module = getattr(module, "_orig_mod", module)
    return inner


def execution_device(module: nn.Module) -> torch.device:
    """Where a module computes: where accelerate's hook moves it when it is called, else where its weights lie."""
    hook = getattr(module, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    return next(module.parameters()).device if device is None else torch.device(device)


def _check_plain(name: str, param: nn.Parameter) -> None:
    """Refuse a parameter whose scalars cannot be read and set one by one."""
    if param.device.type == "meta":
        raise UsageError(
            f"{name} is offloaded and holds no values", "use enable_model_cpu_offload, or no offload, instead"
        )
    if param.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise UsageError(f"{name} is stored as {param.dtype}", "load the model as float32, bfloat16 or float16")
