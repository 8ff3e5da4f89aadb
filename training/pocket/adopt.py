"""Begin where an exported model stands: ``python -m training.pocket.adopt --model conestool/pocket --work F``.

Writes the checkpoints that the other stages go on from, so that the model inside the package can be trained further
without the work folder it came from. The optimizers begin anew; weights come back as fp16 has them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel

from training.pocket import autoencoder, models, tokenizer
from training.pocket.common import save_state


def read_parts(model: Path) -> torch.nn.ModuleDict:
    """Return U-Net and text encoder of an exported model in fp32, under the names that ``train.pt`` has."""
    parts = torch.nn.ModuleDict({"unet": models.build_unet(), "text": models.build_text_encoder(tokenizer.build())})
    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32)
    parts["unet"].load_state_dict(unet.state_dict())
    parts["text"].load_state_dict(text.state_dict())
    return parts


def adopt(model: Path, work: Path) -> dict[str, Any]:
    """Write ``autoencoder.pt``, ``decoder.pt``, ``scale.pt`` and ``train.pt``; refuses a folder with a training."""
    if (work / "train.pt").exists():
        raise SystemExit(f"{work} holds a training already; take another --work")
    parts = read_parts(model)
    vae = AutoencoderTiny.from_pretrained(model / "vae", torch_dtype=torch.float32)
    told = json.loads((model / "pocket.json").read_text(encoding="utf-8"))
    scale = float(vae.config.scaling_factor)
    state = {
        "model": parts.state_dict(),
        "average": [parameter.detach().clone() for parameter in parts.parameters()],
        "optimizers": [],
        "seen": int(told["images_seen"]),
        "steps": 0,
        "scale": scale,
    }
    coded = {"model": vae.state_dict(), "light": autoencoder.LightDecoder().state_dict(), "seen": 0}
    for name in ("autoencoder.pt", "decoder.pt"):
        save_state(work / name, coded)
    save_state(work / "scale.pt", {"scaling_factor": scale})
    save_state(work / "train.pt", state)
    return state


def main() -> None:
    """Adopt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    print(f"{adopt(args.model, args.work)['seen']} images seen: {args.work / 'train.pt'}")


if __name__ == "__main__":
    main()
