"""From what was read in pictures to the figures, page and sheets of the identity benchmark."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from PIL import Image

from benchmarks.fidelity.plan import Options, parse_variant
from benchmarks.fidelity.store import Store
from benchmarks.identity.cells import Cell, Studio
from benchmarks.identity.measures import row
from benchmarks.identity.report import BEGIN, END, Results, best_rates, overview_sheet, write_report
from benchmarks.identity.subjects import WEARING, subject_of
from conestool.concept import Cone
from conestool.evaluation.attribute_metric import AttributeMetric, kept
from conestool.evaluation.judge import load_judge
from conestool.models.model import Model
from conestool.rendering import render
from training.pocket.labels import WORLD, labels_of

RECORDS = Path(__file__).parents[2] / "docs" / "experiments" / "results" / "identity-cells.tar.xz"

PICTURE = Image.new("RGB", (8, 8), "red")


def record(store: Store, subject: str, kind: str, kept: list[float], **more: Any) -> None:
    """A cell as a run leaves it, with two pictures."""
    read = {"kept": kept, "by_attributes": kept, "by_features": kept, "obeyed": [1.0, None], "various": []}
    who = {"subject": subject, "half": subject_of(subject).half, "seed": 0, "kind": kind}
    store.save(f"{subject}/0/{kind}", read | more | who)
    store.save_pictures(f"{subject}/0/{kind}", [PICTURE] * 2)


def losses(held_out: float, no_identifier: float = -0.01) -> dict[str, float]:
    """Changes of the losses as fractions."""
    return {"held_out": held_out, "no_identifier": no_identifier, "class": 0.0, "unrelated": 0.0}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Rex with his set, two rates of fine-tune, and a rate that did well on the test half alone."""
    made = Store(tmp_path / "cells")
    record(made, "rex", "concept", [0.5, 1.0])
    record(made, "rex", "bare", [0.0, 0.5])
    record(made, "rex", "fine-tune 0.001", [1.0, 1.0], rate=0.001, losses=losses(-0.1))
    record(made, "rex", "fine-tune 0.0003", [0.5, 0.5], rate=0.0003, losses=losses(-0.2))
    record(made, "luna", "fine-tune 0.003", [1.0, 1.0], rate=0.003, losses=losses(-0.9))
    found = {"losses": losses(-0.1, 0.01), "random": {"held_out": 0.0}, "share": 0.01}
    who = {"subject": "rex", "half": "development", "seed": 0, "kind": "set"}
    made.save("rex/0/set", found | who)
    return made


def test_rates_are_chosen_on_the_development_half(store: Store) -> None:
    """The one that keeps most attributes, and the one with the lowest loss; without any, it says what to add."""
    assert best_rates(store, "fine-tune") == (0.001, 0.0003)
    with pytest.raises(SystemExit, match="no lora ran on a development subject: add one of rex"):
        best_rates(store, "lora")


def test_a_row_holds_what_json_can() -> None:
    """Nothing measured is not a missed goal, and an infinite ratio is a met one without a number."""
    assert row("a", ">= 4", float("nan"), False) == {"name": "a", "goal": ">= 4", "value": None, "met": None}
    assert row("a", ">= 4", float("inf"), True, b=1 / 3) == {
        "name": "a", "goal": ">= 4", "value": None, "met": True, "b": 0.33,
    }  # fmt: skip


def test_the_report_fills_its_place_in_a_page(store: Store, tmp_path: Path) -> None:
    """What stands around the lines stays; the goals are there with what was measured; a page without them is kept."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nstale\n{END}\nafter\n")
    (tmp_path / "results").mkdir()
    for _ in range(2):
        written = write_report(store, tmp_path, [subject_of("rex")], 0, page)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\n| measure") and text.endswith(f"{END}\nafter\n") and "stale" not in text
    assert text.count(BEGIN) == 1 and "| rex | 1.00 % | 75 | 100 |  | 25 | 75 | -10.0 % | +1.0 % |" in text
    rows = {each["name"]: each for each in json.loads(page.with_suffix(".json").read_text())}
    assert rows["attributes kept in new scenes"]["value"] == 75 and not rows["attributes kept in new scenes"]["met"]
    assert rows["share of the fine-tune's held-out gain"]["value"] == 50  # of the rate with the lowest loss
    assert (
        rows["effect with the identifier : without, least"] | {"value": None, "met": True}
        == rows["effect with the identifier : without, least"]
    )  # no gain at all without it
    assert [path.name for path in written] == ["page.md", "page.json", "identity.png"]
    with Image.open(written[-1]) as sheet:
        assert sheet.width > sheet.height  # one row: two photos, the base model's picture, the concept's
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="has no lines"):
        write_report(store, tmp_path, [subject_of("rex")], 0, page)
    assert page.read_text() == "nothing"


def test_records_without_pictures_make_the_tables_alone(store: Store, tmp_path: Path) -> None:
    """As those that are kept beside the page; the same text as with pictures."""
    told = {"subject": "together", "half": "together", "seed": 0, "kind": "regions", "names": ["rex", "cat"]}
    store.save("together/0/rex-cat/regions", told | {"pictures": [{"chosen": [1.0, 0.0], "own": [1.0, 0.0]}]})
    store.save_pictures("together/0/rex-cat/regions", [PICTURE])
    write_report(store, tmp_path, [subject_of("rex")], 0, None)
    with_pictures = (tmp_path / "identity.md").read_text()
    for picture in store.folder.rglob("*.png"):
        picture.unlink()
    written = write_report(store, tmp_path, [subject_of("rex")], 0, None)
    assert [path.name for path in written] == ["identity.md", "identity.json"]
    assert (tmp_path / "identity.md").read_text() == with_pictures


def test_the_records_beside_the_page_make_its_tables(tmp_path: Path) -> None:
    """Figures and text, to the last character."""
    page = Path(__file__).parents[2] / "docs" / "experiments" / "identity.md"
    with tarfile.open(RECORDS) as archive:
        archive.extractall(tmp_path, filter="data")
    [folder] = (tmp_path / "cells").iterdir()
    write_report(Store(folder), tmp_path, [], 0, None)
    assert (tmp_path / "identity.json").read_text() == page.with_suffix(".json").read_text()
    between = page.read_text().partition(BEGIN)[2].partition(END)[0]
    assert (tmp_path / "identity.md").read_text().strip() == between.strip()


@pytest.mark.parametrize("key", ["rex", "openmoji/dog"])
def test_a_subject_has_a_photo_that_no_search_has_seen(key: str) -> None:
    """Another one than those in its folder."""
    subject = subject_of(key)
    [unseen] = subject.unseen_photos
    assert unseen.tobytes() not in {photo.image.tobytes() for photo in subject.photos} and unseen.size == (256, 256)


def test_subjects_in_their_regions_keep_more_of_themselves_than_merged(tmp_path: Path) -> None:
    """With the sets beside the page, of a dog and a cat, in three pictures."""
    with tarfile.open(RECORDS) as archive:
        archive.extractall(tmp_path, filter="data")
    [folder] = (tmp_path / "cells").iterdir()
    model, metric = Model.from_pretrained("pocket"), AttributeMetric(load_judge(None))
    studio = Studio(model, metric, None, Store(folder), Options(), parse_variant("mask"))  # type: ignore[arg-type]
    cone = Cone(tuple(Cell(studio, subject_of(key), 0).concept() for key in ("rex", "cat")))
    sent = " and ".join(f"a {concept.phrase}" for concept in cone.concepts)
    wanted = []
    for name in cone.names:
        thing = subject_of(name).thing
        assert thing is not None
        wanted.append({key: value for key, value in labels_of(thing).items() if value and key in WORLD.identity})
    shares = []
    for regions in (True, False):
        drawn = render(model, sent, cone, seeds=range(3), literal=True, regions=regions)
        read = metric.read([each.image for each in drawn])
        shares.append([kept(thing, own) for r in read for thing, own in zip(r.things, wanted, strict=True)])
    assert mean(shares[0]) > mean(shares[1]) + 0.1


def test_readme_s_sheet_shows_subjects_alone_and_together(store: Store, tmp_path: Path) -> None:
    """A row for each subject of its groups and for each group; none before all of them are there."""
    names = ["rex", "luna", "cat", "car", "rabbit"]
    subjects, white = [subject_of(name) for name in names], Image.new("RGB", (64, 64), "white")
    for name in names:
        for kind in ("bare", "concept"):
            store.save_pictures(f"{name}/0/{kind}", [white] * 7)
    for group in ("rex-cat", "rex-luna"):
        store.save_pictures(f"together/0/{group}/regions", [white] * 6)
    assert overview_sheet(store, subjects, 0) is None
    store.save_pictures("together/0/rex-cat-car-rabbit/regions", [white] * 6)
    sheet = overview_sheet(store, subjects, 0)
    assert sheet is not None and 8 * 256 < sheet.height < 8 * 320 and 6 * 256 < sheet.width < 6 * 280


def test_a_set_alone_in_company_is_counted_at_its_place(store: Store, tmp_path: Path) -> None:
    """Of two subjects in a picture only the one whose set is zeroed is asked for; of joined sets both are.

    Two seeds are one line of the table, and their pictures are counted together.
    """
    pictures = [{"chosen": [1.0, 0.0], "own": [1.0, 0.0]}, {"chosen": [0.0, 0.0], "own": [0.0, 0.0]}]
    for kind, shown in (("regions", {}), ("first alone", {"shown": [0]}), ("second alone", {"shown": [1]})):
        for seed in (0, 1):
            told = {"subject": "together", "half": "together", "seed": seed, "kind": kind, "names": ["rex", "cat"]}
            store.save(f"together/{seed}/rex-cat/{kind}", told | {"pictures": pictures} | shown)
            store.save_pictures(f"together/{seed}/rex-cat/{kind}", [PICTURE])
    write_report(store, tmp_path, [subject_of("rex")], 0, None)
    rows = {each["name"]: each["value"] for each in json.loads((tmp_path / "identity.json").read_text())}
    assert rows["2 subjects in one picture, each named right, --regions"] == 25
    lines = (tmp_path / "identity.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("| rex, cat |")] == [
        "| rex, cat | first with its set, the other by its noun | 50 ± 25 | 50 ± 25 | 4 |",
        "| rex, cat | second with its set, the other by its noun | 0 ± 0 | 0 ± 0 | 4 |",
        "| rex, cat | merged, `--regions` | 25 ± 15 | 25 ± 15 | 4 |",
    ]


def test_obedience_is_told_by_what_is_asked_for(store: Store) -> None:
    """Two pictures of each scene: glasses are obeyed in one of two, all other wearables in both, nothing else ever."""
    subject = subject_of("rex")
    asked = [WEARING.index(scene) if scene in WEARING else -1 for scene in subject.templates() for _ in range(2)]
    told = [float(number >= 0 and (number != 1 or place % 2)) for place, number in enumerate(asked)]
    record = store.load("rex/0/concept") | {"obeyed": told}
    store.save("rex/0/concept", record)
    first = [line.strip("| ").split(" | ")[:2] for line in Results(store).asked().splitlines()[2:]]
    assert first == [["background", "0"], ["wearables", "88"], ["glasses", "50"], ["company", "0"]]
