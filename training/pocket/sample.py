"""Look at a checkpoint: ``python -m training.pocket.sample --work F --out sheet.png [PROMPT...]``."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from training.pocket import captions, export, world
from training.pocket.common import mixed_precision
from training.pocket.sheets import write_sheet


def render(
    pipe: StableDiffusionPipeline,
    prompts: list[str],
    seed: int,
    steps: int = export.STEPS,
    batch: int = 32,
    guidance: float = export.GUIDANCE,
) -> NDArray[np.uint8]:
    """Render one picture per prompt: (N, 64, 64, 3); picture i starts from noise of ``seed + i``."""
    pictures = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        noise = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        with mixed_precision(torch.device("cpu")):
            out = pipe(
                part,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=noise,
                height=export.SIZE,
                width=export.SIZE,
                output_type="np",
            ).images
        pictures.append((out * 255).round().astype(np.uint8))
    return np.concatenate(pictures)


def random_prompts(count: int, seed: int, things: int | None = None, rich: float = captions.RICH) -> list[str]:
    """Return captions of random scenes, not chosen."""
    rng = random.Random(seed)
    drawn = [world.sample_scene(rng, things) for _ in range(count)]
    return [captions.caption(scene, rng, identifiers=0, rich=rich) for scene in drawn]


def main() -> None:
    """Render prompts, or captions of random scenes, to one sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", nargs="*")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--things", type=int, help="how many things in each scene")
    parser.add_argument("--rich", type=float, default=captions.RICH, help="share of captions that name everything")
    parser.add_argument("--steps", type=int, default=export.STEPS)
    parser.add_argument("--guidance", type=float, default=export.GUIDANCE)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    pipe, state = export.build_pipeline(args.work)
    prompts = args.prompts or random_prompts(args.count, args.seed, args.things, args.rich)
    write_sheet(args.out, render(pipe, prompts, args.seed, args.steps, guidance=args.guidance), prompts, 12, 2)
    print(f"{state['seen']} images seen: {args.out}")


if __name__ == "__main__":
    main()
