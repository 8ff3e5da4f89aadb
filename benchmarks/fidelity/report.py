"""Make docs/experiments/results.md of what is there: `python -m benchmarks.fidelity.report --out build/fidelity`."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.fidelity.plan import CEILINGS
from benchmarks.fidelity.store import CELL_FOLDER, Store
from benchmarks.fidelity.subjects import DEVELOPMENT, TEST
from benchmarks.fidelity.tables import Measure, Records, average, control, loss, mean_of, percent, plain, score, table
from conestool._atomic import write_atomic
from conestool.rendering import grid

ROOT = Path(__file__).parents[2]
HEAD = """\
# Results

Written by `python -m benchmarks.fidelity.report --out F` from what `python -m benchmarks.fidelity --out F` left there;
do not edit. [Fidelity, goals and ablations](ablations.md) sums it up, and says which pocket the base model is.

Losses are changes in per cent of the untouched model's, on fixed noise: of **held-out** photos that the search did not
see, of the same **without the identifier**, and of unseen pictures of the **class** and of **other nouns**, which the
untouched model drew. **Share** is the part of the float fine-tune's held-out gain on the same subject
and seed; the fine-tune has the default settings, so that of a search with others compares unlike things.
**Random** and **largest** are the held-out changes with as many random, or the largest, weights of each tensor zeroed.
**Image** and **text** are the alignments of pictures as `cones eval` measures them. Values are means over subjects,
each the mean of its seeds; ± is the standard deviation between subjects.
"""
CELLS = ("held-out", "share", "no identifier", "class", "other nouns", "random", "largest")


def best_rates(store: Store) -> dict[str, float]:
    """By ceiling, the rate with the lowest mean held-out loss on the development half; SystemExit if none ran there.

    Means are over the subjects and seeds that all rates of a ceiling have, as long as there are any.
    """
    rates = developed(store.records())
    if not rates:
        raise SystemExit("no ceiling ran on a development subject: add one of " + ", ".join(DEVELOPMENT))
    return {kind: min(by_rate, key=partial(held_out, by_rate)) for kind, by_rate in rates.items()}


def developed(records: Iterable[dict[str, Any]]) -> dict[str, Mapping[float, Records]]:
    """By ceiling and rate, what rates are compared on."""
    rates: dict[str, dict[float, Records]] = {}
    for record in records:
        if record["kind"] in CEILINGS and record["half"] == "development":
            rates.setdefault(record["kind"], {}).setdefault(record["rate"], []).append(record)
    return {kind: shared(by_rate) for kind, by_rate in rates.items()}


def shared(by_rate: Mapping[float, Records]) -> Mapping[float, Records]:
    """Of every rate the records of those subjects and seeds that all rates have; all, where there is no such."""
    common = set.intersection(*({(r["subject"], r["seed"]) for r in records} for records in by_rate.values()))
    kept = {rate: [r for r in records if (r["subject"], r["seed"]) in common] for rate, records in by_rate.items()}
    return kept if common else by_rate


def held_out(by_rate: Mapping[float, Records], rate: float) -> float:
    """The mean held-out loss of one rate."""
    return average(by_rate[rate], loss("held_out")) or 0.0


def write_page(out: Path, page: Path) -> Path:
    """Write the page of the newest base model in `out`, with its pictures beside it; returns its path."""
    folders = sorted((out / CELL_FOLDER).glob("*/"), key=lambda folder: folder.stat().st_mtime)
    if not folders:
        raise SystemExit(f"{out} holds no results: run python -m benchmarks.fidelity first")
    study = Study(Store(folders[-1]))
    parts = [HEAD, study.setting(), study.summary("test"), study.summary("development"), study.over_seeds()]
    parts += [study.by_subject(), study.controls(), study.matrices(), study.ceilings(), study.pictures(page)]
    text = "\n".join(part for part in parts if part)
    return write_atomic(page, text.encode(), overwrite=True)


class Study:
    """All records of one base model."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.records = list(store.records())
        self.searches = [r for r in self.records if r["kind"] == "search"]
        self.rates = best_rates(store) if any(r["kind"] in ("fine-tune", "lora") for r in self.records) else {}
        tuned = [r for r in self.records if r["kind"] == "fine-tune" and r["rate"] == self.rates.get("fine-tune")]
        self.gains = {(r["subject"], r["seed"]): r["losses"]["held_out"] for r in tuned}

    @property
    def measures(self) -> list[Measure]:
        """The measures of pictures that any record has."""
        scores = [record["score"] for record in self.records if "score" in record]
        return sorted({(kind, name) for found in scores for kind in ("image", "text") for name in found[kind]})

    def share(self, record: dict[str, Any]) -> float | None:
        """The part of the fine-tune's held-out gain."""
        whole = self.gains.get((record["subject"], record["seed"]))
        return record["losses"]["held_out"] / whole if whole else None

    def setting(self) -> str:
        """What was run."""
        seeds = sorted({str(r["seed"]) for r in self.searches})
        steps = sorted({str(r["steps"]) for r in self.records if "steps" in r})
        subjects = {half: sorted({r["subject"] for r in self.searches if r["half"] == half}) for half in HALVES}
        return (
            f"Base model {self.store.folder.name} (the first digits of its f32 digest), seeds {', '.join(seeds)}, "
            f"{', '.join(steps)} steps. Development half: {', '.join(subjects['development']) or 'none'} (of "
            f"{', '.join(DEVELOPMENT)}); test half: {', '.join(subjects['test']) or 'none'} (of {', '.join(TEST)}). "
            "Rates of the ceilings were chosen on the development half.\n"
        )

    def groups(self, half: str) -> dict[tuple[str, str], Records]:
        """Searches of one half by variant and density."""
        found: dict[tuple[str, str], Records] = {}
        for record in self.searches:
            if record["half"] == half:
                found.setdefault((record["variant"], record["density"]), []).append(record)
        return dict(sorted(found.items(), key=lambda item: (item[0][0], item[0][1] != "auto", item[0][1])))

    def summary(self, half: str) -> str:
        """Every method and density, and the ceilings, on one half."""
        rows = [[f"`{v}`", self.density(d, g), *self.cells(g)] for (v, d), g in self.groups(half).items()]
        for kind, rate in self.rates.items():
            group = [r for r in self.records if r["kind"] == kind and r["half"] == half and r["rate"] == rate]
            if group:
                rows.append([f"{kind}, {rate:g}", "floats", *self.cells(group)])
        bare = [r for r in self.records if r["kind"] == "bare" and r["half"] == half]
        if bare:
            seen = [plain(mean_of(bare, score(measure))) for measure in self.measures]
            real = [plain(mean_of(bare, score(measure, "photos"))) for measure in self.measures]
            blank = [""] * (len(CELLS) + 1)
            rows += [["base model", *blank, *seen], ["the photos themselves", *blank, *real]]
        if not rows:
            return ""
        return f"## {half.capitalize()} half\n\n" + table(
            ["search", "zeroed", *CELLS, *map(title, self.measures)], rows
        )

    def density(self, asked: str, group: Records) -> str:
        """How much was zeroed, in per cent of the K/V weights."""
        share = average(group, lambda record: record["share"])
        return f"{100 * (share or 0):.2f} %" + (" (auto)" if asked == "auto" else "")

    def cells(self, group: Records) -> list[str]:
        """The columns of one row."""
        controls = [mean_of(group, control(name)) for name in ("random", "largest")]
        share = mean_of(group, self.share)
        return [
            percent(mean_of(group, loss("held_out")), spread=len({record["subject"] for record in group}) > 1),
            "" if share is None else f"{100 * share[0]:.0f} %",
            *(percent(mean_of(group, loss(name))) for name in ("no_identifier", "class", "unrelated")),
            *(percent(found) for found in controls),
            *(plain(mean_of(group, score(measure))) for measure in self.measures),
        ]

    def chosen(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every search at its own density and every fine-tune at the chosen rate, with its name."""
        for record in self.records:
            if record["kind"] == "search" and record["density"] == "auto":
                yield f"`{record['variant']}`", record
            elif record["kind"] == "fine-tune" and record["rate"] == self.rates["fine-tune"]:
                yield "fine-tune (floats)", record

    def over_seeds(self) -> str:
        """The same searches and fine-tunes by subject, each the mean of its seeds; then the mean of all subjects."""
        groups: dict[str, dict[str, Records]] = {}
        for named, record in self.chosen():
            groups.setdefault(named, {}).setdefault(record["subject"], []).append(record)
        rows = []
        for named, subjects in sorted(groups.items()):
            found = subjects | {f"mean of {len(subjects)}": [r for group in subjects.values() for r in group]}
            for subject, group in found.items():
                shut = "" if group[0]["kind"] != "search" else self.density("", group)
                rows.append([named, subject, str(len({r["seed"] for r in group})), shut, *self.cells(group)])
        head = ["search", "subject", "seeds", "zeroed", *CELLS, *map(title, self.measures)]
        return "## Every subject, mean of its seeds\n\n" + table(head, rows) if rows else ""

    def by_subject(self) -> str:
        """Every search and fine-tune of the first seed at its own density, all its measures, and its size and time."""
        rows = [
            [record["subject"], named, *self.cells([record]), ratio(record), *costs(record)]
            for named, record in self.chosen()
            if record["seed"] == 0
        ]
        head = ["subject", "search", *CELLS, *map(title, self.measures), "with : without identifier"]
        head += ["neurons", "file", "seconds"]
        return "## Every subject, seed 0\n\n" + table(head, sorted(rows)) if rows else ""

    def controls(self) -> str:
        """What pictures show with and without the identifier, and with random indices."""
        rows = []
        for (variant, density), _ in (self.groups("test") | self.groups("development")).items():
            group = [r for r in self.searches if r["variant"] == variant and r["density"] == density and "score" in r]
            if group:
                parts = ("score", "score_no_identifier", "score_random")
                values = [plain(mean_of(group, score(measure, part))) for measure in self.measures for part in parts]
                rows.append([f"`{variant}`", self.density(density, group), *values])
        head = ["search", "zeroed", *(f"{title(m)}: {name}" for m in self.measures for name in PICTURED)]
        return "## Pictures, both halves\n\n" + table(head, rows) if rows else ""

    def matrices(self) -> str:
        """The cross-subject matrices: who wins for every seed, and the table of the first."""
        parts = []
        found = [record for record in self.records if record["kind"] == "matrix"]
        for record in sorted(found, key=lambda r: (r["variant"], r["density"], r["seed"])):
            names, losses = record["subjects"], record["losses"]
            margins = [min(losses[o][n] for o in names if o != n) - losses[n][n] for n in names]
            wins = sum(margin > 0 for margin in margins)
            lead = f"`{record['variant']}`, {record['density']}, seed {record['seed']}: the own set wins for {wins} of"
            mean, least = (f"{100 * value:+.1f} points" for value in (sum(margins) / len(margins), min(margins)))
            parts.append(
                f"{lead} {len(names)} subjects, against the best other by {mean} on average, {least} at least.\n"
            )
            if record["seed"] == 0:
                rows = [[name, *(f"{100 * losses[name][column]:+.1f}" for column in names)] for name in names]
                parts.append(table(["set of", *names], rows))
        lead = "Change of the held-out loss of each column's photos, under its own prompt, by the set of each row.\n"
        return "\n".join(["## Sets of other subjects\n", lead, *parts]) if parts else ""

    def ceilings(self) -> str:
        """All rates on the development half, on the subjects and seeds that all rates of a ceiling have."""
        rows = [
            [
                kind,
                f"{rate:g}",
                *(percent(mean_of(group, loss(name))) for name in ("held_out", "class", "unrelated")),
                plain(mean_of(group, lambda r: r["seconds"]), ".0f"),
                "chosen" if self.rates[kind] == rate else "",
            ]
            for kind, by_rate in sorted(developed(self.records).items())
            for rate, group in sorted(by_rate.items())
        ]
        head = ["floats", "rate", "held-out", "class", "other nouns", "seconds", ""]
        told = "On the subjects and seeds that all rates of a ceiling have.\n\n"
        return "## Float ceilings, development half\n\n" + told + table(head, rows) if rows else ""

    def pictures(self, page: Path) -> str:
        """A sheet per subject beside the page: base model, every search at its own density, ceilings; seed 0."""
        lines = []
        for record in self.records:
            if record["kind"] == "bare":
                rows = self.strips(record["subject"])
                file = page.with_suffix("") / f"{record['subject']}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                data = io.BytesIO()
                grid([images for _, images in rows], [label for label, _ in rows]).save(data, "PNG")
                write_atomic(file, data.getvalue(), overwrite=True)
                lines.append(f"![{record['subject']}]({file.parent.name}/{file.name})\n")
        lead = "Pictures as they come, not chosen: prompts from left to right, each with seeds 0, 1 and so on.\n"
        return "\n".join(["## Contact sheets\n", lead, *lines]) if lines else ""

    def strips(self, subject: str) -> list[tuple[str, Sequence[Any]]]:
        """Labelled rows of pictures of one subject."""
        found = [("base model", self.store.load_pictures(f"{subject}/bare/bare"))]
        for record in self.records:
            own = record.get("subject") == subject and record.get("seed") == 0
            if own and record["kind"] == "search" and record["density"] == "auto":
                found.append((record["variant"], self.store.load_pictures(record["key"])))
            elif own and record["kind"] in self.rates and record["rate"] == self.rates[record["kind"]]:
                found.append((f"{record['kind']} (floats)", self.store.load_pictures(record["key"])))
        return [(label, images) for label, images in found if images]


HALVES = ("development", "test")
PICTURED = ("with", "without identifier", "random indices")


def title(measure: Measure) -> str:
    """A measure as the head of a column."""
    return f"{measure[0]} ({measure[1]})"


def costs(record: dict[str, Any]) -> list[str]:
    """Neurons, the size of their file, and the seconds of the search."""
    seconds = f"{record['seconds']:.0f}"
    if record["kind"] != "search":
        return ["", "", seconds]
    return [f"{record['neurons']:,} ({100 * record['share']:.1f} %)", f"{record['bytes'] / 1000:.1f} kB", seconds]


def ratio(record: dict[str, Any]) -> str:
    """The gain with the identifier over that without it; a dash where there is none without it."""
    with_it, without = (-record["losses"][name] for name in ("held_out", "no_identifier"))
    return f"{with_it / without:.1f}" if without > 0 else "-"


def main() -> None:
    """Write docs/experiments/results.md and the sheets in docs/experiments/results/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder of python -m benchmarks.fidelity")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "experiments" / "results.md")
    args = parser.parse_args()
    print(write_page(args.out, args.page))


if __name__ == "__main__":
    main()
