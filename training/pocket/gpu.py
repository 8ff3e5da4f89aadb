"""Ten minutes of a bare GPU: ``python -m training.pocket.gpu --work F --out DIR --minutes 9``.

Goes on from the pieces in ``F/pieces`` (`pieces`), draws the sprites on the machine's cores, lets worker processes
describe scenes (`descriptions`), and composes, encodes and trains on the GPU; a step is one CUDA graph. Every few
minutes a whole set of pieces replaces the one in ``--out``, from which the next run goes on, here or on a CPU.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from training.pocket import autoencoder, descriptions, pieces
from training.pocket.common import Team, log_line, mixed_precision
from training.pocket.composer import Composer
from training.pocket.sprites import SpriteBank, rasterise_all
from training.pocket.trainer import SEPARATE_EVERY, SEPARATION, TIMESTEPS, Trainer, rate_at

#: Held-out scenes are drawn with this seed on the CPU, and never trained on.
HELD_OUT, HELD_OUT_SEED = 256, 2**31
Update = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class CapturedUpdate:
    """A step recorded once as a CUDA graph, then replayed on inputs that are copied in: no Python runs inside."""

    def __init__(self, update: Update, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        self.inputs = tuple(each.clone() for each in inputs)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries choose their kernels and optimizers make their states first
            for _ in range(3):
                update(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        # Not "global": the thread that pins the batches of the workers asks for memory meanwhile.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.loss = update(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Take a step; the loss is overwritten by the next one."""
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.loss


class Run:
    """One run: what it goes on from, its source of scenes, and its step."""

    def __init__(self, args: argparse.Namespace, sprites: Path) -> None:
        self.args, self.device = args, torch.device(args.device)
        packed = pieces.read(args.work / "pieces")
        self.encoder = pieces.encoder_of(packed)
        self.scale = float(pieces.facts_of(packed)["scale"])
        state = pieces.unpack(packed)
        seed = args.seed + (state["seen"] if state else 0)
        on_gpu = self.device.type == "cuda"
        self.loader = descriptions.load(args.batch, seed, args.workers, pin=on_gpu)  # forks before the GPU is used
        self.waiting = next(self.loader)
        random.seed(seed)
        self.trainer = Trainer(args, Team(), self.scale, state)
        torch.manual_seed(seed)
        self.first = self.trainer.steps
        self.vae = autoencoder.build()
        self.vae.load_state_dict(self.encoder, strict=False)
        self.vae.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.composer = Composer(SpriteBank(sprites, self.device))
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.held_out = self.inputs(next(descriptions.load(HELD_OUT, HELD_OUT_SEED, 0, pin=False)), held_out=True)
        self.update: Update = self._capture() if on_gpu and not args.eager else self.whole_update

    @torch.no_grad()
    def inputs(self, batch: descriptions.Description, *, held_out: bool = False) -> tuple[Tensor, Tensor]:
        """Return the latents and token ids of described scenes."""
        generator = torch.Generator().manual_seed(HELD_OUT_SEED) if held_out else self.generator
        batch = batch.to(self.device)
        images = self.composer.compose(batch, generator)
        with mixed_precision(self.device):
            return autoencoder.encode(self.vae, images).float(), batch.tokens.long()

    def whole_update(self, latents: Tensor, tokens: Tensor, prompts: Tensor, place: Tensor) -> Tensor:
        """Change the weights. The separation loss is part of every step, with as much weight in all."""
        return self.trainer.update(latents, tokens, None, (prompts, place), SEPARATION / SEPARATE_EVERY)

    def _capture(self) -> Update:
        if self.args.compile:
            for part in ("unet", "text"):
                self.trainer.computing(part).compile(dynamic=False)
        self.trainer.set_rate(0.0)
        prompts, place = (each.to(self.device) for each in self.trainer.separation_prompts())
        return CapturedUpdate(self.whole_update, (*self.inputs(self.waiting), prompts, place))

    def step(self, rate: float) -> tuple[Tensor, float]:
        """Return the loss of one step, still on the device, and the seconds of waiting for the next scenes."""
        self.trainer.set_rate(rate)
        prompts = self.trainer.separation_prompts()
        if self.device.type == "cuda":
            prompts = (prompts[0].pin_memory(), prompts[1].pin_memory())
        latents, tokens = self.inputs(self.waiting)
        loss = self.update(latents, tokens, *(each.to(self.device, non_blocking=True) for each in prompts))
        self.trainer.count(len(latents))
        begun = time.monotonic()
        self.waiting = next(self.loader)
        return loss, time.monotonic() - begun

    def save(self) -> None:
        """Replace the pieces in ``--out``."""
        pieces.write(self.args.out, pieces.pack(self.trainer.state(), self.encoder, self.scale), self.args.work)

    def tell(self, images: int, seconds: float, loss: Tensor, waited: float) -> None:
        """Append a line to the log beside ``--out``."""
        log_line(
            self.args.out.with_suffix(".jsonl"),
            seen=self.trainer.seen,
            steps=self.trainer.steps,
            loss=round(loss.item(), 4),
            **self.trainer.held_out_loss(*self.held_out),
            apart=round(self.trainer.apart.item(), 4),
            images_per_second=round(images / seconds, 1),
            waited_for_scenes=round(waited / seconds, 3),
            batch=self.args.batch,
        )


def train(run: Run, began: float) -> None:
    """Train until ``--minutes`` after the beginning, or for ``--steps``; save now and then, and at the end."""
    args = run.args
    run.save()  # a place that cannot be written to shows at once
    told = saved = time.monotonic()
    total, waited, steps = torch.zeros((), device=run.device), 0.0, 0
    while (minutes := (time.monotonic() - began) / 60) < args.minutes and run.trainer.steps - run.first < args.steps:
        loss, wait = run.step(rate_at(args, run.trainer.steps - run.first, minutes))
        total, waited, steps = total + loss, waited + wait, steps + 1
        if time.monotonic() - told > args.tell:
            mean = (total / steps).cpu()  # waits for all that was asked of the device
            run.tell(steps * args.batch, time.monotonic() - told, mean, waited)
            told, waited, steps = time.monotonic(), 0.0, 0
            total.zero_()
        if time.monotonic() - saved > 60 * args.save_minutes:
            run.save()
            saved = time.monotonic()
    run.save()
    if steps:
        run.tell(steps * args.batch, time.monotonic() - told, (total / steps).cpu(), waited)


def without_graph(error: Exception, minutes: float) -> None:
    """Begin again in a clean process that takes its steps one operation at a time."""
    print(f"no CUDA graph, going on without: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "training.pocket.gpu", *sys.argv[1:], "--eager", "--minutes", str(minutes)]
    os.execv(sys.executable, command)  # noqa: S606 (this program again)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="with pieces/; sprites are kept there")
    parser.add_argument("--out", type=Path, required=True, help="folder of pieces, replaced; the log lies beside it")
    parser.add_argument("--minutes", type=float, default=9, help="from the start of the command")
    parser.add_argument("--steps", type=int, default=10**9, help="at most")
    parser.add_argument("--decay", type=float, default=0.0, help="minutes of falling learning rate at the end")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 2), help="describe scenes")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="adamw")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--timesteps", choices=TIMESTEPS, default=TIMESTEPS[0], help="even: for the end, for detail")
    parser.set_defaults(frozen_text=False)
    parser.add_argument("--warm-up", type=int, default=200)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--save-minutes", type=float, default=2)
    parser.add_argument("--tell", type=float, default=15, help="seconds between two lines of the log")
    parser.add_argument("--compile", action="store_true", help="fuse operations before the graph is recorded: minutes")
    parser.add_argument("--eager", action="store_true", help="no CUDA graph")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(from_average=False, new_average=False, local_steps=1)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Draw the sprites and train."""
    began, args = time.monotonic(), parse(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU here: --device cpu runs the same steps, slowly")
    sprites = args.work / "sprites.npy"
    if not sprites.exists():
        rasterise_all(sprites, max(1, args.workers))
    print(f"sprites after {time.monotonic() - began:.0f} s", flush=True)
    try:
        run = Run(args, sprites)
    except (RuntimeError, NotImplementedError) as error:
        if args.device != "cuda" or args.eager:
            raise
        without_graph(error, args.minutes - (time.monotonic() - began) / 60)
        return
    train(run, began)


if __name__ == "__main__":
    main()
