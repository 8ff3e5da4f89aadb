"""`cones render`, `apply` and `inspect --model` on concepts that `find` wrote."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from conestool import format as cones_format
from conestool.concept import Cone
from conestool.errors import InputError
from conestool.models.model import Model
from conestool.rendering import read_record, read_sheet
from tests.support.command_line import ROOT, Cones, concept, environment, save_cone
from tests.support.photos import pixels
from tests.support.tiny_models import random_cone

pytestmark = pytest.mark.usefixtures("here")
QUICK = ("--steps", "1")


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Put bytes on stdin."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_render_finds_concepts_by_the_words_of_the_prompt(cones: Cones) -> None:
    """Both files are used, the prompt is rewritten, and the picture says so."""
    done = cones("render", "a dog in a hat")
    assert (done.code, done.lines) == (0, ["a-dog-in-a-hat.png"])
    assert "dog.cone, hat.cone: " in done.err
    record = read_record("a-dog-in-a-hat.png")
    names = {used["name"]: used["identifier"] for used in record["concepts"]}
    assert names.keys() == {"dog", "hat"}
    assert record["sent"] == f"a {names['dog']} dog in a {names['hat']} hat"
    assert record["sent"] in done.err


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a cat", "note: 'a cat' names no concept; here are: dog, hat"),
        ("a dgo", "note: 'a dgo' names no concept; did you mean dog? here are: dog, hat"),
    ],
)
def test_render_says_what_there_is_if_nothing_is_named(cones: Cones, prompt: str, told: str) -> None:
    """The base model draws it all the same, unless --require; with -c the file's own concepts are meant."""
    done = cones("render", prompt, *QUICK)
    assert done.code == 0 and told in done.err.splitlines()
    refused = cones("render", prompt, "--require")
    assert refused.code == 3
    assert refused.err.splitlines() == [f"error: {prompt!r} names no concept", f"  {told.split('; ')[1]}"]
    assert cones("render", prompt, "--require", "-c", "dog.cone").code == 3
    assert cones("render", "two dogs", "--require", *QUICK).code == 0
    assert "names no concept" not in cones("render", prompt, "--no-cones", *QUICK).err


def test_render_without_any_concept_says_so(cones: Cones, here: Path) -> None:
    for file in here.glob("*.cone"):
        file.unlink()
    assert "there is no .cone file here or in $CONES_PATH" in cones("render", "a dog", *QUICK).err


@pytest.mark.parametrize("prompt", ["a [dog]", 'a "dog"', "(dog)", "a dog's cap", "«dog»", "a dog—asleep"])
def test_signs_around_a_name_do_not_hide_it(cones: Cones, prompt: str) -> None:
    """Neither from the search for files nor from the note on concepts that are not named."""
    done = cones("render", prompt, "-c", "dog.cone", *QUICK)
    assert done.code == 0 and "does not name it" not in done.err
    assert "dog.cone: " in cones("render", prompt, *QUICK).err


def test_render_reads_prompts_from_a_file_and_from_stdin(cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line with its own seed, negative prompt, strength and concepts; comments and empty lines are no pictures."""
    lines = (
        "# two subjects\n\na dog --seed 7 --strength 0.5\na red hat --negative a dog\nat night --cone dog.cone:0.25\n"
    )
    Path("prompts.txt").write_text(lines)
    done = cones("render", "--prompts", "prompts.txt", "-o", "out/", "--json", *QUICK)
    assert done.code == 0, done.err
    assert [record["file"] for record in done.json] == ["out/1-a-dog.png", "out/2-a-red-hat.png", "out/3-at-night.png"]
    told = [
        (record["seed"], record["negative"], [(used["name"], used["strength"]) for used in record["concepts"]])
        for record in done.json
    ]
    assert told == [(7, "", [("dog", 0.5)]), (0, "a dog", [("hat", 1.0)]), (0, "", [("dog", 0.25)])]
    assert cones("render", "@prompts.txt").code == 2
    feed(monkeypatch, b"a dog\n\n a red hat \na cat\n")
    done = cones("render", "-", "-o", "in/", "--json", *QUICK)
    assert [record["file"] for record in done.json] == ["in/1-a-dog.png", "in/2-a-red-hat.png", "in/3-a-cat.png"]
    assert [[used["name"] for used in record["concepts"]] for record in done.json] == [["dog"], ["hat"], []]
    assert all(Path(record["file"]).is_file() for record in done.json)


def test_render_says_what_changes_no_picture(cones: Cones, model: Path) -> None:
    """A negative prompt without guidance, and options of other models and modes."""
    done = cones("render", "a dog", "--guidance", "1", "--negative", "grass", "--json", *QUICK)
    assert "warning: the negative prompt has no effect" in done.err
    assert done.json[0]["negative"] == ""
    odd = cones("render", "a dog", "--revision", "main", "--config", "x", "--no-cones", "--literal", *QUICK).err
    for text in (f"--revision has no effect on {model}", f"--config has no effect on {model}", "--literal has no"):
        assert f"warning: {text}" in odd
    assert "warning" not in cones("render", "a dog", "--negative", "grass", *QUICK).err


def test_render_says_what_it_does_not_understand_and_what_is_cut(cones: Cones) -> None:
    """The syntax of other programs, once, however many prompts have it; of a long prompt the rest is quoted."""
    done = cones("render", "a (dog:1.2)", "a (dog:1.2) BREAK", *QUICK, "-o", "out/")
    assert done.err.count("warning") == 1
    assert "warning: (dog:1.2), BREAK: syntax of other programs" in done.err
    done = cones("render", " ".join(["a dog"] * 20 + ["on the beach"]), "--no-cones", *QUICK)
    assert done.code == 0 and "warning: the prompt is too long" in done.err
    assert done.err.count("on the beach") == 2


def test_the_base_models_column_gets_the_class_noun(cones: Cones, work: Path, model: Path) -> None:
    """And it says so; the other column tells the strength."""
    rex = random_cone(Model.from_pretrained(str(model)), "rex")
    cones_format.save(Cone((replace(rex["rex"], class_noun="dog"),)), work / "rex.cone")
    done = cones("render", "a photo of rex", "--compare", "-c", "rex.cone:0.5", "--json", "-v", *QUICK)
    assert [record["sent"] for record in done.json[0]["pictures"]] == ["a photo of a dog", "a photo of a sks dog"]
    assert "base model: a photo of a dog" in done.err
    assert read_sheet(done.json[0]["file"])["columns"] == ["base model", "rex 0.5"]


@pytest.mark.parametrize("options", [("--grid", "-n", "2"), ("--compare",), ("--grid",)])
def test_render_repeats_a_sheet(cones: Cones, options: tuple[str, ...]) -> None:
    """All its pictures, with their labels, byte for byte; the seed of a sheet is not one number."""
    cones("render", "a dog", "a hat", "-o", "sheet.png", *options, "--steps", "2")
    done = cones("render", "--from", "sheet.png", "-o", "again.png")
    assert (done.code, done.lines) == (0, ["again.png"]), done.err
    assert Path("again.png").read_bytes() == Path("sheet.png").read_bytes()
    assert cones("render", "--from", "sheet.png", "-o", "x.png", "--seed", "3").code == 2
    with pytest.raises(InputError, match=r"sheet\.png: a sheet of [24] pictures"):
        read_record("sheet.png")


def test_render_repeats_a_picture(cones: Cones) -> None:
    """--from draws the identical file; a changed seed draws another."""
    cones("render", "a dog in a hat", "--seed", "5", "-o", "one.png")
    done = cones("render", "--from", "one.png", "-o", "two.png")
    assert (done.code, done.lines) == (0, ["two.png"])
    cones("render", "--from", "one.png", "--seed", "6", "-o", "three.png")
    one, two, three = (Path(f"{name}.png").read_bytes() for name in ("one", "two", "three"))
    assert one == two != three


def test_regions_are_recorded_and_repeated(cones: Cones) -> None:
    """Another picture than without, the same one from its record, and a prompt's concepts must all be named."""
    draw = ("render", "a dog in a hat", *QUICK, "-o")
    assert cones(*draw, "plain.png").code == 0
    done = cones(*draw, "apart.png", "--regions", "--batch", "2")
    assert done.code == 0 and "--batch" in done.err
    assert read_record("apart.png")["regions"] is True and read_record("plain.png")["regions"] is False
    assert Path("apart.png").read_bytes() != Path("plain.png").read_bytes()
    assert cones("render", "--from", "apart.png", "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("apart.png").read_bytes()
    assert cones("render", "--from", "plain.png", "--regions", "-o", "later.png").code == 0
    assert Path("later.png").read_bytes() == Path("apart.png").read_bytes()
    refused = cones("render", "a dog", "-c", "dog.cone", "-c", "hat.cone", "--regions", "-o", "none.png")
    assert refused.code == 3 and "does not name hat" in refused.err and not Path("none.png").exists()


def test_regions_without_concepts_change_nothing(cones: Cones) -> None:
    """Neither with --no-cones, which says so, nor in the base model's column of a sheet."""
    assert cones("render", "a dog", *QUICK, "--no-cones", "-o", "a.png").code == 0
    told = cones("render", "a dog", *QUICK, "--no-cones", "--regions", "-o", "b.png")
    assert told.code == 0 and "--regions" in told.err
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert cones("render", "a dog", *QUICK, "--compare", "--regions", "-o", "c.png").code == 0
    assert [each["regions"] for each in read_sheet("c.png")["pictures"][0]] == [False, True]


def test_render_without_concepts_differs(cones: Cones) -> None:
    """--no-cones draws with the base model, strength 0 too, given the same words; full strength differs."""
    drawn = [
        pixels(cones("render", "a dog", *words, "-o", "-").out)
        for words in (("--no-cones",), ("--literal", "-c", "dog.cone:0"), ("--literal", "-c", "dog.cone"))
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.skipif(os.name != "posix", reason="needs sh")
def test_merge_pipes_into_render(cones: Cones, here: Path) -> None:
    """As the manual has it, typed into a shell; it is the picture that the files give."""
    (here / "cones").write_text(f'#!/bin/sh\nexec {sys.executable} -m conestool "$@"\n')
    (here / "cones").chmod(0o755)
    env = environment(PYTHONPATH=str(ROOT), CONES_MODEL=os.environ["CONES_MODEL"], PATH=f"{here}:{os.environ['PATH']}")
    line = 'cones merge dog.cone hat.cone -o - | cones render "a dog in a hat" -c - -o -'
    done = subprocess.run(["sh", "-c", line], cwd=here, env=env, capture_output=True, timeout=200, check=True)
    assert done.stdout == cones("render", "a dog in a hat", "-c", "dog.cone", "-c", "hat.cone", "-o", "-").out


def test_render_never_overwrites(cones: Cones) -> None:
    """A default name gives way to the next free one."""
    names = [cones("render", "a dog", *QUICK).lines[0] for _ in range(2)]
    assert names == ["a-dog.png", "a-dog-2.png"]
    assert cones("render", "a dog", *QUICK, "--overwrite").lines == ["a-dog.png"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("", "--no-cones"), 3, "prompt"),
        ((" \t", "--no-cones"), 3, "prompt"),
        (("--no-cones",), 3, "prompt"),
        (("a dog", "-o", "mine.png"), 2, "exists already"),
        (("a dog", "-n", "4", "-o", "x.png"), 2, "4 pictures"),
        (("a dog", "-n", "4", "-o", "-"), 2, "4 pictures"),
        (("a dog", "--no-cones", "--compare"), 2, "--compare"),
        (("a dog", "--no-cones", "--require"), 2, "--require"),
        (("a cap",), 2, "cap.cone and other.cone"),
    ],
)
def test_render_refuses_before_a_model_is_loaded(
    cones: Cones, here: Path, words: tuple[str, ...], code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written over; of two files with one name both are listed."""
    monkeypatch.setenv("CONES_MODEL", "nowhere")
    Path("mine.png").write_bytes(b"precious")
    save_cone(here / "cap.cone", concept("cap", "zwx"))
    save_cone(here / "other.cone", concept("cap", "qyx", seed=1))
    done = cones("render", *words)
    assert done.code == code and message in done.err
    assert Path("mine.png").read_bytes() == b"precious"


def test_another_base_model_is_refused(
    cones: Cones, model: Path, v_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `render` unless --allow-base-mismatch, by `inspect` too; where there is none, --model is the hint."""
    command = ("render", "a dog", "--model", str(v_folder), *QUICK)
    assert cones(*command).code == 5
    assert cones(*command, "--allow-base-mismatch").code == 0
    fits = cones("inspect", "dog.cone", "--model", str(model), "--json")
    assert (fits.code, fits.json[0]["model_check"]["fits"]) == (0, True)
    assert cones("inspect", "dog.cone", "--model", str(v_folder)).code == 5
    monkeypatch.delenv("CONES_MODEL")
    done = cones("render", "a dog")
    assert done.code == 2 and "--model" in done.err


def test_apply_writes_one_file(cones: Cones) -> None:
    """A .safetensors with the denoiser, in which the concept's weights are zero."""
    done = cones("apply", "dog.cone", "hat.cone:0.5", "-o", "unet.safetensors", "--as", "denoiser", "--json")
    assert [used["strength"] for used in done.json["concepts"]] == [1.0, 0.5]
    weights = load_file("unet.safetensors")
    (dog,) = cones_format.load("dog.cone").concepts
    assert all((weights[param].reshape(-1)[values] == 0).all() for param, values in dog.indices.items())
    assert cones("apply", "dog.cone", "-o", "unet.safetensors").code == 2


def test_apply_writes_a_lora_and_says_what_it_keeps(cones: Cones) -> None:
    """The kept energy is on stderr, in the JSON and in the file, and a larger rank keeps more."""
    told = cones("apply", "dog.cone", "-o", "dog.safetensors", "--as", "lora", "--rank", "2").err
    assert "a LoRA of rank 2, an approximation" in told and "of the energy of the weight change" in told
    few, all_of_it = (
        cones("apply", "dog.cone", "-o", "dog.safetensors", "--as", "lora", "--json", "--overwrite", *more).json
        for more in (("--rank", "2"), ())
    )
    assert few["energy"] < all_of_it["energy"] == pytest.approx(1)
    with safe_open("dog.safetensors", "pt") as file:
        assert json.loads(file.metadata()["cones_approximation"])["rank"] == all_of_it["rank"]


def test_apply_writes_a_sidecar_if_asked(cones: Cones, here: Path) -> None:
    """Beside the file, and named with it; what is there already stays, before any work."""
    command = ("apply", "dog.cone", "-o", "sks.safetensors", "--as", "lora", "--sidecar")
    assert cones(*command).lines == ["sks.safetensors", "sks.json"]
    (dog,) = cones_format.load("dog.cone").concepts
    assert json.loads((here / "sks.json").read_text())["activation text"] == dog.phrase
    (here / "sks.safetensors").unlink()
    assert cones(*command).code == 2 and not (here / "sks.safetensors").exists()
    assert cones(*command, "--overwrite", "--json").json["sidecar"] == "sks.json"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-o", "x.safetensors", "--as", "folder"), "leave out .safetensors"),
        (("-o", "x", "--as", "lora"), "name it x.safetensors"),
        (("-o", "x", "--rank", "4"), "--as lora"),
        (("-o", "x.safetensors", "--link"), "--link"),
        (("-o", "-"), "stdout"),
        (("-o", "x.ckpt"), "name it x.safetensors"),
        (("-o", "x.SFT"), "name it x.safetensors"),
        (("-o", "x.pt", "--as", "folder"), "without an ending"),
        (("-o", "x.cone", "--as", "lora"), "name it x.safetensors"),
        (("-o", "x", "--sidecar"), "--sidecar"),
        (("-o", "x.safetensors"), "AutoencoderTiny"),
    ],
)
def test_apply_refuses_contradictions(cones: Cones, here: Path, options: tuple[str, ...], words: str) -> None:
    """And a checkpoint that no program could load; nothing is written."""
    done = cones("apply", "dog.cone", *options)
    assert done.code == 2 and words in done.err
    assert "AutoencoderTiny" not in words or "diffusers folder" in done.err
    assert not [item for item in here.iterdir() if item.name.startswith("x")]
