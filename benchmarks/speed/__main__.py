"""Run what is missing: `python -m benchmarks.speed --out build/speed`; see the package's docstring."""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.fidelity.store import Store
from benchmarks.speed import files
from benchmarks.speed.clock import seconds, take_turns
from benchmarks.speed.memory import DTYPES, kept_bytes, measure_apart
from benchmarks.speed.profile import profiled
from benchmarks.speed.render import Drawing, search
from benchmarks.speed.report import write_page
from benchmarks.speed.shapes import SHAPES
from benchmarks.speed.steps import KINDS, Setup, ceiling, flops, opened

PARTS = ("steps", "profile", "memory", "kept", "render", "files", "start", "find")
Job = tuple[str, Callable[[], dict[str, Any]]]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="results, kept and gone on with")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:-1])
    parser.add_argument("--bases", nargs="+", choices=SHAPES, default=["sd15", "sdxl-part"])
    parser.add_argument("--side", type=int, default=32, help="side of the latents (64 is SD 1.5's own, 128 SDXL's)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--counts", nargs="+", type=int, default=[25, 50, 100], help="concepts to merge")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps of a picture")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:n")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--compile", dest="mode", nargs="?", const="default", default="", help="torch.compile's mode")
    parser.add_argument("--graphs", dest="mode", action="store_const", const="reduce-overhead", help="CUDA graphs")
    return parser.parse_args(arguments)


def setup_of(args: argparse.Namespace, base: str) -> Setup:
    """What is measured of one base model."""
    return Setup(SHAPES[base], args.side, args.batch, args.device, DTYPES[args.dtype], args.mode)


def name_of(args: argparse.Namespace, base: str) -> str:
    """The folder of one base model's results, told apart by all that changes them."""
    tail = f"-{args.mode}" if args.mode else ""
    return f"{base}/{args.side}-{args.batch}-{args.device.replace(':', '')}-{args.dtype}{tail}"


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """All jobs in order: a key, and what measures."""
    for part in args.parts:
        yield from {"files": of_files, "start": of_files}.get(part, partial(of_models, part=part))(args)


def of_models(args: argparse.Namespace, part: str) -> Iterator[Job]:
    """The parts that need a model, base by base; a model lives until its last round."""
    make = {
        "steps": of_steps,
        "profile": of_profile,
        "memory": of_memory,
        "kept": of_kept,
        "render": of_render,
        "find": of_find,
    }[part]
    for base in args.bases:
        yield from make(args, base, f"{part}/{name_of(args, base)}")


def of_steps(args: argparse.Namespace, base: str, key: str) -> Iterator[Job]:
    """Rounds of one step of each kind, and of a matrix product; how many operations the bare step has."""
    setup, weights = setup_of(args, base), Once(setup_of(args, base).weights)
    yield f"{key}/flops", lambda: {"bare": flops(setup, weights())}
    for number in range(args.rounds):
        yield f"{key}/{number}", partial(one_round, setup, weights, args.kinds, number)


def one_round(setup: Setup, weights: Once, kinds: Sequence[str], number: int) -> dict[str, Any]:
    """Seconds of one step of each kind; on CUDA after some that are not counted."""
    unet = weights()
    turn = number % len(kinds)
    warm = 4 if setup.device.startswith("cuda") else 0
    found: dict[str, Any] = {}
    for kind in [*kinds[turn:], *kinds[:turn]]:
        with opened(setup, kind, unet) as step:
            for _ in range(warm):
                step()
            found[kind] = seconds(step, setup.device)
    product, operations = ceiling(setup, 8192 if warm else 1024)
    product()
    return found | {"matmul": operations / seconds(product, setup.device)}


def of_profile(args: argparse.Namespace, base: str, key: str) -> Iterator[Job]:
    """Where a step of the default method goes, and the loop without the denoiser's passes."""
    weights = Once(setup_of(args, base).weights)
    for kind in ("find mask", "loop mask"):

        def work(kind: str = kind) -> dict[str, Any]:
            return profiled(setup_of(args, base), kind, weights())

        yield f"{key}/{kind}", work


def of_memory(args: argparse.Namespace, base: str, key: str) -> Iterator[Job]:
    """Rounds of each kind, in a process of its own: how the system takes freed memory moves a peak by some per cent."""
    kinds = [kind for kind in args.kinds if not kind.startswith("loop")]
    for number in range(args.rounds):

        def work() -> dict[str, int]:
            return {kind: measure_apart(kind, setup_of(args, base), base)["peak"] for kind in kinds}

        yield f"{key}/{number}", work


def of_kept(args: argparse.Namespace, base: str, key: str) -> Iterator[Job]:
    """Activations at the model's own size, with nothing computed."""
    setup = replace(setup_of(args, base), side=SHAPES[base].config["sample_size"], device="cpu", mode="")
    for dtype in ("float32", "bfloat16"):
        for kind in ("bare", "lora", "full"):
            it = replace(setup, dtype=DTYPES[dtype])

            def work(kind: str = kind, it: Setup = it) -> dict[str, Any]:
                return {"bytes": kept_bytes(kind, it)}

            yield f"kept/{base}/{kind}-{dtype}", work


def of_render(args: argparse.Namespace, base: str, key: str) -> Iterator[Job]:
    """Rounds of a picture with concepts and without."""
    drawing = Once(lambda: Drawing(setup_of(args, base), args.steps))
    for number in range(args.rounds):

        def work(number: int = number) -> dict[str, float]:
            it = drawing()
            works = {"first": it.with_concepts} if number == 0 else {}
            return take_turns(works | {"concepts": it.with_concepts, "bare": it.bare}, number, args.device)

        yield f"{key}-{args.steps}/{number}", work


def of_find(args: argparse.Namespace, base: str, key: str) -> Iterator[Job]:
    """A whole search with the defaults; only a GPU does that at these sizes in reasonable time."""
    yield f"{key}/whole", lambda: {"seconds": seconds(lambda: search(setup_of(args, base)), args.device)}


def of_files(args: argparse.Namespace) -> Iterator[Job]:
    """Rounds of the commands that need no model, and of the start of all commands."""
    place = tempfile.TemporaryDirectory()
    folder = Path(place.name)
    parts: dict[str, Callable[[], dict[str, float]]] = {
        "functions": lambda: files.functions(folder),
        "commands": lambda: files.commands(folder, args.counts),
        "start": lambda: files.start(folder),
    }
    made = Once(lambda: files.make_files(folder, max(2, *args.counts)))
    for number in range(args.rounds):
        for part, work in parts.items():
            if ("start" in args.parts) if part == "start" else ("files" in args.parts):

                def timed(part: str = part, work: Callable[[], dict[str, float]] = work) -> dict[str, float]:
                    if part != "start":
                        made()
                    return work()

                yield f"{part}/{number}", timed
    place.cleanup()


class Once:
    """Calls `make` when it is first needed, and never again."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.made: list[Any] = []

    def __call__(self) -> Any:
        """What was made."""
        if not self.made:
            self.made.append(self.make())
        return self.made[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, saying what is done, then write the page beside the results."""
    args = parse(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = Store(args.out / "rounds")
    for key, work in jobs(args):
        if not store.has(key):
            store.save(key, work())
            print(key, flush=True)
    print(write_page(store, args.out / "speed.md"))


if __name__ == "__main__":
    main()
