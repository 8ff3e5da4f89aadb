"""The parts of pocket before training, in standard diffusers and transformers classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.pocket import autoencoder, world
from training.pocket.tokenizer import MAX_LENGTH

TEXT_WIDTH, TEXT_LAYERS = 192, 4
WIDTHS, HEADS = (128, 128), 4
LATENT_SIZE = autoencoder.SIZE // autoencoder.FACTOR


def build_unet() -> UNet2DConditionModel:
    """Return the U-Net: convolutions, self- and cross-attention at 8x8 and 4x4."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=autoencoder.CHANNELS,
        out_channels=autoencoder.CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        attention_head_dim=HEADS,  # which this class takes for their number
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return the text encoder; the identifiers' embeddings are orthogonal directions that stay fixed."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
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
    return torch.tensor(tokenizer.convert_tokens_to_ids([w + "</w>" for w in world.IDENTIFIERS]))


def ordinary_rows(tokenizer: CLIPTokenizer) -> Tensor:
    """Return token ids of ordinary words, whose length the identifiers have."""
    rows: Tensor = torch.unique(tokenizer("dog red", return_tensors="pt").input_ids[0])
    return rows


@torch.no_grad()
def hold_identifiers(embedding: Tensor, identifiers: Tensor, directions: Tensor, ordinary: Tensor) -> None:
    """Put the identifiers' rows of an embedding (V, D) back on their directions, as long as ordinary words."""
    embedding[identifiers] = directions * embedding[ordinary].norm(dim=1).mean()


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
