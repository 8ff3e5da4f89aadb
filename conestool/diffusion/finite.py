"""Numbers that are none: NaN and infinity in weights, latents, losses and gradients stop a search at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from conestool.diffusion.models import Model
from conestool.errors import NumbersError

__all__ = ["all_finite", "check_finite", "check_weights"]


def check_finite(values: Tensor | float, what: str, dtype: torch.dtype) -> None:
    """Raise NumbersError unless all of `values` are finite; `dtype` is what they were computed in."""
    tensor = torch.as_tensor(values)
    if all_finite(tensor):
        return
    wrong = "NaN" if bool(tensor.isnan().any()) else "infinite"
    raise NumbersError(f"{what} is {wrong} in {name_of(dtype)}", hint_for(dtype))


def all_finite(*parts: Tensor) -> bool:
    """Whether no value is NaN or infinite: finite sums say so in one pass; only others need a second look."""
    sums = torch.stack([part.sum() for part in parts])
    return bool(sums.isfinite().all()) or all(bool(part.isfinite().all()) for part in parts)


def check_weights(model: Model) -> None:
    """Raise NumbersError if a weight of any part of the pipeline is NaN or infinite; names the first such tensor."""
    for part, name, weight in weights_of(model.pipe):
        if weight.device.type != "meta" and weight.is_floating_point() and not all_finite(weight):
            what = "NaN" if bool(weight.isnan().any()) else "infinite"
            raise NumbersError(
                f"{model.id}: {part}: {name} holds {what} values",
                "the base model is damaged, or too large for --dtype float16: load it as float32, or get another copy",
            )


def weights_of(pipe: Any) -> Iterator[tuple[str, str, Tensor]]:
    """Part, name and values of every parameter of a pipeline's modules."""
    for part, module in pipe.components.items():
        if isinstance(module, nn.Module):
            yield from ((part, name, weight.detach()) for name, weight in module.named_parameters())


def name_of(dtype: torch.dtype) -> str:
    """The dtype as the command line calls it."""
    return str(dtype).removeprefix("torch.")


def hint_for(dtype: torch.dtype) -> str:
    """What to try where arithmetic in `dtype` broke down."""
    if dtype == torch.float32:
        return "the base model may be damaged: try another copy or another model, or a smaller rate of the method"
    return "try --dtype float32, or bfloat16, whose range is as large"
