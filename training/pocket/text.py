"""Teach the text encoder to read, before pictures: ``python -m training.pocket.text --work F --minutes 10``.

A denoiser teaches its text encoder words slowly; from captions alone they are learned in minutes. A small reader asks
the states, as the denoiser's cross-attention does, what each place in reading order holds; its loss teaches the
encoder, and the reader is thrown away. Resumes from ``text.pt``, with which a new training begins, and an old one with
``--new-text``. With ``--frozen`` the reader alone learns, on the encoder of ``train.pt``: what that holds already.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from training.pocket import captions, fast, models, scenes, tokenizer
from training.pocket.common import load_state, log_line, mixed_precision, save_state
from training.pocket.export import read_average
from training.pocket.labels import ABSENT, BACKGROUNDS, PLACES, WORLD, codes_of

#: Share of captions that name everything, above that of training: unnamed attributes cannot be read.
RICH = 0.85
HELD_OUT_SEED = 970_000
TELL_EVERY = 100


class Reader(nn.Module):
    """Reads text states (B, 64, 192): the attributes of each place, the background, and which places are taken."""

    def __init__(self, width: int = models.TEXT_WIDTH) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(PLACES + 1, width) * 0.3)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(width, 4, 2 * width, dropout=0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict(
            {name.replace(" ", "_"): nn.Linear(width, len(v)) for name, v in WORLD.heads.items()}
        )
        self.background = nn.Linear(width, len(BACKGROUNDS))
        self.taken = nn.Linear(width, 2)

    def forward(self, states: Tensor) -> dict[str, Tensor]:
        """Return logits: each attribute (B, 4, values), "taken" (B, 4, 2), "background" (B, backgrounds)."""
        x = self.places.expand(len(states), -1, -1)
        for layer in self.layers:
            x = layer(x, states)
        things, whole = self.norm(x).split([PLACES, 1], dim=1)
        read = {name: self.heads[name.replace(" ", "_")](things) for name in WORLD.heads}
        return read | {"taken": self.taken(things), "background": self.background(whole[:, 0])}


def draw(count: int, seed: int, words: CLIPTokenizer, rich: float = RICH) -> tuple[Tensor, dict[str, Tensor]]:
    """Return token ids (N, 64) of captions, and what is true of their scenes in the shapes of the logits."""
    rng, drawn = random.Random(seed), scenes.sample_scenes(count, seed)
    texts = [captions.caption(scene, rng, rich=rich) for scene in drawn]
    ids = words(texts, padding="max_length", max_length=tokenizer.MAX_LENGTH, truncation=True).input_ids
    things, places = (codes.long() for codes in codes_of(drawn))
    truth = dict(zip(WORLD.heads, things.unbind(2), strict=True))
    truth |= {"taken": (things[:, :, 0] != ABSENT).long(), "background": places}
    return torch.tensor(ids), truth


def loss_of(read: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
    """Return the sum of all cross-entropies."""
    parts = [
        F.cross_entropy(logits.float().flatten(0, -2), truth[name].flatten(), ignore_index=ABSENT)
        for name, logits in read.items()
    ]
    return torch.stack(parts).sum()


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # type: ignore[untyped-decorator]
def check(text: CLIPTextModel, reader: Reader, words: CLIPTokenizer, count: int = 256) -> dict[str, float]:
    """Return the share that is read right of each attribute, from captions that name everything."""
    ids, truth = draw(count, HELD_OUT_SEED, words, rich=1.0)
    read = reader(text(ids).last_hidden_state)
    shares = {}
    for name, logits in read.items():
        there = truth[name] != ABSENT
        right = logits.argmax(-1) == truth[name]
        shares[name] = round(float(right[there].float().mean()), 3)
        if name == "class":
            shares["class behind the first"] = round(float(right[:, 1:][there[:, 1:]].float().mean()), 3)
    return shares


def train(work: Path, minutes: float, batch: int, lr: float, *, frozen: bool = False) -> None:
    """Train for so many minutes, with a learning rate that falls in the second half.

    With `frozen` the text encoder is that of ``train.pt`` and stays so; nothing but the log is written.
    """
    torch.manual_seed(0)
    words = tokenizer.build()
    text, reader = models.build_text_encoder(words), Reader()
    state = None if frozen else load_state(work / "text.pt")
    step = int(state["steps"]) if state else 0
    if frozen:
        text.load_state_dict(read_average(work)[0]["text"].state_dict())
        text.requires_grad_(False)
    if state:
        text.load_state_dict(state["model"])
        reader.load_state_dict(state["reader"])
    for layer in [*(m for m in text.modules() if isinstance(m, CLIPEncoderLayer)), *reader.layers]:
        fast.compile_module(layer)
    parameters = [p for p in (*text.parameters(), *reader.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    identifiers, ordinary = models.identifier_rows(words), models.ordinary_rows(words)
    embedding = text.get_input_embeddings().weight
    directions = F.normalize(embedding.data[identifiers], dim=1)
    start, first = time.monotonic(), step

    def save() -> None:
        if not frozen:
            save_state(work / "text.pt", {"model": text.state_dict(), "reader": reader.state_dict(), "steps": step})

    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step - first + 1) / 100) * min(1.0, 0.02 + 2 * (1 - done))
        ids, truth = draw(batch, step, words)
        with mixed_precision(torch.device("cpu")):
            loss = loss_of(reader(text(ids).last_hidden_state), truth)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if not frozen:
            models.hold_identifiers(embedding, identifiers, directions, ordinary)
        step += 1
        if step % TELL_EVERY == 0:
            shares = check(text, reader, words)
            log_line(work / "text.jsonl", frozen=frozen, steps=step, loss=round(loss.item(), 3), **shares)
            save()
    save()


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--frozen", action="store_true", help="see what the encoder of train.pt holds already")
    args = parser.parse_args()
    train(args.work, args.minutes, args.batch, args.lr, frozen=args.frozen)


if __name__ == "__main__":
    main()
