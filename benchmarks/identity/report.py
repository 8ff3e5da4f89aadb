"""From records to identity.json and its tables."""

from __future__ import annotations

import io
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.fidelity.store import Store
from benchmarks.identity.cells import IN_REGION
from benchmarks.identity.measures import mean_and_error, row, variety
from benchmarks.identity.subjects import BACKGROUNDS, COMPANY, DEVELOPMENT, TEST, WEARING, Subject, subject_of
from benchmarks.identity.together import KINDS as IN_GROUPS
from benchmarks.identity.together import ORDER, PAIRS, TEST_PAIRS, TWINS
from conestool._atomic import write_atomic
from conestool.images.photos import square
from conestool.rendering.grid import grid
from training.pocket.labels import WORLD

Record = dict[str, Any]
#: The halves of the kept-out individuals, whose means the goals are about.
KEPT_OUT = (*DEVELOPMENT, *TEST)
MEASURES = ("kept", "by_attributes", "by_features", "obeyed")
#: Between these lines of docs/experiments/identity.md stand the tables.
BEGIN, END = "<!-- tables of benchmarks.identity -->", "<!-- end of the tables -->"
HEADINGS = ("attributes kept", "line-up, attributes", "line-up, features", "obedience")
#: On README's sheet: these groups, drawn in these ways, their subjects, and of the scenes of each the beach, the snow
#: and the street.
OVERVIEW: dict[tuple[str, ...], str] = dict.fromkeys((ORDER[:2], TWINS, ORDER), "regions")
SCENES = (0, 2, 6)
KINDS = ("concept", IN_REGION, "fine-tune", "lora", "no identifier", "other", "random", "bare", "described", "photos")
LABELS = {
    IN_REGION: "concept, `--regions`",
    "other": "another's set",
    "bare": "base model",
    "random": "random indices",
    "lora": "LoRA, rank 4",
    "described": "base model, described in words",
    "tuned": "after `cones tune`",
    "regions": "merged, `--regions`",
    "first alone": "first with its set, the other by its noun",
    "second alone": "second with its set, the other by its noun",
    "photos": "the photos, through the autoencoder",
}


def best_rates(store: Store, kind: str) -> tuple[float, float]:
    """Return the rates of a ceiling that do best on the development half: by attributes kept, and by held-out loss.

    SystemExit if none ran.
    """
    kept: dict[float, list[float]] = {}
    gain: dict[float, list[float]] = {}
    for record in store.records():
        if record["kind"].startswith(f"{kind} ") and record["half"] == "development":
            kept.setdefault(record["rate"], []).extend(record["kept"])
            gain.setdefault(record["rate"], []).append(-record["losses"]["held_out"])
    if not kept:
        raise SystemExit(f"no {kind} ran on a development subject: add one of {', '.join(DEVELOPMENT)}")
    best, lowest = (max(tried, key=lambda rate: mean_and_error(tried[rate])[0]) for tried in (kept, gain))
    return best, lowest


class Results:
    """All records of one base model."""

    def __init__(self, store: Store) -> None:
        self.records = list(store.records())
        ran = {kind for kind in ("fine-tune", "lora") if any(r["kind"].startswith(f"{kind} ") for r in self.records)}
        rates = {kind: best_rates(store, kind) for kind in ran}
        #: Names of kinds, as records have them; a ceiling's with the rate that keeps most attributes, or gains most.
        self.names = {kind: f"{kind} {best:g}" for kind, (best, _) in rates.items()}
        self.names |= {f"{kind} by loss": f"{kind} {lowest:g}" for kind, (_, lowest) in rates.items()}

    def of(self, kind: str, subjects: Iterable[str] = KEPT_OUT) -> list[Record]:
        """Return the records of one kind."""
        name = self.names.get(kind, kind)
        return [r for r in self.records if r["kind"] == name and r["subject"] in set(subjects)]

    def mean(self, kind: str, measure: str, subjects: Iterable[str] = KEPT_OUT) -> tuple[float, float]:
        """Return mean and standard error in per cent over all pictures of one kind."""
        values = [value for r in self.of(kind, subjects) for value in r[measure] if value is not None]
        return mean_and_error(values)

    def table(self, subjects: Sequence[str]) -> str:
        """Return the Markdown table of all kinds."""
        lines = [f"| | {' | '.join(HEADINGS)} | pictures |", f"|---|{'---|' * (len(HEADINGS) + 1)}"]
        for kind in KINDS:
            if found := self.of(kind, subjects):
                means = [self.mean(kind, measure, subjects) for measure in MEASURES]
                cells = ["" if math.isnan(mean) else f"{mean:.1f} ± {error:.1f}" for mean, error in means]
                count = sum(len(r["kept"]) for r in found)
                lines.append(f"| {LABELS.get(kind, kind)} | {' | '.join(cells)} | {count} |")
        return "\n".join(lines)

    def by_subject(self, subjects: Iterable[str]) -> str:
        """Return the Markdown table of every subject: its set, what it keeps beside fine-tune and words, its losses."""
        head = ["", "zeroed", "attributes kept", "fine-tune", "described", "base model", "line-up", "held-out loss"]
        head.append("no identifier")
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for key in subjects:
            if found := self.of("set", [key]):
                kinds = ("concept", "fine-tune", "described", "bare")
                means = [self.mean(kind, "kept", [key])[0] for kind in kinds]
                cells = [f"{100 * sum(r['share'] for r in found) / len(found):.2f} %"]
                cells += ["" if math.isnan(value) else f"{value:.0f}" for value in means]
                cells.append(f"{self.mean('concept', 'by_attributes', [key])[0]:.0f}")
                cells += [f"{self.change('set', name, [key]):+.1f} %" for name in ("held_out", "no_identifier")]
                lines.append(f"| {key} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def loss_of(self, record: Record, name: str) -> float:
        """Return the change of one loss of a record as a fraction."""
        return float(record["losses"][name])

    def ratio(self, of: Callable[[Record], float], kinds: tuple[str, str]) -> float:
        """Return the mean of one kind over that of another, in per cent, on the subjects and seeds that both have."""
        first, second = ({(r["subject"], r["seed"]): r for r in self.of(kind)} for kind in kinds)
        common = first.keys() & second.keys()
        below = sum(of(second[key]) for key in common)
        return 100 * sum(of(first[key]) for key in common) / below if below else float("nan")

    def effects(self) -> list[float]:
        """Return for each subject and seed how much more the held-out loss falls with the identifier than without."""
        ratios = []
        for r in self.of("set"):
            with_it, without = -self.loss_of(r, "held_out"), -self.loss_of(r, "no_identifier")
            ratios.append(with_it / without if without > 0 else float("inf"))
        return ratios

    def drift(self) -> list[Record]:
        """Return the rows of the losses that should not change: of the class, of other nouns, with random indices."""
        out = []
        for name, label in (("class", "class"), ("unrelated", "other nouns")):
            ours, theirs = (self.change(kind, name) for kind in ("set", "fine-tune by loss"))
            out.append(row(f"loss of {label}, above the fine-tune's", "<= 1 point", ours - theirs, ours - theirs <= 1))
        random = mean_and_error([abs(r["random"]["held_out"]) for r in self.of("set")])[0]
        return [*out, row("held-out loss with random indices, change", "<= 1 %", random, random <= 1)]

    def change(self, kind: str, name: str, subjects: Iterable[str] = KEPT_OUT) -> float:
        """Return the mean change of one loss in per cent."""
        return mean_and_error([self.loss_of(r, name) for r in self.of(kind, subjects)])[0]

    def various(self, kind: str) -> float:
        """Return the mean entropy of the attributes of the class's other individuals, in nats."""
        values = [variety(r["various"], WORLD.identity) for r in self.of(kind)]
        return sum(values) / len(values) if values else float("nan")

    def together(self, kind: str, measure: str, *groups: Sequence[str]) -> float:
        """Return the share of subjects in pictures of these groups that are right, in per cent."""
        records = [r for r in self.records if r["subject"] == "together" and r["kind"] == kind]
        return _right([r for r in records if tuple(r["names"]) in groups], measure)[0]

    def groups(self) -> str:
        """Return the Markdown table of pictures of several: how many are named right, and nearer to themselves."""
        lines = ["| subjects | | named right | nearer to itself than to another | pictures |", f"|{'---|' * 5}"]
        kinds: dict[tuple[str, str], list[Record]] = {}
        for r in (r for r in self.records if r["subject"] == "together"):
            kinds.setdefault((", ".join(r["names"]), r["kind"]), []).append(r)
        for (names, kind), records in sorted(kinds.items(), key=lambda each: (each[0][0], IN_GROUPS.index(each[0][1]))):
            means = [_right(records, measure) for measure in ("chosen", "own")]
            cells = " | ".join(f"{mean:.0f} ± {error:.0f}" for mean, error in means)
            count = sum(len(r["pictures"]) for r in records)
            lines.append(f"| {names} | {LABELS.get(kind, kind)} | {cells} | {count} |")
        return "\n".join(lines)

    def asked(self) -> str:
        """Return the Markdown table of obedience by what the prompt asks for."""
        kinds = ("concept", IN_REGION, "fine-tune", "lora", "bare")
        lines = [f"| | {' | '.join(LABELS.get(kind, kind) for kind in kinds)} |", f"|{'---|' * (len(kinds) + 1)}"]
        scenes = {"background": BACKGROUNDS, "wearables": WEARING, "glasses": WEARING[1:2], "company": COMPANY}
        for label, templates in scenes.items():
            found = [mean_and_error(self.obeyed(kind, templates))[0] for kind in kinds]
            lines.append(f"| {label} | {' | '.join('' if math.isnan(mean) else f'{mean:.0f}' for mean in found)} |")
        return "\n".join(lines)

    def obeyed(self, kind: str, templates: Sequence[str]) -> list[float]:
        """Return the obedience of one kind in some of the scenes."""
        found = []
        for r in self.of(kind):
            scenes = list(subject_of(r["subject"]).templates())
            each = len(r["obeyed"]) // len(scenes)
            for scene, value in zip((s for s in scenes for _ in range(each)), r["obeyed"], strict=False):
                found += [value] if scene in templates and value is not None else []
        return found

    def rows(self) -> list[Record]:
        """Return the rows of identity.json."""
        kept, fine = self.mean("concept", "kept")[0], self.mean("fine-tune", "kept")[0]
        line_up = self.mean("concept", "by_attributes")[0]
        loss, less = (self.mean(kind, "obeyed")[0] - self.mean("bare", "obeyed")[0] for kind in ("concept", IN_REGION))
        share = self.ratio(lambda r: -self.loss_of(r, "held_out"), ("set", "fine-tune by loss"))
        ran = [key for key in KEPT_OUT if self.of("concept", [key]) and self.of("other", [key])]
        won = [self.mean("concept", "kept", [key])[0] > self.mean("other", "kept", [key])[0] for key in ran]
        wins = mean_and_error(won)[0]
        effects = self.effects()
        effect, middle = min(effects, default=math.nan), statistics.median(effects or [math.nan])
        out = [
            row("attributes kept in new scenes", ">= 90 %", kept, kept >= 90, fine_tune=fine),
            row("attributes kept, below the fine-tune", "<= 3 points", fine - kept, fine - kept <= 3),
            row("line-up of eight, by attributes", ">= 95 %", line_up, line_up >= 95),
            row("line-up of eight, by features", "report", self.mean("concept", "by_features")[0], None),
            row("obedience against the base model", ">= -3 points", loss, loss >= -3),
            row("obedience against the base model, --regions", ">= -3 points", less, less >= -3),
            row("effect with the identifier : without, least", ">= 4", effect, effect >= 4, median=middle),
            row("own set keeps more than another's", "100 % of subjects", wins, wins == 100),
            row("share of the fine-tune's held-out gain", ">= 92 %", share, share >= 92),
            *self.drift(),
            row("variety of the class, base model = 100", "report",
                100 * self.various("no identifier") / (self.various("bare") or 1), None),
        ]  # fmt: skip
        for groups, goal in ((PAIRS, 90), ((ORDER[:3],), 85), ((ORDER,), 80)):
            value = self.together("regions", "chosen", *groups)
            name = f"{len(groups[0])} subjects in one picture, each named right, --regions"
            out.append(row(name, f">= {goal} %", value, value >= goal))
        unseen = self.together("regions", "chosen", *TEST_PAIRS)
        out.append(row("2 subjects of the test half, --regions", ">= 90 %", unseen, unseen >= 90))
        merged, tuned = (self.together(kind, "chosen", ORDER) for kind in ("merged", "tuned"))
        out.append(row("4 subjects, plain merge", ">= 60 %", merged, merged >= 60))
        out.append(row("4 subjects, after tune", ">= 80 %", tuned, tuned >= 80))
        swapped = self.together("regions", "own", TWINS)
        out.append(row("two of one class, not swapped, --regions", ">= 80 %", swapped, swapped >= 80))
        return out


def _right(records: Iterable[Record], measure: str) -> tuple[float, float]:
    """Return mean and standard error in per cent over the subjects shown in pictures of several."""
    shown = [(r.get("shown", range(len(r["names"]))), picture[measure]) for r in records for picture in r["pictures"]]
    return mean_and_error([found[place] for places, found in shown for place in places])


def tables(results: Results, rows: Sequence[Record]) -> str:
    """Return the goals and all tables as Markdown."""
    lines = ["| measure | goal | value |", "|---|---|---|"]
    for each in rows:
        value = "not measured" if each["value"] is None else f"{each['value']:g}"
        lines.append(f"| {each['name']} | {each['goal']} | {f'**{value}**' if each['met'] is False else value} |")
    parts = ["\n".join(lines), "Bold: the goal is missed."]
    groups = (("Kept-out individuals", KEPT_OUT), ("The development half", DEVELOPMENT), ("The test half", TEST))
    outside = sorted({r["subject"] for r in results.records if r["half"] == "outside"})
    for title, subjects in (*groups, *((("Drawings from outside the world", outside),) if outside else ())):
        parts.append(f"### {title}\n\n{results.table(subjects)}")
    parts.append(f"### Obedience by what is asked for\n\n{results.asked()}")
    if any(r["subject"] == "together" for r in results.records):
        parts.append(f"### Several in one picture\n\n{results.groups()}")
    parts.append(f"### Every subject\n\n{results.by_subject([*KEPT_OUT, *outside])}")
    return "\n\n".join(parts)


def contact_sheet(store: Store, subjects: Sequence[Subject], seed: int) -> Image.Image | None:
    """Return a row for each subject: two photos, the base model's picture, and the concept in every other scene.

    None if the store has records without pictures, as the one beside the page has.
    """
    rows, labels = [], []
    for subject in subjects:
        drawn = {kind: store.load_pictures(f"{subject.name}/{seed}/{kind}") for kind in ("bare", "concept")}
        if drawn["concept"]:
            side = drawn["concept"][0].width
            photos = [square(photo.image, side) for photo in subject.photos[:2]]
            rows.append([*photos, drawn["bare"][0], *drawn["concept"][::2]])
            labels.append(subject.name)
    return grid(rows, labels) if rows else None


def together_sheet(store: Store, seed: int) -> Image.Image | None:
    """Return a row for each group of subjects and way to draw it; None if there are no pictures."""
    rows, labels = [], []
    for record in store.records():
        pictures = store.load_pictures(record["key"]) if record["subject"] == "together" else []
        if pictures and record["seed"] == seed:
            rows.append(pictures)
            labels.append(f"{', '.join(record['names'])}: {LABELS.get(record['kind'], record['kind'])}")
    return grid(rows, labels) if rows else None


def overview_sheet(store: Store, subjects: Sequence[Subject], seed: int) -> Image.Image | None:
    """Return README's sheet, None where something of it did not run.

    Of some subjects two photos, the base model's first scene, and the concept in three; then groups.
    """
    groups = [store.load_pictures(f"together/{seed}/{'-'.join(names)}/{kind}") for names, kind in OVERVIEW.items()]
    if not all(groups):
        return None
    shown = [each for each in subjects if any(each.name in names for names in OVERVIEW)]
    rows, labels = [], []
    for subject in shown:
        bare, concept = (store.load_pictures(f"{subject.name}/{seed}/{kind}") for kind in ("bare", "concept"))
        photos = [square(photo.image, bare[0].width) for photo in subject.photos[:2]]
        rows.append([*photos, bare[0], *(concept[scene] for scene in SCENES)])
        labels.append(f"{subject.name}: two photos; the base model's {subject.noun}; the concept in three scenes")
    for (names, kind), pictures in zip(OVERVIEW.items(), groups, strict=True):
        rows.append(pictures)
        labels.append(f"{', '.join(names[:-1])} and {names[-1]} in one picture: {LABELS[kind].replace('`', '')}")
    return grid(rows, labels)


def write_report(store: Store, out: Path, subjects: Sequence[Subject], seed: int, page: Path | None) -> list[Path]:
    """Write identity.json, identity.md and the sheets identity.png, together.png and overview.png; returns them.

    Given a page that has the lines `BEGIN` and `END`, its part between them becomes the tables, and the others are
    written beside it: identity.json, and the sheets in its folder `results`.
    """
    results = Results(store)
    rows = results.rows()
    shown, told = tables(results, rows), json.dumps(rows, indent=1) + "\n"
    texts, pictures = {out / "identity.md": shown + "\n", out / "identity.json": told}, out
    if page:
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not end:
            raise SystemExit(f"{page} has no lines {BEGIN} and {END}")
        texts = {page: f"{before}{BEGIN}\n\n{shown}\n\n{END}{after}", page.with_suffix(".json"): told}
        pictures = page.parent / "results"
    written = [write_atomic(path, text.encode(), overwrite=True) for path, text in texts.items()]
    sheets = {
        "identity": contact_sheet(store, subjects, seed),
        "together": together_sheet(store, seed),
        "overview": overview_sheet(store, subjects, seed),
    }
    for name, sheet in sheets.items():
        if sheet:
            data = io.BytesIO()
            small = sheet.reduce(2)
            if name != "overview":  # a palette takes colour from small things
                small = small.quantize(256)
            small.save(data, "PNG", optimize=True)
            written.append(write_atomic(pictures / f"{name}.png", data.getvalue(), overwrite=True))
    return written
