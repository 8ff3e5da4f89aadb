"""Small random CLIP and DINO folders, as transformers saves real ones."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from conestool.models._logging import quiet
from tests.support.tiny_models import make_tokenizer

WIDE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SEEN = {"image_size": 32, "patch_size": 8}


def save_clip(folder: Path) -> Path:
    """A CLIPModel of two layers with its tokenizer and its preprocessing."""
    tokenizer = make_tokenizer(folder.with_name(folder.name + "-tokenizer"))
    torch.manual_seed(0)
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {**WIDE, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 24}
    config = CLIPConfig(text_config=text, vision_config={**WIDE, **SEEN}, projection_dim=8)
    with quiet():
        CLIPModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    mean_std = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps(mean_std))
    return folder


def save_dino(folder: Path, second: bool = False) -> Path:
    """A ViTModel, or a Dinov2Model, of two layers."""
    torch.manual_seed(1)
    wide = {key: value for key, value in WIDE.items() if key != "intermediate_size"}
    model = Dinov2Model(Dinov2Config(**wide, **SEEN)) if second else ViTModel(ViTConfig(**WIDE, **SEEN))
    with quiet():
        model.save_pretrained(folder)
    return folder
