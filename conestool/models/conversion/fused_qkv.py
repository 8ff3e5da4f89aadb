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
from conestool.models.kv_weights import bare, param_name

__all__ = [
    "DENOISER",
    "Place",
    "has_layout",
    "load_transformer",
    "place_of",
    "prefix_in",
    "read_stacked",
    "stack_state",
]

DENOISER = "model.diffusion_model."
QKV = {"q": 0, "k": 1, "v": 2}
REST = 3
PLAIN = ("F32", "F16", "BF16")

SD3 = (
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
FLUX = (
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
LAYOUTS = {"SD3Transformer2DModel": SD3, "FluxTransformer2DModel": FLUX}
STACKED = re.compile(r"\.(?:to_([qkv])|add_([qkv])_proj|(proj_mlp))\.(?:weight|bias)$")


@dataclass(frozen=True)
class Place:
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
        start = total - count if self.part == REST else self.part * count
        return slice(start, start + count)


def has_layout(denoiser: Any) -> bool:
    """Whether the denoiser's original layout is one of these."""
    return kind_of(denoiser) in LAYOUTS


def kind_of(denoiser: Any) -> str:
    """The denoiser's class."""
    return type(bare(denoiser)).__name__


def place_of(param: str, denoiser: Any) -> Place:
    """Where a parameter of `denoiser` lies; UsageError if the layout has no place for it."""
    head, _, tail = param.rpartition(".")
    rules = LAYOUTS[kind_of(denoiser)]
    for pattern, text in rules:
        whole = param if text == "pos_embed" else head
        if found := re.fullmatch(pattern, whole):
            key = found.expand(text)
            ending = "scale" if key.endswith(("query_norm", "key_norm")) else tail
            name = key if text == "pos_embed" else f"{key}.{ending}"
            return Place(name, part_of(param), is_swapped(param, denoiser))
    raise UsageError(f"the original checkpoint layout has no place for the transformer's {param}")


def part_of(param: str) -> int | None:
    """Which part of a stack a parameter is."""
    found = STACKED.search(param)
    return (REST if found[3] else QKV[found[1] or found[2]]) if found else None


def is_swapped(param: str, denoiser: Any) -> bool:
    """Whether shift and scale are exchanged: before the output, and for SD3's text where it is seen last."""
    last = f"transformer_blocks.{denoiser.config.num_layers - 1}.norm1_context."
    return param.startswith("norm_out.") or (kind_of(denoiser) == "SD3Transformer2DModel" and param.startswith(last))


def swap(value: Tensor) -> Tensor:
    """The two halves of the rows exchanged."""
    return torch.cat(value.chunk(2)[::-1])


def prefix_in(keys: Collection[str]) -> str:
    """What stands before the transformer's names: nothing in a file that holds little else."""
    return DENOISER if any(key.startswith(DENOISER) for key in keys) else ""


def read_stacked(file: Path, denoiser: Any, wanted: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """The `wanted` tensors of `denoiser` in a checkpoint, by their names in diffusers, as stored; one at a time.

    ModelLoadError for one that is not there, or of another shape.
    """
    shapes = {param_name(key): value.shape for key, value in bare(denoiser).state_dict().items()}
    with safe_open(file, "pt") as opened:
        keys = set(opened.keys())
        prefix = prefix_in(keys)
        for name in wanted:
            place = place_of(name, denoiser)
            if prefix + place.key not in keys:
                raise ModelLoadError(
                    f"{file.name}: no tensor {prefix}{place.key}", "is its configuration that of another variant?"
                )
            part = opened.get_slice(prefix + place.key)
            if part.get_dtype() not in PLAIN:
                raise ModelLoadError(
                    f"{file.name}: {prefix}{place.key} is stored as {part.get_dtype()}",
                    "load a float32, bfloat16 or float16 model",
                )
            shape, (count, *rest) = part.get_shape(), shapes[name]
            rows = place.rows(count, shape[0])
            if rows.stop - rows.start != count or shape[1:] != rest or rows.start < 0 or rows.stop > shape[0]:
                raise ModelLoadError(f"{file.name}: {prefix}{place.key} is {shape}, which does not fit {name}")
            yield name, swap(part[rows]) if place.swapped else part[rows]


def load_transformer(file: Path, kind: Any, config: Path, dtype: torch.dtype) -> Any:
    """The transformer of class `kind` in a checkpoint, in `dtype`; `config` is the folder of its configuration.

    ModelLoadError if the checkpoint has tensors that it lacks, or the reverse.
    """
    with torch.device("meta"):
        denoiser = kind.from_config(kind.load_config(config, local_files_only=True))
    names = list(denoiser.state_dict())
    state = {name: value.to(dtype) for name, value in read_stacked(file, denoiser, names)}
    refuse_more(file, {place_of(name, denoiser).key for name in names})
    denoiser.load_state_dict(state, assign=True)
    return denoiser.eval()


def refuse_more(file: Path, known: Collection[str]) -> None:
    """Refuse a checkpoint whose transformer has tensors that are not `known`."""
    with safe_open(file, "pt") as opened:
        keys = set(opened.keys())
    prefix = prefix_in(keys)
    blocks = {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}
    firsts = {key.split(".")[0] for key in known} | {"guidance_in"}
    strange = {key for key in blocks - set(known) if key.split(".")[0] in firsts}
    if strange:
        raise ModelLoadError(
            f"{file.name}: its configuration has no place for {min(strange)}", "is it that of another variant?"
        )


def stack_state(state: Mapping[str, Tensor], denoiser: Any) -> dict[str, Tensor]:
    """The transformer's tensors under their original names, without prefix."""
    parts: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        place = place_of(name, denoiser)
        parts.setdefault(place.key, {})[place.part or 0] = swap(value) if place.swapped else value
    return {
        key: torch.cat([found[part] for part in sorted(found)]) if len(found) > 1 else found[0]
        for key, found in parts.items()
    }
