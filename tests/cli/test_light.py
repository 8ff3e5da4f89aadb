"""inspect, merge, extract, diff and doctor, on files alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from conestool import format as cones_format
from conestool.cli.merge import PAIRED
from conestool.concept import Losses
from tests.support.command_line import Cones, base, concept, save_cone

pytestmark = pytest.mark.usefixtures("files")
COUNT = concept().neurons


@pytest.fixture
def files(work: Path, cones: Cones) -> None:
    """dog.cone, hat.cone, both.cone, a folder, and a file of somebody's in the folder of the run."""
    dog, hat = concept("dog", "sks"), concept("hat", "zwx", seed=1)
    for name, concepts in {"dog": (dog,), "hat": (hat,), "both": (dog, hat)}.items():
        save_cone(work / f"{name}.cone", *concepts)
    (work / "folder.cone").mkdir()
    (work / "mine.cone").write_bytes(b"precious")


def test_merge_writes_the_names_joined_by_plus(cones: Cones) -> None:
    """stdout has the path alone, stderr how much they share; with -q, before or after the command, it is empty."""
    done = cones("merge", "dog.cone", "hat.cone")
    assert (done.code, done.lines) == (0, ["dog+hat.cone"])
    assert cones_format.load("dog+hat.cone").names == ("dog", "hat")
    assert "dog and hat" in done.err and "note" not in done.err
    for words in (("merge", "-q", "dog.cone", "hat.cone"), ("-q", "merge", "dog.cone", "hat.cone")):
        quiet = cones(*words, "--overwrite")
        assert (quiet.err, quiet.lines) == ("", ["dog+hat.cone"])


def test_merge_reports_the_overlap(cones: Cones) -> None:
    """Counts and Jaccard index of every pair, worked out by hand from two equal index sets."""
    save_cone(Path("twin.cone"), concept("twin", "qyx"))
    done = cones("merge", "dog.cone", "twin.cone", "--json", "-o", "x.cone")
    assert done.err == ""
    assert done.json["overlap"] == [{"concepts": ["dog", "twin"], "shared": COUNT, "jaccard": 1.0}]
    assert (done.json["neurons"], done.json["shared"]) == (COUNT, {"dog": COUNT, "twin": COUNT})


def test_merge_of_many_compares_each_with_all_others(cones: Cones, work: Path) -> None:
    """Where pairs are too many to read, there is a line a concept: twins share all."""
    seeds = [*range(PAIRED), 0]
    paths = [save_cone(work / f"{n}.cone", concept(f"dog {n}", f"x{n}", seed=seed)) for n, seed in enumerate(seeds)]
    done = cones("merge", *paths, "-o", "all.cone", "--json")
    assert done.json["overlap"] is None
    assert (done.json["shared"]["dog 0"], len(done.json["shared"])) == (COUNT, len(seeds))
    told = cones("merge", *paths, "-o", "all.cone", "--overwrite").err
    assert f"shares {COUNT:,} with others" in told and " and " not in told


def test_merge_says_what_counts_once(cones: Cones) -> None:
    """A file that was named twice, and a concept that is in two files."""
    assert "note: dog.cone is named 2 times\n" in cones("merge", "dog.cone", "dog.cone", "-o", "x.cone").err
    told = cones("merge", "both.cone", "dog.cone", "-o", "y.cone").err
    assert "note: dog is in both.cone and dog.cone, and is taken once\n" in told


def test_extract_gives_the_original_back(cones: Cones) -> None:
    """Byte for byte the file that was merged."""
    done = cones("extract", "both.cone", "HAT", "-o", "back.cone")
    assert (done.code, done.lines) == (0, ["back.cone"])
    assert Path("back.cone").read_bytes() == Path("hat.cone").read_bytes()


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("merge dog.cone", 2, "expected two or more"),
        ("merge dog.cone name.cone", 2, " of name.cone: "),
        ("merge dog.cone word.cone", 2, "the identifier 'sks'"),
        ("merge dog.cone other.cone", 5, "error: dog.cone and other.cone do not share a base model (toy, sd15): "),
        ("merge dog.cone hat.cone -o mine.cone", 2, "--overwrite"),
        ("merge dog.cone hat.cone -o no/where.cone", 2, "no/where.cone"),
        ("merge dog.cone hat.cone -o - --json", 2, "stdout cannot carry the .cone file and JSON"),
        ("merge folder.cone folder.cone", 4, "is a folder"),
        ("extract folder.cone x", 4, "is a folder"),
        ("extract dog.cone cat", 2, "dog"),
        ("inspect folder.cone", 4, "is a folder"),
    ],
)
def test_what_cannot_be_done_is_refused(line: str, code: int, words: str, cones: Cones, work: Path) -> None:
    """With a message that names the files; what is there stays, and stdout is empty."""
    save_cone(work / "name.cone", concept("dog", "zwx", seed=3))
    save_cone(work / "word.cone", concept("hat", "sks", seed=3))
    save_cone(work / "other.cone", replace(concept("dog", "sks", seed=3), base=base("sd15", 1)))
    done = cones(*line.split())
    assert (done.code, done.out) == (code, b"")
    assert words in done.err and done.err.splitlines()[0].count("different") == (code == 5)
    assert Path("mine.cone").read_bytes() == b"precious"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write")
def test_outputs_are_replaced_if_told_and_can_be_unwritable(cones: Cones) -> None:
    assert cones("merge", "dog.cone", "hat.cone", "-o", "mine.cone", "--overwrite").code == 0
    assert cones_format.load("mine.cone").names == ("dog", "hat")
    done = cones("merge", "dog.cone", "hat.cone", "-o", "/proc/out.cone")
    assert done.code == 2 and done.err.startswith("error: /proc/out.cone: ")


def test_diff_counts_and_exits_with_one(cones: Cones) -> None:
    """Per layer; equal files are 0 and say nothing on stdout; a note alone is a difference that is named."""
    same = cones("diff", "dog.cone", "dog.cone")
    assert (same.code, same.out) == (0, b"")
    done = cones("diff", "dog.cone", "hat.cone", "--json")
    total = done.json["total"]
    assert (done.code, total["only_a"] + total["both"]) == (1, COUNT)
    assert sum(layer["only_a"] for layer in done.json["layers"].values()) == total["only_a"]
    save_cone(Path("noted.cone"), concept("dog", "sks", notes="by night"))
    done = cones("diff", "dog.cone", "noted.cone", "--json")
    assert (done.code, done.json["metadata"]) == (1, [{"key": "dog.origin.notes", "a": None, "b": "by night"}])


def test_diff_fits_a_screen(cones: Cones) -> None:
    """Names of both, four digits, a map in one line; layers only on request; which file has a concept."""
    losses = Losses(held_out_before=0.2, held_out_after=0.1234567890123, random_after=0.2)
    save_cone(Path("fox.cone"), concept("fox", "zwx", seed=1, losses=losses, versions={"torch": "2"}))
    done = cones("diff", "dog.cone", "fox.cone")
    lines = [" ".join(line.split()) for line in done.err.splitlines()]
    assert lines[0] == "A is dog.cone, B is fox.cone"
    assert "class_noun dog -> fox" in lines and "name dog -> fox" in lines
    (told,) = [line for line in lines if line.startswith("losses")]
    assert told.startswith("losses held out after 0.15 -> 0.1235") and "class" not in told and len(told) < 70
    assert "attn" not in done.err and "self" not in done.err
    assert len(done.err.splitlines()) < 24 and not re.search(r"\d\.\d{5}", done.err)
    assert "down.0.0.0 self" in cones("diff", "dog.cone", "fox.cone", "--layers").err
    for files, side in ((("dog.cone", "both.cone"), "B"), (("both.cone", "dog.cone"), "A")):
        assert re.search(rf"hat +only in {side}\n", cones("diff", *files).err)


def test_inspect_tells_what_matters(cones: Cones) -> None:
    """Prompt, losses, base model and size are on stderr, layers and K and V on request; stdout stays empty."""
    done = cones("inspect", "dog.cone")
    assert (done.code, done.out) == (0, b"")
    for text in ("a photo of a sks dog", "0.2000 -> 0.1500", "-25.0 %", "base model: toy", "LoRA", "Custom Diffusion"):
        assert text in done.err
    assert "down.0.0.0" not in done.err
    assert "down.0.0.0 self" in cones("inspect", "dog.cone", "--layers").err
    assert "cross K" in cones("inspect", "-v", "dog.cone").err


def test_inspect_says_what_the_losses_were_measured_on(cones: Cones) -> None:
    """Photos that were held out, or, where there were too few, new crops of the same ones."""
    told = []
    for held_out in (0, 1):
        save_cone(Path(f"{held_out}.cone"), concept(held_out=held_out))
        told.append(cones("inspect", f"{held_out}.cone").err)
    assert "new crops" in told[0] and "held-out photos" not in told[0]
    assert "held-out photos" in told[1] and "1 held out" in told[1]


def test_inspect_json_is_a_list_of_files(cones: Cones) -> None:
    """With layers that add up, and sizes by hand: rank 4 factors of every K/V weight, and all of cross-attention."""
    done = cones("inspect", "dog.cone", "hat.cone", "--json")
    assert [record["file"] for record in done.json] == ["dog.cone", "hat.cone"]
    dog = done.json[0]
    (found,) = dog["concepts"]
    assert sum(layer["neurons"] for layer in found["layers"]) == found["neurons"] == COUNT
    assert dog["bytes"] == Path("dog.cone").stat().st_size
    lora, custom = 2 * 4 * (2 * (32 + 32) + 2 * (32 + 64)), 2 * 2 * 32 * 64
    assert dog["alternatives_bytes"] == {"lora": lora, "custom_diffusion": custom}


def test_inspect_reads_the_header_alone(cones: Cones) -> None:
    """A damaged payload does not disturb it: nothing of it is decoded."""
    data = bytearray(Path("dog.cone").read_bytes())
    data[-1] ^= 1
    Path("dog.cone").write_bytes(data)
    assert cones("inspect", "dog.cone").code == 0
    assert cones("extract", "dog.cone", "dog", "-o", "x.cone").code == 4
    data[200] ^= 4
    Path("dog.cone").write_bytes(data)
    done = cones("inspect", "dog.cone")
    assert done.code == 4 and done.err.startswith("error: dog.cone: ") and "Traceback" not in done.err


def test_inspect_draws_the_layer_map(cones: Cones) -> None:
    """A PNG with a row per layer; its path is on stdout."""
    assert cones("inspect", "dog.cone", "--plot", "map.png").lines == ["map.png"]
    with Image.open("map.png") as image:
        assert image.format == "PNG"
        assert len(image.getcolors(1 << 16) or []) > 8


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--revision", "main", "--offline"), "--revision has no effect without --model"),
        (("--config", "x"), "--config has no effect without --model"),
        (("--overwrite",), "--overwrite has no effect without --plot"),
    ],
)
def test_inspect_says_which_options_change_nothing(cones: Cones, options: tuple[str, ...], named: str) -> None:
    done = cones("inspect", "dog.cone", *options)
    assert done.code == 0 and f"warning: {named}\n" in done.err


def test_json_leaves_the_report_to_stdout(cones: Cones) -> None:
    """stderr keeps warnings; with -v people read both."""
    for command in (("inspect", "dog.cone"), ("diff", "dog.cone", "hat.cone"), ("doctor",)):
        assert cones(*command, "--json").err == ""
    assert "base model: toy" in cones("inspect", "dog.cone", "--json", "-v").err


def test_a_missing_value_names_the_help_of_its_command(cones: Cones) -> None:
    """click does not know yet whose option it is."""
    for command in ("render", "find", "inspect"):
        done = cones(command, "dog.cone", "--model")
        assert (done.code, done.err.splitlines()[-1]) == (2, f"  see cones {command} --help")


def test_doctor_json_holds_what_a_report_needs(cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices, dtypes, versions, memory, cache; folders of the home are shortened."""
    monkeypatch.setenv("CONES_PATH", str(Path.home() / "secret" / "cones"))
    done = cones("doctor", "--json", "-q")
    assert done.code == 0
    assert done.json["devices"][0]["device"] == "cpu" and "float32" in done.json["devices"][0]["dtypes"]
    assert {"torch", "diffusers", "conestool"} <= done.json["versions"].keys()
    assert done.json["environment"]["CONES_PATH"].startswith("~")
