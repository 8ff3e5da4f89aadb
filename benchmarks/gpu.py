"""What one NVIDIA card does, without a network and in less than ten minutes: `python -m benchmarks.gpu --out gpu.json`.

Each part is written to the file when it is done; the same command again goes on behind the last one. Printed is a table
for docs/performance.md. `python -m benchmarks.mac` does the same on a Mac.

Steps and memory are those of the real sizes of Stable Diffusion 1.5 and XL with random weights, in bfloat16; the rest
is pocket's. Times of a step are those of one sample.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.speed.shapes import SHAPES, latents, make_model, make_unet
from benchmarks.speed.steps import Setup, losing, opened, ready, trained
from conestool import Model, apply_cones, find, render
from conestool._atomic import write_atomic
from conestool.apply import write_denoiser
from conestool.concept import Cone
from conestool.errors import first_line
from conestool.images.photos import read_photos
from conestool.models.devices import compute_deterministically
from conestool.models.kv_weights import kv_weights
from conestool.models.loading import denoiser_files
from conestool.models.memory import peak_memory, reclaim
from conestool.search.batches import LatentImages, LossTerm
from conestool.search.config import SearchConfig
from conestool.search.context import SearchContext
from conestool.search.events import Event, MemoryChoice
from conestool.search.memory import search_mode, stepping
from conestool.search.methods import make_method
from conestool.search.objective import Objective

__all__ = ["Bench", "main", "run"]

PHOTOS = Path(__file__).parents[1] / "examples" / "rex"
BATCH = 24
CAPS = (12, 24)


@dataclass(frozen=True)
class Bench:
    """Where and on what it is measured."""

    device: str
    shapes: tuple[str, ...] = ("sd15", "sdxl")
    base: str = "pocket"
    steps: int = 20

    @property
    def place(self) -> torch.device:
        """The device."""
        return torch.device(self.device)

    def model(self, **options: Any) -> Model:
        """The small base model."""
        return Model.from_pretrained(self.base, **{"device": self.device, **options})

    def search(self, model: Model, steps: int) -> Cone:
        """A search for the example photos."""
        config = SearchConfig(method=f"mask,steps={steps}", captions="none", other_class_weight=0.0, num_class_images=4)
        return find(model, read_photos([PHOTOS])[0], "dog", config=config, callback=lambda event: None)

    @contextmanager
    def searching(self, name: str, unet: Any = None) -> Iterator[tuple[Any, dict[str, Any]]]:
        """A search's method on a denoiser of a real size, and what was chosen for its memory.

        Without a `unet` it has random weights.
        """
        shape, chosen = SHAPES[name], dict[str, Any]()

        def note(event: Event) -> None:
            if isinstance(event, MemoryChoice):
                chosen.update(event.record)

        unet = unet or make_unet(shape, "cpu", torch.bfloat16).to(self.device)
        model, side = make_model(unet, shape), shape.config["sample_size"]
        model.pipe.components = {"unet": unet}
        told = shape.conditioning(3, self.device, torch.bfloat16)
        context = SearchContext(model=model, callback=note)
        with search_mode(model, context.resources) as params:
            term = LossTerm(
                name="instance", images=LatentImages(latents(4, side, self.device)), conditioning=told, size=BATCH
            )
            asked = Objective(model, params, [term])
            with stepping(context, [asked], lambda: make_method("mask", asked)) as method:
                yield method, chosen


def timed(bench: Bench, work: Callable[[], object]) -> dict[str, float]:
    """Seconds and the most bytes of `work`, after it was done once."""
    work()
    wait = getattr(torch, bench.place.type).synchronize
    wait()
    peak_memory(bench.place, reset=True)
    begun = time.perf_counter()
    work()
    wait()
    return {"seconds": time.perf_counter() - begun, "peak": peak_memory(bench.place) or 0}


def step(name: str, bench: Bench) -> dict[str, Any]:
    """A step of `find`, of peft's LoRA and of AdamW on the K/V weights alone, with as many samples at once."""
    with bench.searching(name) as (method, chosen):
        count = iter(range(60))
        found = {"find": timed(bench, lambda: method.step(next(count))), "chosen": dict(chosen)}
    found["find"]["seconds"] /= BATCH
    reclaim(bench.place)
    shape, samples = SHAPES[name], chosen["samples"]
    setup = Setup(shape, shape.config["sample_size"], samples, bench.device, torch.bfloat16)
    unet = make_unet(shape, "cpu", torch.bfloat16).to(bench.device)
    with opened(setup, "lora", unet) as work:
        found["lora"] = timed(bench, work)
    reclaim(bench.place)
    found["kv"] = timed(bench, trained(losing(setup, ready("bare", unet)), list(kv_weights(unet).values())))
    for kind in ("lora", "kv"):
        found[kind]["seconds"] /= samples
    return found


def capped(name: str, gigabytes: int, bench: Bench) -> dict[str, Any]:
    """A step on a card that may use so much: what is chosen, and what it takes."""
    total = torch.cuda.mem_get_info(bench.place)[1]
    if total < gigabytes << 30:
        return {"skipped": f"the card has {total / (1 << 30):.0f} GB"}
    torch.cuda.set_per_process_memory_fraction((gigabytes << 30) / total, bench.place)
    try:
        with bench.searching(name) as (method, chosen):
            return {"chosen": dict(chosen), **timed(bench, lambda: method.step(0))}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.place)


def drawing(bench: Bench) -> dict[str, Any]:
    """Pictures with a concept beside those without, and whether the weights come back bit for bit."""
    model = bench.model()
    cone = bench.search(model, 2)
    before = {name: weight.detach().clone() for name, weight in kv_weights(model.denoiser).items()}
    bare = timed(bench, lambda: render(model, "a dog", seeds=range(4)))
    found = timed(bench, lambda: render(model, "a dog", cone, seeds=range(4)))
    with apply_cones(model, cone):
        pass
    same = all(torch.equal(weight, before[name]) for name, weight in kv_weights(model.denoiser).items())
    return {"bare": bare["seconds"], "concept": found["seconds"], "undone exactly": same}


def exports(bench: Bench) -> dict[str, Any]:
    """Whether a denoiser that was loaded in 16 bits is written as it is stored, but for the concept."""
    model = bench.model(dtype="bfloat16")
    cone, stored = bench.search(model, 1), load_file(denoiser_files(model.path or Path())[0])
    with tempfile.TemporaryDirectory() as folder:
        written = load_file(write_denoiser(model, cone, Path(folder) / "unet.safetensors"))
    changed = {name for name, value in stored.items() if not torch.equal(value, written[name])}
    return {"exact": changed <= set(cone.concepts[0].indices)}


def repeated(bench: Bench) -> dict[str, Any]:
    """Whether two searches find the same, and whether they do with `--deterministic`."""
    plain = len({bench.search(bench.model(), 3).id for _ in range(2)}) == 1
    with compute_deterministically():
        return {"plain": plain, "deterministic": len({bench.search(bench.model(), 3).id for _ in range(2)}) == 1}


def against_cpu(bench: Bench) -> dict[str, Any]:
    """The same search on the device and on the CPU: seconds, and the share of neurons that both found."""
    found, took = {}, {}
    for device in (bench.device, "cpu"):
        begun = time.perf_counter()
        cone = bench.search(bench.model(device=device, dtype="float32"), bench.steps)
        took[device] = time.perf_counter() - begun
        found[device] = {(n, i) for n, some in cone.concepts[0].indices.items() for i in some.tolist()}
    one, two = found.values()
    return {"seconds": took, "in common": len(one & two) / max(1, len(one | two))}


def cells(bench: Bench) -> dict[str, Callable[[Bench], dict[str, Any]]]:
    """All parts by name, in order."""
    named: dict[str, Callable[[Bench], dict[str, Any]]] = {f"step {name}": partial(step, name) for name in bench.shapes}
    if bench.place.type == "cuda":
        named |= {f"{name} in {cap} GB": partial(capped, name, cap) for name in bench.shapes for cap in CAPS}
    return named | {"render": drawing, "export": exports, "repeat": repeated, "against the CPU": against_cpu}


def run(bench: Bench, out: Path) -> dict[str, Any]:
    """Measure what the file lacks, and keep it there; a part that fails says why."""
    results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for name, work in cells(bench).items():
        if name not in results or "error" in results[name]:
            begun = time.perf_counter()
            try:
                results[name] = work(bench)
            except Exception as error:
                results[name] = {"error": f"{type(error).__name__}: {first_line(error)}"}
            reclaim(bench.place)
            results[name]["took"] = round(time.perf_counter() - begun, 1)
            write_atomic(out, json.dumps(results, indent=2).encode(), overwrite=True)
    return results


def table(results: dict[str, Any]) -> str:
    """What was measured, for the documentation."""
    rows = ["| what | measured |", "|---|---|"]
    return "\n".join([*rows, *(f"| {name} | {json.dumps(value)} |" for name, value in results.items())])


def main(device: str = "cuda", shapes: tuple[str, ...] = ("sd15", "sdxl")) -> None:
    """Measure on the command line's behalf."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(f"{device}.json"))
    args = parser.parse_args()
    print(table(run(Bench(device, shapes), args.out)))


if __name__ == "__main__":
    main()
