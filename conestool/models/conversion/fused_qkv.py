"""The original key layouts of SD3 and Flux: where each tensor of the transformer lies in a checkpoint.

Facts: Stability's sd3-ref (`mmdit.py`) and Black Forest Labs' flux (`model.py`). Both stack Q, K and V along the rows
of one matrix, Flux's single blocks the MLP's first matrix below them; both have shift before scale where diffusers has
scale before shift. diffusers' own conversion of Flux is written for one width alone, and none writes such a file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from conestool.errors import ModelLoadError, UsageError
from conestool.models.kv_weights import canonical_name, unwrap_compiled

DENOISER_PREFIX = "model.diffusion_model."
_QKV_PARTS = {"q": 0, "k": 1, "v": 2}
_MLP_PART = 3
_READABLE_DTYPES = ("F32", "F16", "BF16")

_SD3 = (
    (r"pos_embed\.pos_embed", "pos_embed"),
    (r"pos_embed\.proj", "x_embedder.proj"),
    (r"time_text_embed\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
    (r"time_text_embed\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
    (r"time_text_embed\.text_embedder\.linear_1", "y_embedder.mlp.0"),
    (r"time_text_embed\.text_embedder\.linear_2", "y_embedder.mlp.2"),
    (r"context_embedder", "context_embedder"),
    (r"transformer_blocks\.(\d+)\.(attn2?)\.to_[qkv]", r"joint_blocks.\1.x_block.\2.qkv"),
    (r"transformer_blocks\.(\d+)\.attn\.add_[qkv]_proj", r"joint_blocks.\1.context_block.attn.qkv"),
    (r"transformer_blocks\.(\d+)\.(attn2?)\.norm_([qk])", r"joint_blocks.\1.x_block.\2.ln_\3"),
    (r"transformer_blocks\.(\d+)\.attn\.norm_added_([qk])", r"joint_blocks.\1.context_block.attn.ln_\2"),
    (r"transformer_blocks\.(\d+)\.(attn2?)\.to_out\.0", r"joint_blocks.\1.x_block.\2.proj"),
    (r"transformer_blocks\.(\d+)\.attn\.to_add_out", r"joint_blocks.\1.context_block.attn.proj"),
    (r"transformer_blocks\.(\d+)\.norm1\.linear", r"joint_blocks.\1.x_block.adaLN_modulation.1"),
    (r"transformer_blocks\.(\d+)\.norm1_context\.linear", r"joint_blocks.\1.context_block.adaLN_modulation.1"),
    (r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj", r"joint_blocks.\1.x_block.mlp.fc1"),
    (r"transformer_blocks\.(\d+)\.ff\.net\.2", r"joint_blocks.\1.x_block.mlp.fc2"),
    (r"transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj", r"joint_blocks.\1.context_block.mlp.fc1"),
    (r"transformer_blocks\.(\d+)\.ff_context\.net\.2", r"joint_blocks.\1.context_block.mlp.fc2"),
    (r"norm_out\.linear", "final_layer.adaLN_modulation.1"),
    (r"proj_out", "final_layer.linear"),
)
_FLUX = (
    (r"time_text_embed\.timestep_embedder\.linear_1", "time_in.in_layer"),
    (r"time_text_embed\.timestep_embedder\.linear_2", "time_in.out_layer"),
    (r"time_text_embed\.text_embedder\.linear_1", "vector_in.in_layer"),
    (r"time_text_embed\.text_embedder\.linear_2", "vector_in.out_layer"),
    (r"time_text_embed\.guidance_embedder\.linear_1", "guidance_in.in_layer"),
    (r"time_text_embed\.guidance_embedder\.linear_2", "guidance_in.out_layer"),
    (r"context_embedder", "txt_in"),
    (r"x_embedder", "img_in"),
    (r"transformer_blocks\.(\d+)\.attn\.to_[qkv]", r"double_blocks.\1.img_attn.qkv"),
    (r"transformer_blocks\.(\d+)\.attn\.add_[qkv]_proj", r"double_blocks.\1.txt_attn.qkv"),
    (r"transformer_blocks\.(\d+)\.attn\.norm_q", r"double_blocks.\1.img_attn.norm.query_norm"),
    (r"transformer_blocks\.(\d+)\.attn\.norm_k", r"double_blocks.\1.img_attn.norm.key_norm"),
    (r"transformer_blocks\.(\d+)\.attn\.norm_added_q", r"double_blocks.\1.txt_attn.norm.query_norm"),
    (r"transformer_blocks\.(\d+)\.attn\.norm_added_k", r"double_blocks.\1.txt_attn.norm.key_norm"),
    (r"transformer_blocks\.(\d+)\.attn\.to_out\.0", r"double_blocks.\1.img_attn.proj"),
    (r"transformer_blocks\.(\d+)\.attn\.to_add_out", r"double_blocks.\1.txt_attn.proj"),
    (r"transformer_blocks\.(\d+)\.norm1\.linear", r"double_blocks.\1.img_mod.lin"),
    (r"transformer_blocks\.(\d+)\.norm1_context\.linear", r"double_blocks.\1.txt_mod.lin"),
    (r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj", r"double_blocks.\1.img_mlp.0"),
    (r"transformer_blocks\.(\d+)\.ff\.net\.2", r"double_blocks.\1.img_mlp.2"),
    (r"transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj", r"double_blocks.\1.txt_mlp.0"),
    (r"transformer_blocks\.(\d+)\.ff_context\.net\.2", r"double_blocks.\1.txt_mlp.2"),
    (r"single_transformer_blocks\.(\d+)\.(?:attn\.to_[qkv]|proj_mlp)", r"single_blocks.\1.linear1"),
    (r"single_transformer_blocks\.(\d+)\.attn\.norm_q", r"single_blocks.\1.norm.query_norm"),
    (r"single_transformer_blocks\.(\d+)\.attn\.norm_k", r"single_blocks.\1.norm.key_norm"),
    (r"single_transformer_blocks\.(\d+)\.norm\.linear", r"single_blocks.\1.modulation.lin"),
    (r"single_transformer_blocks\.(\d+)\.proj_out", r"single_blocks.\1.linear2"),
    (r"norm_out\.linear", "final_layer.adaLN_modulation.1"),
    (r"proj_out", "final_layer.linear"),
)
LAYOUTS = {"SD3Transformer2DModel": _SD3, "FluxTransformer2DModel": _FLUX}
_FUSED_PARAM = re.compile(r"\.(?:to_([qkv])|add_([qkv])_proj|(proj_mlp))\.(?:weight|bias)$")


@dataclass(frozen=True)
class KeyMapping:
    """One tensor of diffusers in a checkpoint: the `key` there, without prefix.

    `part` is its place in a stack along the rows (Q, K, V, the rest), None for a whole tensor; `swapped` says that the
    two halves of the rows are exchanged.
    """

    key: str
    part: int | None = None
    swapped: bool = False

    def rows(self, count: int, total: int) -> slice:
        """The rows of the `total` in the checkpoint's tensor that are the `count` of diffusers'."""
        if self.part is None:
            return slice(0, total)
        start = total - count if self.part == _MLP_PART else self.part * count
        return slice(start, start + count)


def has_layout(denoiser: Any) -> bool:
    """Whether the denoiser's original layout is one of these."""
    return _class_name(denoiser) in LAYOUTS


def _class_name(denoiser: Any) -> str:
    """The denoiser's class."""
    return type(unwrap_compiled(denoiser)).__name__


def map_key(param: str, denoiser: Any) -> KeyMapping:
    """Where a parameter of `denoiser` lies; UsageError if the layout has no place for it."""
    head, _, tail = param.rpartition(".")
    rules = LAYOUTS[_class_name(denoiser)]
    for pattern, text in rules:
        whole = param if text == "pos_embed" else head
        if found := re.fullmatch(pattern, whole):
            key = found.expand(text)
            ending = "scale" if key.endswith(("query_norm", "key_norm")) else tail
            name = key if text == "pos_embed" else f"{key}.{ending}"
            return KeyMapping(name, _fused_part(param), _is_scale_shift_swapped(param, denoiser))
    raise UsageError(f"the original checkpoint layout has no place for the transformer's {param}")


def _fused_part(param: str) -> int | None:
    """Which part of a fused matrix a parameter is; None for a matrix of its own."""
    found = _FUSED_PARAM.search(param)
    return (_MLP_PART if found[3] else _QKV_PARTS[found[1] or found[2]]) if found else None


def _is_scale_shift_swapped(param: str, denoiser: Any) -> bool:
    """Whether shift and scale are exchanged: before the output, and for SD3's text where it is seen last."""
    last = f"transformer_blocks.{denoiser.config.num_layers - 1}.norm1_context."
    return param.startswith("norm_out.") or (
        _class_name(denoiser) == "SD3Transformer2DModel" and param.startswith(last)
    )


def _swap_scale_shift(value: Tensor) -> Tensor:
    """The two halves of the rows, shift and scale, exchanged."""
    return torch.cat(value.chunk(2)[::-1])


def key_prefix(keys: Collection[str]) -> str:
    """What stands before the transformer's names: nothing in a file that holds little else."""
    return DENOISER_PREFIX if any(key.startswith(DENOISER_PREFIX) for key in keys) else ""


def load_converted(file: Path, denoiser: Any, wanted: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """The `wanted` tensors of `denoiser` in a checkpoint, by their names in diffusers, as stored; one at a time.

    ModelLoadError for one that is not there, or of another shape.
    """
    shapes = {canonical_name(key): value.shape for key, value in unwrap_compiled(denoiser).state_dict().items()}
    with safe_open(file, "pt") as opened:
        keys = set(opened.keys())
        prefix = key_prefix(keys)
        for name in wanted:
            mapping = map_key(name, denoiser)
            if prefix + mapping.key not in keys:
                raise ModelLoadError(
                    f"{file.name}: no tensor {prefix}{mapping.key}", "is its configuration that of another variant?"
                )
            part = opened.get_slice(prefix + mapping.key)
            if part.get_dtype() not in _READABLE_DTYPES:
                raise ModelLoadError(
                    f"{file.name}: {prefix}{mapping.key} is stored as {part.get_dtype()}",
                    "load a float32, bfloat16 or float16 model",
                )
            shape, (count, *rest) = part.get_shape(), shapes[name]
            rows = mapping.rows(count, shape[0])
            if rows.stop - rows.start != count or shape[1:] != rest or rows.start < 0 or rows.stop > shape[0]:
                raise ModelLoadError(f"{file.name}: {prefix}{mapping.key} is {shape}, which does not fit {name}")
            yield name, _swap_scale_shift(part[rows]) if mapping.swapped else part[rows]


def load_transformer(file: Path, kind: Any, config: Path, dtype: torch.dtype) -> Any:
    """The transformer of class `kind` in a checkpoint, in `dtype`; `config` is the folder of its configuration.

    ModelLoadError if the checkpoint has tensors that it lacks, or the reverse.
    """
    with torch.device("meta"):
        denoiser = kind.from_config(kind.load_config(config, local_files_only=True))
    names = list(denoiser.state_dict())
    state = {name: value.to(dtype) for name, value in load_converted(file, denoiser, names)}
    _check_no_extra_keys(file, {map_key(name, denoiser).key for name in names})
    denoiser.load_state_dict(state, assign=True)
    return denoiser.eval()


def _check_no_extra_keys(file: Path, known: Collection[str]) -> None:
    """ModelLoadError for a checkpoint whose transformer has tensors that are not `known`."""
    with safe_open(file, "pt") as opened:
        keys = set(opened.keys())
    prefix = key_prefix(keys)
    blocks = {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}
    firsts = {key.split(".")[0] for key in known} | {"guidance_in"}
    strange = {key for key in blocks - set(known) if key.split(".")[0] in firsts}
    if strange:
        raise ModelLoadError(
            f"{file.name}: its configuration has no place for {min(strange)}", "is it that of another variant?"
        )


def to_original_state_dict(state: Mapping[str, Tensor], denoiser: Any) -> dict[str, Tensor]:
    """The transformer's tensors under their original names, without prefix."""
    parts: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        mapping = map_key(name, denoiser)
        parts.setdefault(mapping.key, {})[mapping.part or 0] = _swap_scale_shift(value) if mapping.swapped else value
    return {
        key: torch.cat([found[part] for part in sorted(found)]) if len(found) > 1 else found[0]
        for key, found in parts.items()
    }
