"""CLIP-I, CLIP-T and DINO-I by encoders that the user names: folders, or Hub ids unless offline; never by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from conestool._atomic import expand_user
from conestool.errors import ModelLoadError, UsageError
from conestool.evaluation.alignment import ImageMetric, Images, cosines, pixels
from conestool.evaluation.attribute_metric import judge_for
from conestool.evaluation.prompts import Prompt
from conestool.models._logging import quiet
from conestool.models.loading import is_hub_id, read_json, wrap_hub_errors, wrap_load_errors

__all__ = ["ClipMetric", "DinoMetric", "load_clip", "load_dino", "load_metrics"]

_DINO_CLASSES = {"vit": "ViTModel", "dinov2": "Dinov2Model"}
_LOCAL_ONLY: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
_BATCH_SIZE = 16
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class _Preprocess:
    """How an encoder wants its pictures: squares of `side` pixels, normalised by `mean` and `std` per channel."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Images) -> Tensor:
        """(n, 3, side, side), fp32."""
        seen = (pixels(images, self.side) + 1) / 2
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (seen - mean) / std


@dataclass
class ClipMetric:
    """CLIP-I: mean cosine of a picture to the photos. CLIP-T: its cosine to the prompt with the class noun."""

    model: Any
    tokenizer: Any
    preprocess: _Preprocess
    name: str = "CLIP"

    @torch.no_grad()
    def features(self, images: Images) -> Tensor:
        """(n, d): projected image embeddings."""
        parts = [
            self.model.visual_projection(self.model.vision_model(pixel_values=part.to(self.model.device)).pooler_output)
            for part in torch.split(self.preprocess(images), _BATCH_SIZE)
        ]
        return torch.cat(parts).cpu()

    def image(self, pictures: Images, photos: Images, base_images: Images) -> Tensor | None:
        """CLIP-I; `base_images` has no part in it."""
        return cosines(self.features(pictures), self.features(photos), pictures is photos)

    @torch.no_grad()
    def text(self, pictures: Images, prompts: Sequence[Prompt]) -> Tensor | None:
        """CLIP-T."""
        words = [str(prompt) for prompt in prompts]
        tokens = self.tokenizer(words, padding=True, truncation=True, return_tensors="pt")
        found = self.model.text_projection(self.model.text_model(**tokens.to(self.model.device)).pooler_output).cpu()
        return F.cosine_similarity(self.features(pictures), found)


@dataclass
class DinoMetric:
    """DINO-I: mean cosine of a picture to the photos, by the class token of a vision transformer."""

    model: Any
    preprocess: _Preprocess
    name: str = "DINO"

    @torch.no_grad()
    def features(self, images: Images) -> Tensor:
        """(n, d): class tokens of the last layer."""
        parts = torch.split(self.preprocess(images), _BATCH_SIZE)
        device = self.model.device
        return torch.cat([self.model(pixel_values=part.to(device)).last_hidden_state[:, 0] for part in parts]).cpu()

    def image(self, pictures: Images, photos: Images, base_images: Images) -> Tensor | None:
        """DINO-I; `base_images` has no part in it."""
        return cosines(self.features(pictures), self.features(photos), pictures is photos)

    def text(self, pictures: Images, prompts: Sequence[Prompt]) -> Tensor | None:
        """None: it reads no text."""
        return None


def load_metrics(
    settings: dict[str, Any],
    clip: str | None,
    dino: str | None,
    offline: bool = False,
    device: torch.device | str = "cpu",
) -> list[ImageMetric]:
    """Pocket's judge where it knows what a model with this pocket.json draws, and on `device` the encoders named."""
    judge = judge_for(settings)
    found: list[ImageMetric] = [judge] if judge else []
    if clip is not None:
        found.append(load_clip(clip, offline, device))
    if dino is not None:
        found.append(load_dino(dino, offline, device))
    return found


def load_clip(name: str, offline: bool = False, device: torch.device | str = "cpu") -> ClipMetric:
    """A CLIPModel with its tokenizer; ModelLoadError if it cannot be had or is something else."""
    import transformers

    folder, _ = _resolve_encoder(name, offline, ("clip",))
    with wrap_load_errors(name), quiet():
        model = transformers.CLIPModel.from_pretrained(folder, **_LOCAL_ONLY)
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    preprocess = _read_preprocess(folder, model.config.vision_config.image_size)
    return ClipMetric(model.eval().to(device), tokenizer, preprocess)


def load_dino(name: str, offline: bool = False, device: torch.device | str = "cpu") -> DinoMetric:
    """A ViTModel or Dinov2Model; ModelLoadError if it cannot be had or is something else."""
    import transformers

    folder, kind = _resolve_encoder(name, offline, tuple(_DINO_CLASSES))
    extra = {"add_pooling_layer": False} if kind == "vit" else {}
    with wrap_load_errors(name), quiet():
        model = getattr(transformers, _DINO_CLASSES[kind]).from_pretrained(folder, **_LOCAL_ONLY, **extra)
    return DinoMetric(model.eval().to(device), _read_preprocess(folder, model.config.image_size))


def _resolve_encoder(name: str, offline: bool, kinds: tuple[str, ...]) -> tuple[Path, str]:
    """The folder of an encoder and its kind, one of `kinds`; only a Hub id is fetched, and not if `offline`."""
    folder = expand_user(name)
    if not folder.is_dir():
        if not is_hub_id(name):
            raise UsageError(f"{name}: no such folder", "give a folder of transformers' format, or a Hub id")
        from huggingface_hub import snapshot_download

        with wrap_hub_errors(name, None, offline), quiet():
            wanted = ["*.json", "*.txt", "*.safetensors"]
            folder = Path(snapshot_download(name, allow_patterns=wanted, local_files_only=offline))
    kind = str(read_json(folder / "config.json").get("model_type"))
    if kind not in kinds:
        raise ModelLoadError(f"{name}: its config.json says {kind}, expected {' or '.join(kinds)}")
    return folder, kind


def _read_preprocess(folder: Path, side: int) -> _Preprocess:
    """How the encoder in `folder` wants pictures of `side` pixels; CLIP's mean and std where it does not say."""
    told = read_json(folder / "preprocessor_config.json")
    mean, std = (
        tuple(map(float, told.get(key, plain))) for key, plain in (("image_mean", _CLIP_MEAN), ("image_std", _CLIP_STD))
    )
    return _Preprocess(side, mean, std)
