"""Small random base models of real classes: what tests use where pocket would be too slow or too good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from conestool.concept import Concept, Cone
from conestool.models._logging import quiet

WORDS = """a an the of in on with and photo picture dog cat hat bear top red blue beach under at night is two
sks zwx qyx vlk brz fnj gvt hjq""".split()  # noqa: SIM905
LENGTH = 24


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIPTokenizer whose vocabulary holds every ASCII character and WORDS as whole tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = [chr(code) for code in range(33, 127)]
    tokens = [*characters, *[char + "</w>" for char in characters]]
    merges: list[str] = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair, parts = (parts[0], parts[1]), [parts[0] + parts[1], *parts[2:]]
            if " ".join(pair) not in merges:
                merges.append(" ".join(pair))
                tokens.append("".join(pair))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH)


def make_t5_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer whose vocabulary holds every ASCII character and WORDS as whole tokens."""
    pieces = ["▁", *(chr(code) for code in range(33, 127)), *("▁" + word for word in WORDS if len(word) > 1)]
    scores = [(piece, -10.0 if len(piece) == 1 else -2.0) for piece in pieces]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(vocab=[*special, *scores], extra_ids=0)


def make_t5(seed: int, tokenizer: Any, **changes: Any) -> Any:
    """T5's encoder as in version 1.1 (gated, no dropout), two layers, 24 wide unless its shape is changed."""
    torch.manual_seed(seed)
    shape = {"d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 3} | changes
    told = {"vocab_size": len(tokenizer), "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    return T5EncoderModel(T5Config(**shape, **told, dropout_rate=0.0))


def make_unet(seed: int, cross: int, **changes: Any) -> UNet2DConditionModel:
    """A U-Net with self- and cross-attention at two resolutions and 28 K/V matrices, unless its shape is changed."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": cross,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**shape | changes)


def make_vae(seed: int, tiny: bool, **changes: Any) -> Any:
    """An autoencoder of 4 latent channels, 4 pixels per latent, unless its shape is changed."""
    torch.manual_seed(seed)
    if tiny:
        return AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(0, 1, 1),
            num_decoder_blocks=(1, 1, 1),
            scaling_factor=0.8,
        )
    shape: dict[str, Any] = {
        "block_out_channels": (8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 32,
    }
    return AutoencoderKL(**shape | changes)


def make_text_encoder(seed: int, tokenizer: Any, kind: Any = CLIPTextModel, **changes: Any) -> Any:
    """A text encoder of two layers, 16 wide unless its shape is changed."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return kind(CLIPTextConfig(**shape | changes))


def make_pipeline(folder: Path, prediction: str = "epsilon", *, seed: int = 0, tiny: bool = True) -> Any:
    """A random StableDiffusionPipeline for 32-pixel pictures; `folder` takes the tokenizer's files."""
    tokenizer = make_tokenizer(folder / "tokenizer_source")
    pipe = StableDiffusionPipeline(
        vae=make_vae(seed, tiny),
        text_encoder=make_text_encoder(seed + 1, tokenizer),
        tokenizer=tokenizer,
        unet=make_unet(seed + 2, cross=16),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_pipeline(
    folder: Path, prediction: str = "epsilon", *, dtype: torch.dtype | None = None, **options: Any
) -> Path:
    """The folder of a saved random pipeline, with its defaults (4 steps) in pocket.json."""
    pipe = make_pipeline(folder.with_name(folder.name + "-parts"), prediction, **options)
    return save(pipe if dtype is None else pipe.to(dtype), folder)


def save(pipe: Any, folder: Path) -> Path:
    """`folder` with the pipeline and its defaults (4 steps) in pocket.json."""
    with quiet():
        pipe.save_pretrained(folder)
    settings = {"num_inference_steps": 4, "guidance_scale": 3.0, "size": 32}
    (folder / "pocket.json").write_text(json.dumps(settings))
    return folder


def random_cone(model: Any, *names: str, density: float = 0.05, seed: int = 0) -> Cone:
    """Concepts of random neurons on `model`; their class nouns are the last words of their names."""
    rng = np.random.default_rng(seed)
    info = model.info
    concepts = []
    for number, name in enumerate(names or ("dog",)):
        indices = {}
        for param, shape in info.tensors.items():
            size = int(np.prod(shape))
            chosen = rng.choice(size, max(1, int(size * density)), replace=False)
            indices[param] = np.sort(chosen).astype(np.int32)
        identifier = ("sks", "zwx", "qyx", "vlk")[number]
        concepts.append(Concept(name, name.split()[-1], identifier, indices, info))
    return Cone(tuple(concepts))
