"""From the files of a run to real.json, real.md and sheet.png."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.fidelity.tables import Get, Records, average, mean_of, percent, plain, score, table
from benchmarks.real.bench import BASE, CONCEPT, NO_IDENTIFIER, PHOTOS, RANDOM, Bench, Cell, opened
from benchmarks.real.dataset import CUSTOM, DREAMBOOTH, DataSet
from benchmarks.real.plan import evenly
from conestool._atomic import write_atomic
from conestool.evaluation.prompts import Prompt
from conestool.images.photos import square
from conestool.models.sampling import versions
from conestool.rendering import grid

__all__ = ["write_report"]

MEASURES = {"DINO": ("image", "DINO"), "CLIP-I": ("image", "CLIP"), "CLIP-T": ("text", "CLIP")}
CLIP_SCORE = 2.5
"""CustomConcept101's evaluate.py has CLIPScore as its text alignment, which is the cosine times this."""
PUBLISHED: dict[str, dict[str, tuple[float, float, float]]] = {
    DREAMBOOTH: {
        "real images": (0.774, 0.885, float("nan")),
        "DreamBooth, Imagen": (0.696, 0.812, 0.306),
        "DreamBooth, Stable Diffusion": (0.668, 0.803, 0.305),
        "Textual Inversion, Stable Diffusion": (0.569, 0.780, 0.255),
    },
    CUSTOM: {
        "Textual Inversion": (0.513, 0.753, 0.612 / CLIP_SCORE),
        "DreamBooth": (0.554, 0.752, 0.751 / CLIP_SCORE),
        "Custom Diffusion": (0.534, 0.746, 0.758 / CLIP_SCORE),
    },
}
"""DINO, CLIP-I and CLIP-T: table 1 of Ruiz et al. 2023, and the table of CustomConcept101 (one concept, 50 DDPM steps).

Theirs are by DINO ViT-S/16; CustomConcept101's CLIP is ViT-B/32, DreamBooth does not say which.
"""
HEAD = """\
Written by `python -m benchmarks.real`. **DINO** and **CLIP-I** are the mean cosine of pictures and photos, **CLIP-T**
that of picture and prompt, with the class noun alone in the prompt that CLIP reads. **Class kept** is the mean cosine,
by DINO, of pictures of the bare class to the base model's with the same seeds (1: nothing moved), and **class like
subject** that of these pictures to the subject's photos (DreamBooth's PRES; no higher than the base model's if the
class kept to itself). Values are means over subjects, each the mean of its seeds; ± is the standard deviation between
subjects. Search and LoRAs see the same photos, class images, batches, loss and number of steps.
"""


class Results:
    """The records of one run."""

    def __init__(self, bench: Bench, cells: Sequence[Cell]) -> None:
        self.bench, self.cells = bench, cells
        wanted = {cell.key(method) for cell in cells for method in (PHOTOS, BASE, *cell.methods)}
        self.records = [r for r in bench.store.records() if r["key"].rpartition("/")[0] in wanted]

    def of(self, method: str, kind: str = "scores") -> Records:
        """The records of one method: its `scores`, or what was `found`."""
        return [record for record in self.records if record["method"] == method and record["kind"] == kind]

    @property
    def methods(self) -> list[str]:
        """Those that were scored, in the order of the table."""
        first, *rest = self.cells[0].methods
        loras = [method for method in rest if method not in (NO_IDENTIFIER, RANDOM)]
        return [m for m in (PHOTOS, BASE, first, NO_IDENTIFIER, RANDOM, *loras) if self.of(m)]

    def row(self, method: str) -> dict[str, Any]:
        """All that is known of a method, by name; None for what was not measured."""
        scores, found = self.of(method), self.of(method, "found")
        values = {name: mean_of(scores, score(measure)) for name, measure in MEASURES.items()}
        return {
            "method": method,
            "subjects": len({record["subject"] for record in scores}),
            "pictures": sum(record["pictures"] for record in scores),
            **{name: value and {"mean": value[0], "sd": value[1]} for name, value in values.items()},
            "class kept": average(scores, of_class("same")),
            "class like subject": average(scores, of_class("subject")),
            "seconds": average(found, lambda record: record["seconds"]),
            "bytes": average(found, lambda record: record["bytes"]),
        }

    def table(self) -> str:
        """The table of all methods."""
        head = ["", *MEASURES, "class kept", "class like subject", "pictures", "seconds to find", "file"]
        rows = []
        for method in self.methods:
            row = self.row(method)
            cells = [f"{row[m]['mean']:.3f} ± {row[m]['sd']:.3f}" if row[m] else "" for m in MEASURES]
            cells += [number(row[name], ".3f") for name in ("class kept", "class like subject")]
            size = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.2f} MB"
            rows.append([method, *cells, f"{row['pictures']:,}", number(row["seconds"], ".0f"), size])
        return table(head, rows)

    def losses(self) -> str:
        """What the searches measured on photos that they held back."""
        found = [record for record in self.of(CONCEPT, "found") if record["losses"]]
        names = {
            "held-out photos": ("held_out_before", "held_out_after"),
            "random indices": ("held_out_before", "random_after"),
            "without the identifier": ("no_identifier_before", "no_identifier_after"),
            "class images": ("class_before", "class_after"),
        }
        changes = [percent(mean_of(found, change(*pair)), spread=True) for pair in names.values()]
        share = plain(mean_of(found, lambda record: 100 * record["share"]), ".2f")
        head = ["subjects", *names, "K/V weights zeroed, %"]
        return table(head, [[str(len({r["subject"] for r in found})), *changes, share]]) if found else ""

    def sheet(self, count: int, columns: int = 4, side: int = 256) -> bytes:
        """Photos, base model, concept and LoRAs of the first `count` subjects; prompts evenly spaced, not chosen."""
        strips: dict[str, list[Any]] = {}
        for cell in [cell for cell in self.cells if cell.seed == self.cells[0].seed][:count]:
            shown = evenly(self.bench.options.templates(cell.subject), columns)
            strips[f"{cell.subject.name}: photos"] = [photo.image for photo in cell.photos[:columns]]
            for method in [m for m in self.methods if m not in (PHOTOS, NO_IDENTIFIER, RANDOM)]:
                phrase = cell.subject.noun if method == BASE else cell.prompts.phrase
                texts = [str(Prompt(template, phrase)) for template in shown]
                paths = [self.bench.path(cell.folder(method), text, 0) for text in texts]
                if self.bench.options.pictures and all(path.exists() for path in paths):
                    label = f"{method}: {'; '.join(texts)}" if method == BASE else method
                    strips[f"{cell.subject.name}, {label}"] = opened(paths)
        data = io.BytesIO()
        grid([[square(image, side) for image in row] for row in strips.values()], list(strips)).save(data, "PNG")
        return data.getvalue()

    def took(self) -> Iterator[str]:
        """What the run took, by part: seconds and the most memory."""
        searches, loras = self.of(CONCEPT, "found"), [r for r in self.records if "rate" in r]
        drawn = [r for r in self.records if r["kind"] == "scores" and "seconds" in r]
        parts = {"searches": searches, "LoRAs": loras, "drawing": drawn, "scoring": [r["scoring"] for r in drawn]}
        for name, records in parts.items():
            if records:
                peak = max(record["peak"] or 0 for record in records) / 1e9
                seconds, cpu = (sum(record[key] for record in records) for key in ("seconds", "cpu"))
                yield f"{name}: {seconds:,.0f} s ({cpu:,.0f} s of the CPU), at most {peak:.1f} GB"


def of_class(name: str) -> Get:
    """One value of a record's bare class, by DINO."""
    return lambda record: record["class"].get(name, {}).get("DINO") if record.get("class") else None


def change(before: str, after: str) -> Callable[[dict[str, Any]], float | None]:
    """The change of one loss of a search, as a fraction."""

    def found(record: dict[str, Any]) -> float | None:
        losses = record["losses"]
        return losses[after] / losses[before] - 1 if losses.get(before) and losses.get(after) else None

    return found


def number(value: float | None, form: str) -> str:
    """A number, or nothing for None."""
    return "" if value is None else format(value, form)


def published(name: str) -> str:
    """The published numbers of a data set."""
    head = ["published", *MEASURES]
    rows = [[method, *("" if v != v else f"{v:.3f}" for v in values)] for method, values in PUBLISHED[name].items()]
    notes = {
        DREAMBOOTH: "Ruiz et al. 2023, table 1: 30 subjects, 25 prompts, four pictures of each; by DINO ViT-S/16.",
        CUSTOM: "CustomConcept101's page, one concept, 50 DDPM steps: by DINO ViT-S/16 and CLIP ViT-B/32. CLIP-T is "
        f"printed there as CLIPScore, {CLIP_SCORE} times the cosine that stands here.",
    }
    return f"{table(head, rows)}\n{notes[name]} With other encoders the columns cannot be compared.\n"


def write_report(
    bench: Bench, cells: Sequence[Cell], data: DataSet, settings: dict[str, Any], out: Path, sheet: int
) -> list[Path]:
    """Write the three files; returns their paths."""
    results = Results(bench, cells)
    machine = {"device": device_name(bench.model.device), "system": platform.platform(), **versions()}
    names = sorted({cell.subject.name for cell in cells})
    facts = f"{settings['model name']}, {bench.clip.name} {settings['clip']}, {bench.dino.name} {settings['dino']}"
    missing = sum(not bench.store.has(f"{c.key(m)}/scores") for c in cells for m in c.methods)
    parts = [
        f"# {len(names)} of {len(data.subjects)} subjects of {data.name}\n\n{HEAD}",
        f"{facts}. {settings['steps']} steps, {machine['device']}, {settings['dtype']}.",
        f"**{missing} parts are missing or failed.**" if missing else "",
        results.table(),
        published(data.name),
        "Losses of the searches, changes in per cent of the untouched model's:\n\n" + results.losses(),
        "\n".join(f"- {line}" for line in results.took()),
        "![photos, base model, concept, LoRAs](sheet.png)",
    ]
    record = {
        "data": data.name,
        "settings": settings,
        "machine": machine,
        "rows": [results.row(method) for method in results.methods],
        "published": {m: dict(zip(MEASURES, v, strict=True)) for m, v in PUBLISHED[data.name].items()},
        "took": list(results.took()),
        "records": results.records,
    }
    text = json.dumps(without_nan(record), indent=1).encode()
    files = {
        "real.json": text,
        "real.md": "\n\n".join(part.rstrip() for part in parts if part).encode() + b"\n",
        "sheet.png": results.sheet(sheet),
    }
    for name, content in files.items():
        write_atomic(out / name, content, overwrite=True)
    return [out / name for name in files]


def device_name(device: torch.device) -> str:
    """The device as its maker calls it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return platform.processor() or platform.machine() if device.type == "cpu" else device.type


def without_nan(value: Any) -> Any:
    """The same with None for NaN, which JSON lacks."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and value != value else value
