"""LoRA by peft on the batches of a search: the same loss, photos, class images, prompts, noise and number of steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save
from torch import Tensor, nn

from benchmarks.speed.steps import PROJECTIONS
from conestool.images.photos import Photo
from conestool.models._logging import quiet
from conestool.models.devices import check_finite
from conestool.models.memory import shrinking
from conestool.models.model import Model
from conestool.search.batches import Batch
from conestool.search.context import SearchContext
from conestool.search.find import add_captions, resolve_names
from conestool.search.loss_terms import prepare
from conestool.search.memory import search_mode, stepping
from conestool.search.methods import resolve_method
from conestool.search.objective import Objective
from conestool.search.prior_images import draw_prior_images
from conestool.search.subject import split_photos

__all__ = ["lora_in", "train"]

ADAPTER = "benchmark"


class Trainer:
    """AdamW on the adapters of a denoiser, in fp32; step k sees batch k of the search."""

    def __init__(self, objective: Objective, rank: int, rate: float) -> None:
        self.objective = objective
        denoiser: Any = objective.model.denoiser
        if ADAPTER not in getattr(denoiser, "peft_config", {}):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(objective.seed)
                config = LoraConfig(r=rank, lora_alpha=rank, target_modules=PROJECTIONS)
                denoiser.add_adapter(config, adapter_name=ADAPTER)
            for name, module in denoiser.named_modules():
                if name.endswith((f"lora_A.{ADAPTER}", f"lora_B.{ADAPTER}")):
                    module.weight = nn.Parameter(module.weight.detach().float())
        self.parameters = [own for name, own in denoiser.named_parameters() if "lora_" in name]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate)
        self.learn_alone(False)

    def learn_alone(self, alone: bool = True) -> None:
        """Whether the K/V weights have no gradients; measuring how many samples fit asks for theirs."""
        for weight in self.objective.params.parameters.values():
            weight.requires_grad_(not alone)

    def step(self, index: int) -> float:
        """Move the adapters by the gradient of L_con on batch `index`; returns that batch's L_con."""
        objective, batch = self.objective, self.objective.batch(index)
        fixed = objective.micro_batch_size
        while True:
            loss, taken = shrinking(
                lambda size: self.gradient(batch, size),
                fixed or objective.step_size,
                objective.model.device,
                fixed=bool(fixed),
            )
            objective.step_size = taken
            gradient = [own.grad for own in self.parameters if own.grad is not None]
            sums = torch.stack([part.sum() for part in gradient])
            if not objective.scale.backoff(sums, gradient):
                break
        check_finite(torch.cat([loss[None], sums]), f"LoRA at step {index + 1}", objective.model.dtype)
        for part in gradient:
            part.div_(objective.scale.value)
        objective.scale.update()
        self.optimizer.step()
        return float(loss)

    def gradient(self, batch: Batch, size: int) -> Tensor:
        """Leave the gradient on the batch, times the loss scale, in the adapters; returns the loss."""
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=self.objective.model.device)
        for rows in torch.split(torch.arange(len(batch)), size):
            part = batch[rows]
            value = (part.loss_weights * self.objective.per_sample_loss(part)).sum()
            torch.autograd.backward(value * self.objective.scale.value)
            loss += value.detach()
        return loss


def train(
    context: SearchContext, photos: Sequence[Photo], class_noun: str, name: str, rank: int, rate: float
) -> tuple[bytes, Tensor]:
    """A LoRA of the subject that `find` would search: the bytes of diffusers' file, and the loss of each step.

    The model is as it was afterwards.
    """
    denoiser: Any = context.model.denoiser
    subject = resolve_names(context.model, class_noun, name, None)
    split = split_photos(add_captions(context, photos, class_noun), context.config)
    priors = draw_prior_images(context, class_noun)
    try:
        with search_mode(context.model, context.resources) as params:
            objective, _ = prepare(context, params, subject, split, priors)
            make: Any = lambda: Trainer(objective, rank, rate)  # noqa: E731
            with stepping(context, [objective], make) as trainer:
                trainer.learn_alone()
                steps = resolve_method(context.config.method).steps
                losses = torch.tensor([trainer.step(index) for index in range(steps)])
            state = convert_state_dict_to_diffusers(get_peft_model_state_dict(denoiser, adapter_name=ADAPTER))
            tensors = {f"unet.{key}": value.detach().cpu().contiguous() for key, value in state.items()}
    finally:
        if ADAPTER in getattr(denoiser, "peft_config", {}):
            denoiser.unload_lora()
    return save(tensors, {"format": "pt"}), losses


@contextmanager
def lora_in(model: Model, path: Path) -> Iterator[None]:
    """Within it the model draws with a LoRA of `train`."""
    with quiet():
        model.pipe.load_lora_weights(load_file(path), adapter_name=ADAPTER)
    try:
        yield
    finally:
        model.pipe.unload_lora_weights()
