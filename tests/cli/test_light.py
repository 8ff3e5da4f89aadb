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

HEADER_FLIP = 200


@pytest.fixture
def dog(work: Path, cones: Cones) -> Path:
    """dog.cone in the folder of the run."""
    return save_cone(work / "dog.cone", concept("dog", "sks"))


@pytest.fixture
def hat(work: Path, cones: Cones) -> Path:
    """hat.cone in the folder of the run."""
    return save_cone(work / "hat.cone", concept("hat", "zwx", seed=1))


def test_merge_writes_the_names_joined_by_plus(cones: Cones, dog: Path, hat: Path, work: Path) -> None:
    """`merge dog.cone hat.cone` makes dog+hat.cone, and stdout has its path alone."""
    done = cones("merge", "dog.cone", "hat.cone")
    assert (done.code, done.lines) == (0, ["dog+hat.cone"])
    assert cones_format.load(work / "dog+hat.cone").names == ("dog", "hat")
    assert "dog and hat" in done.err


def test_merge_order_does_not_matter(cones: Cones, dog: Path, hat: Path) -> None:
    """Any order gives the same bytes on stdout."""
    assert (
        cones("merge", "dog.cone", "hat.cone", "-o", "-").out == cones("merge", "hat.cone", "dog.cone", "-o", "-").out
    )


def test_merge_reports_the_overlap(cones: Cones, dog: Path, work: Path) -> None:
    """Counts and Jaccard index of every pair, worked out by hand from two equal index sets."""
    twin = save_cone(work / "twin.cone", concept("twin", "qyx"))
    done = cones("merge", dog, twin, "--json", "-o", "x.cone")
    assert done.err == ""
    assert done.json["overlap"] == [{"concepts": ["dog", "twin"], "shared": concept().neurons, "jaccard": 1.0}]
    assert done.json["neurons"] == concept().neurons
    assert done.json["shared"] == {"dog": concept().neurons, "twin": concept().neurons}


def test_merge_of_many_compares_each_with_all_others(cones: Cones, work: Path) -> None:
    """Where pairs are too many to read, there is a line a concept: twins share all."""
    seeds = [*range(PAIRED), 0]
    paths = [save_cone(work / f"{n}.cone", concept(f"dog {n}", f"x{n}", seed=seed)) for n, seed in enumerate(seeds)]
    done = cones("merge", *paths, "-o", "all.cone", "--json")
    assert done.json["overlap"] is None
    assert (done.json["shared"]["dog 0"], len(done.json["shared"])) == (concept().neurons, len(seeds))
    told = cones("merge", *paths, "-o", "all.cone", "--overwrite").err
    assert f"shares {concept().neurons:,} with others" in told
    assert " and " not in told


def test_merge_needs_two_files(cones: Cones, dog: Path) -> None:
    """One file alone is a mistake."""
    done = cones("merge", "dog.cone")
    assert done.code == 2
    assert "expected two or more" in done.err


def test_merge_refuses_equal_names_and_identifiers(cones: Cones, dog: Path, work: Path) -> None:
    """Two concepts of one name, or with one identifier, cannot be told apart in a prompt."""
    save_cone(work / "other.cone", concept("dog", "zwx", seed=3))
    save_cone(work / "same.cone", concept("hat", "sks", seed=3))
    for other, what in (("other.cone", "the name 'dog'"), ("same.cone", "the identifier 'sks'")):
        done = cones("merge", "dog.cone", other)
        assert done.code == 2
        assert "dog of dog.cone and " in done.err and f" of {other}: " in done.err
        assert what in done.err


def test_merge_names_the_files_of_different_base_models(cones: Cones, dog: Path, work: Path) -> None:
    """Not the concepts, which may have one name; and it says once that they differ."""
    other = concept("dog", "sks", seed=3)
    save_cone(work / "other.cone", replace(other, base=base("sd15", 1)))
    done = cones("merge", "dog.cone", "other.cone")
    assert done.code == 5
    assert done.err.startswith("error: dog.cone and other.cone do not share a base model (toy, sd15): ")
    assert done.err.splitlines()[0].count("different") == 1


def test_merge_says_what_counts_once(cones: Cones, dog: Path, hat: Path, work: Path) -> None:
    """A file that was named twice, and a concept that is in two files."""
    assert "note: dog.cone is named 2 times\n" in cones("merge", "dog.cone", "dog.cone", "-o", "x.cone").err
    cones("merge", "dog.cone", "hat.cone")
    done = cones("merge", "dog+hat.cone", "dog.cone", "-o", "y.cone")
    assert "note: dog is in dog+hat.cone and dog.cone, and is taken once\n" in done.err
    assert "note" not in cones("merge", "dog.cone", "hat.cone", "-o", "z.cone").err


def test_extract_gives_the_original_back(cones: Cones, dog: Path, hat: Path) -> None:
    """Merge, then extract, is byte for byte the file that went in."""
    cones("merge", "dog.cone", "hat.cone")
    done = cones("extract", "dog+hat.cone", "HAT", "-o", "back.cone")
    assert (done.code, done.lines) == (0, ["back.cone"])
    assert Path("back.cone").read_bytes() == hat.read_bytes()


def test_extract_names_what_is_there(cones: Cones, dog: Path) -> None:
    """An unknown name lists the known ones."""
    done = cones("extract", "dog.cone", "cat")
    assert done.code == 2
    assert "dog" in done.err


def test_diff_of_equal_files_is_zero(cones: Cones, dog: Path) -> None:
    """No difference, exit code 0, nothing on stdout."""
    done = cones("diff", "dog.cone", "dog.cone")
    assert (done.code, done.out) == (0, b"")


def test_diff_exits_with_one(cones: Cones, dog: Path, hat: Path) -> None:
    """Differences in indices are counted per layer."""
    done = cones("diff", "dog.cone", "hat.cone", "--json")
    assert done.code == 1
    total = done.json["total"]
    assert total["only_a"] + total["both"] == concept().neurons
    assert sum(layer["only_a"] for layer in done.json["layers"].values()) == total["only_a"]


def test_diff_sees_metadata_alone(cones: Cones, dog: Path, work: Path) -> None:
    """Same indices, another note: different, and the note is named."""
    save_cone(work / "noted.cone", concept("dog", "sks", notes="by night"))
    done = cones("diff", "dog.cone", "noted.cone", "--json")
    assert done.code == 1
    assert done.json["metadata"] == [{"key": "dog.origin.notes", "a": None, "b": "by night"}]


def test_diff_fits_a_screen(cones: Cones, dog: Path, work: Path) -> None:
    """Names of both, four digits, a map in one line; layers only on request."""
    losses = Losses(held_out_before=0.2, held_out_after=0.1234567890123, random_after=0.2)
    save_cone(work / "fox.cone", concept("fox", "zwx", seed=1, losses=losses, versions={"torch": "2"}))
    done = cones("diff", "dog.cone", "fox.cone")
    lines = [" ".join(line.split()) for line in done.err.splitlines()]
    assert lines[0] == "A is dog.cone, B is fox.cone"
    assert "class_noun dog -> fox" in lines and "name dog -> fox" in lines
    (told,) = [line for line in lines if line.startswith("losses")]
    assert told.startswith("losses held out after 0.15 -> 0.1235") and "class" not in told and len(told) < 70
    assert "attn" not in done.err and "self" not in done.err
    assert len(done.err.splitlines()) < 24 and not re.search(r"\d\.\d{5}", done.err)
    assert "down.0.0.0 self" in cones("diff", "dog.cone", "fox.cone", "--layers").err


def test_diff_says_which_file_has_a_concept(cones: Cones, dog: Path, hat: Path) -> None:
    """Of several."""
    cones("merge", "dog.cone", "hat.cone")
    assert re.search(r"hat +only in B\n", cones("diff", "dog.cone", "dog+hat.cone").err)
    assert re.search(r"hat +only in A\n", cones("diff", "dog+hat.cone", "dog.cone").err)


def test_layers_are_shown_on_request(cones: Cones, dog: Path) -> None:
    """They are longer than all the rest."""
    assert "down.0.0.0" not in cones("inspect", "dog.cone").err
    assert "down.0.0.0 self" in cones("inspect", "dog.cone", "--layers").err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--revision", "main", "--offline"), "--revision has no effect without --model"),
        (("--config", "x"), "--config has no effect without --model"),
        (("--overwrite",), "--overwrite has no effect without --plot"),
    ],
)
def test_inspect_says_which_options_change_nothing(
    cones: Cones, dog: Path, options: tuple[str, ...], named: str
) -> None:
    """Rather than leave somebody to believe that they did."""
    done = cones("inspect", "dog.cone", *options)
    assert done.code == 0
    assert f"warning: {named}\n" in done.err


def test_json_leaves_the_report_to_stdout(cones: Cones, dog: Path, hat: Path) -> None:
    """stderr keeps warnings; with -v people read both."""
    for command in (("inspect", "dog.cone"), ("diff", "dog.cone", "hat.cone"), ("doctor",)):
        assert cones(*command, "--json").err == ""
    assert "base model: toy" in cones("inspect", "dog.cone", "--json", "-v").err


def test_a_missing_value_names_the_help_of_its_command(cones: Cones, dog: Path) -> None:
    """click does not know yet whose option it is."""
    for command in ("render", "find", "inspect"):
        done = cones(command, "dog.cone", "--model")
        assert done.code == 2
        assert done.err.splitlines()[-1] == f"  see cones {command} --help"


def test_inspect_tells_what_matters(cones: Cones, dog: Path) -> None:
    """Prompt, neurons, losses, base model and size are on stderr; stdout stays empty."""
    done = cones("inspect", "dog.cone")
    assert (done.code, done.out) == (0, b"")
    for text in ("a photo of a sks dog", "0.2000 -> 0.1500", "-25.0 %", "base model: toy", "LoRA", "Custom Diffusion"):
        assert text in done.err


def test_inspect_says_what_the_losses_were_measured_on(cones: Cones, work: Path) -> None:
    """Photos that were held out, or, where there were too few, new crops of the same ones."""
    save_cone(work / "few.cone", concept(held_out=0))
    save_cone(work / "many.cone", concept(held_out=1))
    few, many = cones("inspect", "few.cone").err, cones("inspect", "many.cone").err
    assert "new crops" in few and "held-out photos" not in few
    assert "held-out photos" in many and "1 held out" in many


def test_inspect_json_is_a_list_of_files(cones: Cones, dog: Path, hat: Path) -> None:
    """One object per file, with layers that add up."""
    done = cones("inspect", "dog.cone", "hat.cone", "--json")
    assert [record["file"] for record in done.json] == ["dog.cone", "hat.cone"]
    found = done.json[0]["concepts"][0]
    assert sum(layer["neurons"] for layer in found["layers"]) == found["neurons"] == concept().neurons
    assert done.json[0]["bytes"] == dog.stat().st_size


def test_inspect_compares_with_lora_and_custom_diffusion(cones: Cones, dog: Path) -> None:
    """Sizes by hand: rank 4 factors of every K/V weight, and all of cross-attention, two bytes each."""
    lora = 2 * 4 * (2 * (32 + 32) + 2 * (32 + 64))
    assert cones("inspect", "dog.cone", "--json").json[0]["alternatives_bytes"] == {
        "lora": lora,
        "custom_diffusion": 2 * 2 * 32 * 64,
    }


def test_inspect_reads_the_header_alone(cones: Cones, dog: Path) -> None:
    """A damaged payload does not disturb it: nothing of it is decoded."""
    data = bytearray(dog.read_bytes())
    data[-1] ^= 1
    dog.write_bytes(data)
    assert cones("inspect", "dog.cone").code == 0
    assert cones("extract", "dog.cone", "dog", "-o", "x.cone").code == 4


def test_inspect_draws_the_layer_map(cones: Cones, dog: Path) -> None:
    """A PNG with a row per layer; its path is on stdout."""
    done = cones("inspect", "dog.cone", "--plot", "map.png")
    assert done.lines == ["map.png"]
    with Image.open("map.png") as image:
        assert image.format == "PNG"
        assert len(image.getcolors(1 << 16) or []) > 8


def test_control_characters_of_a_file_never_reach_the_terminal(cones: Cones, work: Path) -> None:
    """Escapes in notes are dropped on screen and escaped in JSON."""
    save_cone(work / "evil.cone", concept(notes="\x1b]0;owned\x07\x9b31m\u202e[bold]x[/bold]"))
    assert not set(cones("inspect", "evil.cone").err) & set("\x1b\x07\x9b\u202e")
    assert not set(cones("inspect", "evil.cone", "--json").out.decode()) & set("\x1b\x07\x9b\u202e")


def test_folder_is_no_cone(cones: Cones, work: Path) -> None:
    """A folder given as .cone is refused as a file of another format."""
    (work / "folder.cone").mkdir()
    for command in (
        ("inspect", "folder.cone"),
        ("extract", "folder.cone", "x"),
        ("merge", "folder.cone", "folder.cone"),
    ):
        done = cones(*command)
        assert done.code == 4
        assert "is a folder" in done.err


@pytest.mark.parametrize("damage", ["truncated", "flipped", "later"])
def test_damaged_files_exit_with_four(cones: Cones, dog: Path, damage: str) -> None:
    """Truncated, bit-flipped, or of a later version: named, and never a traceback."""
    data = bytearray(dog.read_bytes())
    if damage == "truncated":
        del data[len(data) // 2 :]
    elif damage == "flipped":
        data[HEADER_FLIP] ^= 4
    else:
        data[8] += 1
    dog.write_bytes(data)
    done = cones("inspect", "dog.cone")
    assert done.code == 4
    assert done.err.startswith("error: dog.cone: ")
    assert "Traceback" not in done.err


def test_existing_output_needs_force(cones: Cones, dog: Path, hat: Path) -> None:
    """What is there stays, unless --overwrite."""
    Path("out.cone").write_bytes(b"precious")
    done = cones("merge", "dog.cone", "hat.cone", "-o", "out.cone")
    assert done.code == 2
    assert "--overwrite" in done.err
    assert Path("out.cone").read_bytes() == b"precious"
    assert cones("merge", "dog.cone", "hat.cone", "-o", "out.cone", "--overwrite").code == 0
    assert cones_format.load("out.cone").names == ("dog", "hat")


def test_missing_output_folder_is_refused(cones: Cones, dog: Path, hat: Path) -> None:
    """No folder is made up."""
    assert cones("merge", "dog.cone", "hat.cone", "-o", "no/where.cone").code == 2


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write")
def test_unwritable_output_is_refused(cones: Cones, dog: Path, hat: Path) -> None:
    """A folder in which no file can be made: exit code 2 and the path, not a traceback."""
    done = cones("merge", "dog.cone", "hat.cone", "-o", "/proc/out.cone")
    assert done.code == 2
    assert done.err.startswith("error: /proc/out.cone: ")


def test_json_and_bytes_cannot_share_stdout(cones: Cones, dog: Path, hat: Path) -> None:
    """-o - with --json is a contradiction, and says so."""
    done = cones("merge", "dog.cone", "hat.cone", "-o", "-", "--json")
    assert (done.code, done.out) == (2, b"")


def test_quiet_prints_the_product_alone(cones: Cones, dog: Path, hat: Path) -> None:
    """With -q, before or after the command, stderr is empty."""
    first = cones("merge", "-q", "dog.cone", "hat.cone")
    second = cones("-q", "merge", "dog.cone", "hat.cone", "--overwrite")
    assert (first.err, second.err) == ("", "")
    assert first.lines == second.lines == ["dog+hat.cone"]


def test_inspect_verbose_splits_k_and_v(cones: Cones, dog: Path) -> None:
    """-v shows K and V of every layer."""
    assert "cross K" in cones("inspect", "-v", "dog.cone").err


def test_doctor_json_holds_what_a_report_needs(cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices, dtypes, versions, memory, cache; folders of the home are shortened."""
    monkeypatch.setenv("CONES_PATH", str(Path.home() / "secret" / "cones"))
    done = cones("doctor", "--json", "-q")
    assert done.code == 0
    assert done.json["devices"][0]["device"] == "cpu"
    assert "float32" in done.json["devices"][0]["dtypes"]
    assert {"torch", "diffusers", "conestool"} <= done.json["versions"].keys()
    assert done.json["environment"]["CONES_PATH"].startswith("~")
