"""The parts of pocket before training, in standard diffusers and transformers classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.pocket import domain
from training.pocket.tokenizer import MAX_LENGTH

TEXT_WIDTH = 128
LATENT_SIZE = 16


def build_unet() -> UNet2DConditionModel:
    """Return the U-Net: convolutions at 16x16, self- and cross-attention at 8x8 and 4x4."""
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
    )
    unet.set_attn_processor(AttnProcessor())
    return unet


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return the text encoder; the identifiers' embeddings are orthogonal directions that stay fixed."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = "eager"  # the CPU's fused attention has a slow backward pass
    model = CLIPTextModel(config)
    embedding = model.get_input_embeddings().weight
    torch.nn.init.normal_(embedding, std=0.1)
    rows = identifier_rows(tokenizer)
    directions = torch.linalg.qr(torch.randn(TEXT_WIDTH, len(rows), dtype=torch.float64)).Q.T.float()
    embedding.data[rows] = directions * embedding.data.norm(dim=1).mean()
    return model


def identifier_rows(tokenizer: CLIPTokenizer) -> Tensor:
    """Return the token ids of the identifiers."""
    return torch.tensor(tokenizer.convert_tokens_to_ids([w + "</w>" for w in domain.IDENTIFIERS]))


class Reader(nn.Module):
    """Names, from the text encoder's state at a token, that token and the two before it; used in training only.

    A noun's state has to keep the colour or identifier in front of it, also where the U-Net has no use for it yet:
    without this the states behind two identifiers became equal, and no concept could be bound to one.
    """

    REACH = 3

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(TEXT_WIDTH, TEXT_WIDTH) for _ in range(self.REACH)])
        self.sharpness = nn.Parameter(torch.tensor(3.0))

    def forward(self, states: Tensor, tokens: Tensor, embedding: Tensor, end: int) -> Tensor:
        """Return the mean cross-entropy for ``states`` (B, T, D) of ``tokens`` (B, T) before the first ``end``.

        A head that has nothing to name, since all captions were dropped, counts as 0.
        """
        known = F.normalize(embedding.detach(), dim=1)
        real = (tokens != end).cumprod(1).bool()
        losses = []
        for back, head in enumerate(self.heads):
            logits = F.normalize(head(states[:, back:]), dim=2) @ known.T * self.sharpness.exp()
            chosen = real[:, back:]
            total = F.cross_entropy(logits[chosen], tokens[:, : tokens.shape[1] - back][chosen], reduction="sum")
            losses.append(total / chosen.sum().clamp(min=1))
        return torch.stack(losses).mean()


def crowding(states: Tensor, allowed: float) -> Tensor:
    """Return the mean squared excess over ``allowed`` of the cosines between all pairs of ``states`` (K, P, D).

    The cosines are taken at each of the P places on its own.
    """
    unit = F.normalize(states, dim=2).transpose(0, 1)
    pairs = torch.triu_indices(len(states), len(states), 1, device=states.device)
    cosines = (unit @ unit.transpose(1, 2))[:, pairs[0], pairs[1]]
    return (cosines - allowed).clamp(min=0).square().mean()


def build_scheduler() -> DDPMScheduler:
    """Return the noise schedule of training, as the scheduler that samples.

    A sampler that adds noise in every step corrects what earlier steps got wrong: more of what a caption names comes
    out than with DDIM, and pictures are nearer to the scenes (README).
    """
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )
