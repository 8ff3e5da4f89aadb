"""find, render and apply from end to end, on a small random base model."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from conestool import format as cones_format
from conestool.concept import Cone
from conestool.errors import InputError
from conestool.rendering import read_record, read_sheet
from tests.support.command_line import Cones, concept, save_cone
from tests.support.tiny_models import random_cone

SHORT = ("--num-class-images", "4", "--steps", "4", "--density", "0.02", "--device", "cpu")
FIND = (*SHORT, "--no-sheet", "--captions", "none", "--other-class-weight", "0")


@pytest.fixture(autouse=True)
def model(epsilon_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The base model of every command here, through CONES_MODEL."""
    monkeypatch.setenv("CONES_MODEL", str(epsilon_folder))
    return epsilon_folder


@pytest.fixture(scope="session")
def found(epsilon_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """dog.cone and hat.cone as `find` writes them, found once for all tests."""
    from conestool.cli.main import run

    place = tmp_path_factory.mktemp("found")
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setenv("CONES_MODEL", str(epsilon_folder))
        context.setenv("CONES_CACHE", str(place / "cache"))
        for name, colour in (("dog", "teal"), ("hat", "red")):
            draw_photos(place / name, colour)
            assert run(["find", str(place / name), "-o", str(place / f"{name}.cone"), "-q", *FIND]) == 0
    return place / "dog.cone", place / "hat.cone"


@pytest.fixture
def here(found: tuple[Path, Path], work: Path, cones: Cones) -> Path:
    """The folder of the run, with copies of dog.cone and hat.cone."""
    for file in found:
        (work / file.name).write_bytes(file.read_bytes())
    return work


def draw_photos(folder: Path, colour: str, count: int = 3) -> Path:
    """A folder of small pictures."""
    folder.mkdir()
    for number in range(count):
        image = Image.new("RGB", (40, 36 + number), "white")
        image.paste(colour, (8, 8 + number, 30, 30))
        image.save(folder / f"{number}.png")
    return folder


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG."""
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def test_find_names_the_concept_after_the_output(found: tuple[Path, Path]) -> None:
    """dog.cone holds a dog called dog, with prompts, losses and the density asked for."""
    (dog,) = cones_format.load(found[0]).concepts
    assert (dog.name, dog.class_noun) == ("dog", "dog")
    assert dog.origin.instance_prompt == f"a photo of a {dog.identifier} dog"
    assert dog.density == pytest.approx(0.02, rel=0.05)
    assert dog.origin.losses is not None


def test_find_reports_on_stderr_and_leaves_no_state(cones: Cones, work: Path) -> None:
    """stdout has the path; stderr has photos, class images, neurons, losses and sizes; no .checkpoint file stays."""
    draw_photos(work / "photos", "teal")
    (work / "photos" / "list.txt").write_text("not an image")
    done = cones("find", "./photos", "-o", "dog.cone", *SHORT)
    assert (done.code, done.lines) == (0, ["dog.cone"])
    for text in ("3 photos of 'dog'", "list.txt", "class images: 4", "neurons", "random indices", "class: dog", "LoRA"):
        assert text in done.err
    assert re.search(r"verdict +(clear|weak|none)[:,] ", done.err)
    assert done.err.splitlines()[-2:] == [
        "sheet: dog-sheet.png",
        "next: cones render 'a dog on the beach' --compare",
    ]
    with Image.open("dog-sheet.png") as sheet:
        assert sheet.width > 3 * 256 and sheet.height > 4 * 256
    assert [path.name for path in work.glob("*.checkpoint")] == []


def test_find_says_how_to_use_a_file_elsewhere(cones: Cones, work: Path) -> None:
    """By a command that can be copied; without it there is no sheet, and an old one is not in the way."""
    draw_photos(work / "dog", "teal")
    (work / "my files").mkdir()
    (work / "my files" / "rex-sheet.png").write_bytes(b"precious")
    taken = cones("find", "dog", "-o", "my files/rex.cone", "--class-noun", "dog", *SHORT)
    assert taken.code == 2 and "rex-sheet.png: exists already" in taken.err
    done = cones("find", "dog", "-o", "my files/rex.cone", "--class-noun", "dog", *FIND, "--json", "-v")
    assert done.err.splitlines()[-1] == "next: cones render 'a rex on the beach' -c 'my files/rex.cone' --compare"
    assert done.json["sheet"] is None
    assert (work / "my files" / "rex-sheet.png").read_bytes() == b"precious"


def test_find_can_be_watched(cones: Cones, work: Path) -> None:
    """A strip of samples that grows, a log, and a report with both; an old strip is not in the way unseen."""
    draw_photos(work / "dog", "teal")
    watched = ("find", "dog", *FIND, "--samples", "2", "--track", "jsonl", "--report")
    done = cones(*watched)
    assert done.code == 0 and "report: dog-report.html" in done.err, done.err
    with Image.open("dog-samples.png") as strip:
        assert 3 * 256 < strip.width < 4 * 256
    lines = [json.loads(line) for line in Path("dog-log/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4] and "dog/held_out_after" in lines[-1]
    page = Path("dog-report.html").read_text(encoding="utf-8")
    assert "What the model drew meanwhile" in page and "photo 1" not in page and "polyline" in page
    Path("dog.cone").unlink()
    assert "exists already" in cones(*watched).err
    assert cones("find", "dog", *FIND, "--samples", "2", "-o", "-").code == 2


def test_a_preview_comes_before_the_search(cones: Cones, work: Path) -> None:
    """Captions from text files, advice, one picture, and nothing else."""
    draw_photos(work / "dog", "teal")
    (work / "dog" / "1.txt").write_text("at night")
    done = cones("find", "dog", "--preview", "--captions", "given", "--device", "cpu", "--json", "-v")
    assert done.code == 0, done.err
    assert [each["caption"] for each in done.json["photos"]] == ["", "at night", ""]
    assert "0.txt beside 0.png" in done.err and "nearly the same as 0.png" in done.err
    assert sorted(path.name for path in work.iterdir()) == ["dog", "dog-preview.png"]


def test_find_takes_a_list_on_stdin(cones: Cones, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ls photos/*.png | cones find - -o dog.cone -o -`; the bytes go to stdout."""
    files = sorted(draw_photos(work / "photos", "teal").iterdir())
    feed(monkeypatch, "\n".join(map(str, files)).encode())
    done = cones("find", "-", "--class-noun", "dog", "--notes", "by lamp", "-o", "-", *FIND)
    assert done.code == 0
    (dog,) = cones_format.loads(done.out).concepts
    assert (len(dog.origin.photos), dog.origin.notes) == (3, "by lamp")


def test_find_with_class_images_of_a_folder(cones: Cones, work: Path) -> None:
    """A folder replaces what the model would draw; no class image is drawn."""
    draw_photos(work / "dog", "teal")
    draw_photos(work / "others", "brown", 5)
    done = cones("find", "dog", "--class-images", "others", *FIND)
    assert (done.code, done.lines) == (0, ["dog.cone"])
    assert "class images" not in done.err
    assert "warning: --num-class-images has no effect with --class-images\n" in done.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no photo"),
        (b"just text", "a.jpg"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01", "a.jpg"),
    ],
    ids=["no photos", "text as photo", "truncated"],
)
def test_find_refuses_what_is_no_photo(cones: Cones, work: Path, content: bytes | None, words: str) -> None:
    """Exit code 3 and the file's name, before a model is loaded."""
    (work / "dog").mkdir()
    if content is not None:
        (work / "dog" / "a.jpg").write_bytes(content)
    done = cones("find", "dog")
    assert done.code == 3
    assert words in done.err


def test_find_refuses_a_single_pixel(cones: Cones, work: Path) -> None:
    """A 1x1 image is no photo."""
    (work / "dog").mkdir()
    Image.new("RGB", (1, 1)).save(work / "dog" / "dot.png")
    done = cones("find", "dog")
    assert done.code == 3
    assert "dot.png" in done.err


def test_find_skips_broken_photos_if_told(cones: Cones, work: Path) -> None:
    """Without --skip-broken an error that names the file, with it a note."""
    draw_photos(work / "dog", "teal")
    (work / "dog" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    refused = cones("find", "dog", *FIND)
    assert refused.code == 3
    assert "bad.jpg" in refused.err
    done = cones("find", "dog", "--skip-broken", *FIND)
    assert done.code == 0
    assert "bad.jpg" in done.err


def test_find_checks_the_output_before_the_work(cones: Cones, work: Path) -> None:
    """An existing file is refused at once, without a stage of the search having begun."""
    draw_photos(work / "dog", "teal")
    (work / "dog.cone").write_bytes(b"precious")
    done = cones("find", "dog", *FIND)
    assert done.code == 2
    assert "class images" not in done.err
    assert (work / "dog.cone").read_bytes() == b"precious"


def test_find_refuses_an_unknown_device(cones: Cones, work: Path) -> None:
    """Exit code 6."""
    draw_photos(work / "dog", "teal")
    assert cones("find", "dog", "--device", "quantum").code == 6


def test_find_refuses_a_model_that_is_not_there(cones: Cones, work: Path) -> None:
    """A path that does not exist is never taken for a Hub id."""
    draw_photos(work / "dog", "teal")
    done = cones("find", "dog", "--model", "./no-such-model")
    assert done.code == 2
    assert done.err.splitlines()[0] == "error: ./no-such-model: no such model"


def test_render_finds_concepts_by_the_words_of_the_prompt(cones: Cones, here: Path) -> None:
    """Both files are used, the prompt is rewritten, and the picture says so."""
    done = cones("render", "a dog in a hat")
    assert (done.code, done.lines) == (0, ["a-dog-in-a-hat.png"])
    assert "dog.cone, hat.cone: " in done.err
    with Image.open("a-dog-in-a-hat.png") as image:
        record = json.loads(image.text["cones"])  # type: ignore[attr-defined]
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
def test_render_says_what_there_is_if_nothing_is_named(cones: Cones, here: Path, prompt: str, told: str) -> None:
    """The base model draws it all the same, unless --require; with -c the file's own concepts are meant."""
    done = cones("render", prompt, "--steps", "1")
    assert done.code == 0 and told in done.err.splitlines()
    refused = cones("render", prompt, "--require")
    assert refused.code == 3
    assert refused.err.splitlines() == [f"error: {prompt!r} names no concept", f"  {told.split('; ')[1]}"]
    assert cones("render", prompt, "--require", "-c", "dog.cone").code == 3
    assert cones("render", "two dogs", "--require", "--steps", "1").code == 0
    assert "names no concept" not in cones("render", prompt, "--no-cones", "--steps", "1").err


def test_render_without_any_concept_says_so(cones: Cones, work: Path) -> None:
    """An empty folder."""
    assert "there is no .cone file here or in $CONES_PATH" in cones("render", "a dog", "--steps", "1").err


@pytest.mark.parametrize("prompt", ["a [dog]", 'a "dog"', "(dog)", "a dog's cap", "«dog»", "a dog—asleep"])
def test_signs_around_a_name_do_not_hide_it(cones: Cones, here: Path, prompt: str) -> None:
    """Neither from the search for files nor from the note on concepts that are not named."""
    done = cones("render", prompt, "-c", "dog.cone", "--steps", "1")
    assert done.code == 0 and "does not name it" not in done.err
    assert "dog.cone: " in cones("render", prompt, "--steps", "1").err


def test_render_reads_a_file_of_prompts(cones: Cones, here: Path) -> None:
    """Each line with its own seed, negative prompt, strength and concepts; comments are no pictures."""
    Path("prompts.txt").write_text(
        "# two subjects\n\na dog --seed 7 --strength 0.5\na red hat --negative a dog\nat night --cone dog.cone:0.25\n"
    )
    done = cones("render", "--prompts", "prompts.txt", "-o", "out/", "--json", "--steps", "1")
    assert done.code == 0, done.err
    assert [record["file"] for record in done.json] == ["out/1-a-dog.png", "out/2-a-red-hat.png", "out/3-at-night.png"]
    told = [
        (record["seed"], record["negative"], [(used["name"], used["strength"]) for used in record["concepts"]])
        for record in done.json
    ]
    assert told == [(7, "", [("dog", 0.5)]), (0, "a dog", [("hat", 1.0)]), (0, "", [("dog", 0.25)])]
    assert cones("render", "@prompts.txt").code == 2


def test_render_says_what_changes_no_picture(cones: Cones, here: Path, model: Path) -> None:
    """A negative prompt without guidance, and options of other models and modes."""
    done = cones("render", "a dog", "--guidance", "1", "--negative", "grass", "--json", "--steps", "1")
    assert "warning: the negative prompt has no effect" in done.err
    assert done.json[0]["negative"] == ""
    odd = cones("render", "a dog", "--revision", "main", "--config", "x", "--no-cones", "--literal", "--steps", "1")
    for text in (
        f"--revision has no effect on {model}",
        f"--config has no effect on {model}",
        "--literal has no effect",
    ):
        assert f"warning: {text}" in odd.err
    assert "warning" not in cones("render", "a dog", "--negative", "grass", "--steps", "1").err
    for contradiction in ("--compare", "--require"):
        assert cones("render", "a dog", "--no-cones", contradiction).code == 2


def test_render_says_what_it_does_not_understand(cones: Cones, here: Path) -> None:
    """The syntax of other programs, once, however many prompts have it."""
    done = cones("render", "a (dog:1.2)", "a (dog:1.2) BREAK", "--steps", "1", "-o", "out/")
    assert done.err.count("warning") == 1
    assert "warning: (dog:1.2), BREAK: syntax of other programs" in done.err


def test_the_bare_column_gets_the_class_noun(cones: Cones, work: Path, model: Path) -> None:
    """And it says so; the other column tells the strength."""
    from conestool.models.model import Model

    rex = random_cone(Model.from_pretrained(str(model)), "rex")
    cones_format.save(Cone((replace(rex["rex"], class_noun="dog"),)), work / "rex.cone")
    done = cones("render", "a photo of rex", "--compare", "-c", "rex.cone:0.5", "--json", "-v", "--steps", "1")
    assert [record["sent"] for record in done.json[0]["pictures"]] == ["a photo of a dog", "a photo of a sks dog"]
    assert "base model: a photo of a dog" in done.err
    assert read_sheet(done.json[0]["file"])["columns"] == ["base model", "rex 0.5"]


@pytest.mark.parametrize("options", [("--grid", "-n", "2"), ("--compare",), ("--grid",)])
def test_render_repeats_a_sheet(cones: Cones, here: Path, options: tuple[str, ...]) -> None:
    """All its pictures, with their labels, byte for byte; the seed of a sheet is not one number."""
    cones("render", "a dog", "a hat", "-o", "sheet.png", *options, "--steps", "2")
    done = cones("render", "--from", "sheet.png", "-o", "again.png")
    assert (done.code, done.lines) == (0, ["again.png"]), done.err
    assert Path("again.png").read_bytes() == Path("sheet.png").read_bytes()
    assert cones("render", "--from", "sheet.png", "-o", "x.png", "--seed", "3").code == 2
    with pytest.raises(InputError, match=r"sheet\.png: a sheet of [24] pictures"):
        read_record("sheet.png")


def test_render_repeats_a_picture(cones: Cones, here: Path) -> None:
    """--from draws the identical file; a changed seed draws another."""
    cones("render", "a dog in a hat", "--seed", "5", "-o", "one.png")
    done = cones("render", "--from", "one.png", "-o", "two.png")
    assert (done.code, done.lines) == (0, ["two.png"])
    assert Path("two.png").read_bytes() == Path("one.png").read_bytes()
    cones("render", "--from", "one.png", "--seed", "6", "-o", "three.png")
    assert Path("three.png").read_bytes() != Path("one.png").read_bytes()


def test_render_without_concepts_differs(cones: Cones, here: Path) -> None:
    """--no-cones draws with the base model, strength 0 too, given the same words; full strength differs."""
    bare = cones("render", "a dog", "--no-cones", "-o", "-").out
    none = cones("render", "a dog", "--literal", "-c", "dog.cone:0", "-o", "-").out
    full = cones("render", "a dog", "--literal", "-c", "dog.cone", "-o", "-").out
    pixels = [list(Image.open(io.BytesIO(data)).getdata()) for data in (bare, none, full)]
    assert pixels[0] == pixels[1]
    assert pixels[0] != pixels[2]


def test_render_reads_prompts_from_stdin(cones: Cones, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture a line, each with the concepts that its words name; empty lines do not count."""
    feed(monkeypatch, b"a dog\n\n a red hat \na cat\n")
    done = cones("render", "-", "-o", "out/", "--json", "--steps", "1")
    assert [record["file"] for record in done.json] == ["out/1-a-dog.png", "out/2-a-red-hat.png", "out/3-a-cat.png"]
    assert [[used["name"] for used in record["concepts"]] for record in done.json] == [["dog"], ["hat"], []]
    assert all(Path(record["file"]).is_file() for record in done.json)


def test_render_reads_a_cone_from_stdin(cones: Cones, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`merge -o - | render -c - -o -` gives the picture that the files give."""
    feed(monkeypatch, cones("merge", "dog.cone", "hat.cone", "-o", "-").out)
    piped = cones("render", "a dog in a hat", "-c", "-", "-o", "-")
    assert piped.code == 0
    assert piped.out == cones("render", "a dog in a hat", "-c", "dog.cone", "-c", "hat.cone", "-o", "-").out


def test_render_makes_sheets(cones: Cones, here: Path) -> None:
    """--grid has a column per seed, --compare a column for the base model; one file each."""
    single = size_of(cones("render", "a dog", "--grid", "-o", "-").out)
    row = size_of(cones("render", "a dog", "--grid", "-n", "3", "-o", "-").out)
    pair = size_of(cones("render", "a dog", "--compare", "-o", "-").out)
    assert row[0] > 2.5 * single[0] and 1.5 * single[0] < pair[0] < row[0]


def test_render_several_pictures_need_a_folder(cones: Cones, here: Path) -> None:
    """Four pictures cannot be one file, nor stdout; it is said before a model is loaded."""
    for output in ("x.png", "-"):
        done = cones("render", "a dog", "-n", "4", "-o", output)
        assert done.code == 2
        assert "4 pictures" in done.err


def test_render_never_overwrites(cones: Cones, here: Path) -> None:
    """A named file is refused, a default name gives way to the next free one."""
    Path("x.png").write_bytes(b"precious")
    assert cones("render", "a dog", "-o", "x.png").code == 2
    assert Path("x.png").read_bytes() == b"precious"
    names = [cones("render", "a dog", "--steps", "1").lines[0] for _ in range(2)]
    assert names == ["a-dog.png", "a-dog-2.png"]
    assert cones("render", "a dog", "--steps", "1", "--overwrite").lines == ["a-dog.png"]


@pytest.mark.parametrize("prompts", [("",), (" \t",), ()], ids=["empty", "blank", "none"])
def test_render_refuses_an_empty_prompt(cones: Cones, here: Path, prompts: tuple[str, ...]) -> None:
    """Exit code 3; without any argument at all the usage, exit code 2."""
    done = cones("render", *prompts, "--no-cones")
    assert done.code == 3
    assert "prompt" in done.err


def test_render_refuses_prompts_that_are_no_utf8(cones: Cones, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is named."""
    feed(monkeypatch, b"a dog\na h\xf6use\n")
    done = cones("render", "-")
    assert done.code == 3
    assert "line 2 is not UTF-8" in done.err


def test_render_says_what_is_cut(cones: Cones, here: Path) -> None:
    """A prompt longer than the text encoder takes is drawn, with a warning that quotes the rest."""
    done = cones("render", " ".join(["a dog"] * 20 + ["on the beach"]), "--no-cones", "--steps", "1")
    assert done.code == 0
    assert "warning: the prompt is too long" in done.err
    assert done.err.count("on the beach") == 2


def test_render_refuses_another_base_model(cones: Cones, here: Path, v_folder: Path) -> None:
    """Exit code 5, unless --allow-base-mismatch."""
    command = ("render", "a dog", "--model", str(v_folder), "--steps", "1")
    assert cones(*command).code == 5
    assert cones(*command, "--allow-base-mismatch").code == 0


def test_render_refuses_two_files_with_one_name(cones: Cones, here: Path) -> None:
    """Two different dogs in one folder: both files are listed."""
    save_cone(here / "other.cone", concept("dog", "zwx"))
    done = cones("render", "a dog")
    assert done.code == 2
    assert "dog.cone" in done.err and "other.cone" in done.err


def test_apply_writes_a_folder_that_renders_alike(cones: Cones, here: Path) -> None:
    """The bare patched model draws what the base model draws with the concept applied."""
    assert cones("apply", "dog.cone", "-o", "patched").lines == ["patched"]
    with_concept = cones("render", "a dog", "--literal", "-c", "dog.cone", "-o", "-").out
    patched = cones("render", "a dog", "--no-cones", "--model", "patched", "-o", "-").out
    pixels = [list(Image.open(io.BytesIO(data)).getdata()) for data in (with_concept, patched)]
    assert pixels[0] == pixels[1]


def test_apply_writes_one_file(cones: Cones, here: Path) -> None:
    """A .safetensors with the denoiser, in which the concept's weights are zero."""
    from safetensors.numpy import load_file

    done = cones("apply", "dog.cone", "hat.cone:0.5", "-o", "unet.safetensors", "--as", "denoiser", "--json")
    assert [used["strength"] for used in done.json["concepts"]] == [1.0, 0.5]
    weights = load_file("unet.safetensors")
    (dog,) = cones_format.load("dog.cone").concepts
    assert all((weights[param].reshape(-1)[values] == 0).all() for param, values in dog.indices.items())
    assert cones("apply", "dog.cone", "-o", "unet.safetensors").code == 2


def test_apply_writes_a_lora_and_says_what_it_keeps(cones: Cones, here: Path) -> None:
    """The kept energy is on stderr, in the JSON and in the file, and a larger rank keeps more."""
    from safetensors import safe_open

    told = cones("apply", "dog.cone", "-o", "dog.safetensors", "--as", "lora", "--rank", "2")
    assert told.code == 0 and "a LoRA of rank 2, an approximation" in told.err
    assert "of the energy of the weight change" in told.err
    few, all_of_it = (
        cones("apply", "dog.cone", "-o", "dog.safetensors", "--as", "lora", "--json", "--overwrite", *more).json
        for more in (("--rank", "2"), ())
    )
    assert few["energy"] < all_of_it["energy"] == pytest.approx(1)
    with safe_open("dog.safetensors", "pt") as file:
        assert json.loads(file.metadata()["cones_approximation"])["rank"] == all_of_it["rank"]


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
    ],
)
def test_apply_refuses_contradictions(cones: Cones, here: Path, options: tuple[str, ...], words: str) -> None:
    """Before a model is loaded; nothing is written."""
    done = cones("apply", "dog.cone", *options)
    assert done.code == 2 and words in done.err
    assert not [item for item in here.iterdir() if item.name.startswith("x")]


def test_apply_writes_a_sidecar_if_asked(cones: Cones, here: Path) -> None:
    """Beside the file, and named with it; what is there already stays, before any work."""
    command = ("apply", "dog.cone", "-o", "sks.safetensors", "--as", "lora", "--sidecar")
    assert cones(*command).lines == ["sks.safetensors", "sks.json"]
    assert json.loads((here / "sks.json").read_text())["activation text"] == load_phrase("dog.cone")
    (here / "sks.safetensors").unlink()
    assert cones(*command).code == 2 and not (here / "sks.safetensors").exists()
    assert cones(*command, "--overwrite", "--json").json["sidecar"] == "sks.json"


def load_phrase(file: str) -> str:
    """The words that draw a file's only concept."""
    (only,) = cones_format.load(file).concepts
    return only.phrase


def test_a_folder_may_have_a_dot_in_its_name(cones: Cones, here: Path) -> None:
    """Only endings that mean a file elsewhere are refused."""
    assert cones("apply", "dog.cone", "-o", "sd1.5-dog").lines == ["sd1.5-dog"]
    assert (here / "sd1.5-dog" / "model_index.json").is_file()


def test_apply_refuses_a_checkpoint_that_no_program_could_load(cones: Cones, here: Path) -> None:
    """The small model's autoencoder has no place in the original layout; what does work is named."""
    done = cones("apply", "dog.cone", "-o", "x.safetensors")
    assert done.code == 2 and "AutoencoderTiny" in done.err and "diffusers folder" in done.err
    assert not [item for item in here.iterdir() if "x." in item.name]


def test_inspect_checks_the_model(cones: Cones, here: Path, model: Path, v_folder: Path) -> None:
    """Fits: exit code 0 and how; another model: exit code 5."""
    fits = cones("inspect", "dog.cone", "--model", str(model), "--json")
    assert (fits.code, fits.json[0]["model_check"]["fits"]) == (0, True)
    assert cones("inspect", "dog.cone", "--model", str(v_folder)).code == 5


def test_recorded_model_that_is_elsewhere_gets_a_hint(
    cones: Cones, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A concept found on a local model is rendered on another machine: --model is the way."""
    monkeypatch.delenv("CONES_MODEL")
    done = cones("render", "a dog")
    assert done.code == 2
    assert "--model" in done.err


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Put bytes on stdin."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
