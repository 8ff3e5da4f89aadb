"""Nothing that a stranger wrote reaches a terminal, JSON, a PNG, Markdown or a shell as anything but text."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conestool import _text
from conestool import format as cones_format
from conestool.cli import _options, _output, _plot, doctor
from conestool.concept import Cone
from conestool.errors import UsageError
from conestool.models.model import Model
from conestool.rendering.grid import grid
from tests.hostile.texts import MILLION, POISON, WORDS, forge, forge_at, leaks, on_screen, places, plain
from tests.support import process
from tests.support.command_line import Cones, concept, save_cone
from tests.support.forging import join, parts
from tests.support.photos import draw_photos
from tests.support.tiny_models import random_cone

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks")
bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
MOST = 200_000
"""Bytes that a command may say, whatever a header holds: a few screens."""
NAME = POISON.replace("/", "").encode()[:120].decode(errors="ignore")
"""A file name as bad as they come."""
LIGHT = (
    "inspect f.cone",
    "inspect f.cone -v",
    "inspect f.cone --plot p.png",
    "extract f.cone dog",
    "diff f.cone c.cone",
    "merge f.cone f.cone",
    "merge f.cone c.cone",
    "merge c.cone missing.cone",
)
FIND: tuple[str, ...] = (
    "--num-class-images",
    "4",
    "--steps",
    "2",
    "--density",
    "0.02",
    "--device",
    "cpu",
    "--captions",
    "none",
)
FIND += ("--other-class-weight", "0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """f.cone has poison in every field, c.cone is harmless."""
    (tmp_path / "f.cone").write_bytes(forge())
    save_cone(tmp_path / "c.cone", concept("cat", "vlk", seed=2))
    return tmp_path


@pytest.mark.parametrize("line", LIGHT)
def test_every_field_is_clean_in_a_file_and_on_a_narrow_terminal(line: str, folder: Path) -> None:
    """Controls, escapes and bidirectional marks are gone, no line is forged, and no bug is uncovered."""
    done = process.cones(*line.split(), cwd=folder)
    assert done.code != 70, done.err
    assert not leaks(done.out) and not leaks(done.err)
    assert b"\nerror: forged" not in done.err and b"\nwarning: another" not in done.err
    for made in ("p.png", "dog.cone", "dog+hat.cone"):
        (folder / made).unlink(missing_ok=True)
    screen = process.on_terminal(*line.split(), cwd=folder, columns=40)
    assert screen.code == done.code and not on_screen(screen.out)


def test_json_tells_the_truth_without_showing_it(folder: Path) -> None:
    """The strings are those of the file, character by character, and none is raw; bytes are hex."""
    done = process.cones("inspect", "f.cone", "--json", "-q", cwd=folder)
    assert not leaks(done.out)
    (record,) = json.loads(done.out)
    assert record["base"]["id"] == record["concepts"][0]["origin"]["notes"] == POISON
    assert record["concepts"][0]["origin"][POISON][1] == (POISON.encode() + b"\xff").hex()
    other = process.cones("diff", "f.cone", "c.cone", "--json", "-q", cwd=folder)
    assert other.code == 1 and not leaks(other.out)
    assert json.loads(other.out)["metadata"][1]["a"]["origin"]["notes"] == POISON


def test_each_string_and_map_of_the_header_alone(tmp_path: Path, cones: Cones) -> None:
    """Whether it is accepted or refused, what is said of it is clean."""
    header, _ = parts(plain())
    ways = list(places(header))
    assert len(ways) > 35
    codes = set()
    for way in ways:
        done = cones("inspect", forge_at(tmp_path, way, POISON), "--json")
        codes.add(done.code)
        assert not leaks(done.out) and not leaks(done.err.encode()), way
        assert done.err.count("\n") < 60
    assert codes == {0, 4}


@pytest.mark.parametrize("line", ["inspect f.cone", "inspect f.cone --plot p.png", "diff f.cone c.cone"])
def test_a_million_characters_in_any_field_are_cut(line: str, folder: Path) -> None:
    """Neither the screen nor the memory is flooded: each field in turn holds as much as a header takes."""
    origin = ("concepts", 0, "origin")
    for way in ((), ("bases", 0, "id"), ("bases", 0, "digests"), origin, (*origin, "method"), ("concepts", 0, "name")):
        forge_at(folder, way, MILLION[:300_000]).rename(folder / "f.cone")
        (folder / "p.png").unlink(missing_ok=True)
        done = process.cones(*line.split(), cwd=folder)
        assert done.code in (0, 1, 4), done.err[-300:]
        assert len(done.err) < MOST and not leaks(done.err)


def test_a_long_key_before_many_others_does_not_multiply(tmp_path: Path) -> None:
    """`diff` of 300 kB of key over 20,000 keys says little, in little memory; of 10,000 fields it says the first."""
    header, sections = parts(plain())
    origin = header["concepts"][0]["origin"]
    for name, value, inner in (("f.cone", 0, {f"{number:x}": 0 for number in range(20_000)}), ("g.cone", 1, {"": 0})):
        origin |= {f"x{number}": value for number in range(10_000)} | {"k" * 300_000: inner}
        (tmp_path / name).write_bytes(join(header, sections, plain()))
    done = process.cones("diff", "f.cone", "g.cone", cwd=tmp_path)
    assert done.code == 1 and len(done.err) < 300 * 300 and b"fields more" in done.err


def test_hostile_file_names_in_errors_and_tables(tmp_path: Path) -> None:
    """Missing, damaged, existing and written files: every message is one clean line, and its hint another."""
    save_cone(tmp_path / NAME, concept())
    other = f"x{NAME}"
    for line in (["inspect", NAME], ["inspect", other], ["merge", NAME, NAME, "-o", NAME], ["extract", NAME, NAME]):
        done = process.cones(*line, cwd=tmp_path)
        assert done.code in (0, 2) and not leaks(done.err), done.err
        assert done.code == 0 or done.err.count(b"\n") <= 2
    assert process.cones("merge", NAME, NAME, "-o", other, cwd=tmp_path).out == other.encode() + b"\n"
    screen = process.on_terminal("merge", NAME, NAME, "-o", f"y{NAME}", cwd=tmp_path)
    assert screen.code == 0 and not on_screen(screen.out)
    done = process.cones("inspect", f"no{NAME}", "--traceback", cwd=tmp_path)
    assert b"Traceback" in done.err and not leaks(done.err)


@bash
def test_suggested_commands_do_what_they_say(tmp_path: Path) -> None:
    """The hint for a missing folder, run by a shell, makes that folder and runs nothing that its name holds."""
    name = "it's $(touch pwned) `touch pwned`; touch pwned \x1b[2J\n\u202e\\ é"
    save_cone(tmp_path / "a.cone", concept())
    done = process.cones("merge", "a.cone", "a.cone", "-o", f"{name}/b.cone", cwd=tmp_path)
    hint = done.err.decode().splitlines()[-1]
    assert not leaks(hint.encode())
    subprocess.run(["bash", "-c", hint.removeprefix("  make it first: ")], cwd=tmp_path, check=True)
    assert (tmp_path / name).is_dir() and not (tmp_path / "pwned").exists()


@bash
def test_quoted_words_come_back_from_a_shell() -> None:
    """What a command line would be given is the word, byte for byte, and the quoted form is clean."""
    rng = random.Random(0)
    alphabet = "ab09 \t\n\\'\"$`!*?[]{}~#;&|<>()=%\x01\x1b\x7f\x9bé\u202e猫\U0001f415\U000e0041\udc80\udcff"
    words = [POISON, "", "-", *("".join(rng.choices(alphabet, k=rng.randrange(1, 12))) for _ in range(3000))]
    line = _text.quoted(*words)
    assert not leaks(line.encode())
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    assert done.stdout == b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in words)


def test_resuming_is_suggested_with_the_very_names(capfd: pytest.CaptureFixture[str]) -> None:
    """A name with escapes and blanks is quoted so that it can be pasted, and is never cut."""
    _output.command("to go on:", "cones", "find", "a b\x1b[2J.cone", *(f"photo {number}.jpg" for number in range(500)))
    err = capfd.readouterr().err
    assert err.startswith("to go on: cones find $'a b\\033[2J.cone' 'photo 0.jpg'")
    assert err.endswith("'photo 499.jpg'\n")


@given(st.text(alphabet=st.characters(), max_size=200))
@settings(max_examples=100)
def test_clean_text_is_one_line_without_controls(words: str) -> None:
    """Whatever comes in, surrogates included; and what was harmless stays."""
    kept = _text.clean(words)
    assert not leaks(kept.encode("utf-8", "surrogatepass"), keep="")
    if not leaks(words.encode("utf-8", "surrogatepass"), keep=""):
        assert kept == words


@given(
    st.recursive(st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
)
@settings(max_examples=50)
def test_escaped_json_is_the_same_json(value: object) -> None:
    """Only the writing differs; pairs of escapes stand for characters beyond the first 65,536."""
    escaped = _text.escape_json(json.dumps(value, indent=1, ensure_ascii=False))
    assert json.loads(escaped) == value and not leaks(escaped.encode())


def test_a_spinner_takes_no_markup(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A model called [/nothing] is waited for like any other, and a bar shows a note in brackets as it is."""
    monkeypatch.setattr(_output, "plain", lambda: False)
    _output.configure(_output.NORMAL)
    with _output.waiting(f"loading {POISON}"):
        pass
    with _output.progress(POISON, 3) as tick:
        tick(1, POISON)
    err = capfd.readouterr().err
    assert not on_screen(err.encode()) and "[red]markup[/red]" in err


def test_a_card_holds_names_as_text() -> None:
    """No table cell ends early, no HTML and no link is made."""
    shown = _text.code("a|b](http://x) <script>`x` _y_ ![z](q)")
    assert shown == r"a\|b\](http://x) &lt;script&gt;\`x\` \_y\_ \!\[z\](q)"
    assert (_text.code("sks dog"), _text.code(" ")) == ("`sks dog`", " ")


def test_doctor_shows_hostile_variables(monkeypatch: pytest.MonkeyPatch, cones: Cones) -> None:
    """What the environment holds is cleaned on the screen and escaped in JSON."""
    monkeypatch.setattr(doctor, "devices", list)
    monkeypatch.setenv("CONES_PATH", POISON)
    done = cones("doctor", "--json")
    assert done.code == 0 and not leaks(done.out) and not leaks(done.err.encode())
    assert done.json["environment"]["CONES_PATH"] == POISON


def test_maps_of_hostile_shapes_and_sheets_of_long_labels_are_quick_or_refused() -> None:
    """A matrix of 2^31 - 1 rows takes no memory, a giant picture is refused, a label of a million letters is cut."""
    begin = time.process_time()
    for shape in ([2**31 - 1], [1, 2**31 - 1], []):
        assert _plot.heat(np.array([0], dtype=np.int32), shape)[0, 0] > 0
    assert grid([[Image.new("RGB", (32, 32))]], ["x" * 1_000_000], ["a " * 500_000]).height < 3000
    assert time.process_time() - begin < 4
    many = {f"l{number}.to_k.weight": [1] for number in range(4000)}
    one = concept()
    base = one.base.model_copy(update={"tensors": one.base.tensors | many})
    giant = Cone((replace(one, base=base), replace(concept("hat", "zwx"), base=base)))
    with pytest.raises(UsageError, match="million pixels"):
        _plot.map_png(giant)


@pytest.fixture
def bad(epsilon_folder: Path, work: Path, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the run, with dog.cone of a small base model, whose words are as bad as the format allows."""
    monkeypatch.setenv("CONES_MODEL", str(epsilon_folder))
    (dog,) = random_cone(Model.from_pretrained(str(epsilon_folder), device="cpu"), "dog").concepts
    hostile = replace(dog, class_noun=WORDS[:64].strip(), identifier=WORDS[:40].strip())
    cones_format.save(Cone((hostile,)), work / "dog.cone")
    return work


def test_a_picture_of_hostile_words(bad: Path, cones: Cones) -> None:
    """Its name is letters, its text chunks are clean, its record is the truth, and the screen and JSON are clean."""
    done = cones("render", f"a dog {POISON}", "--negative", POISON, "--json")
    assert done.code == 0, done.err
    assert not leaks(done.out) and not leaks(done.err.encode())
    (told,) = done.json
    assert told["prompt"] == " ".join(f"a dog {POISON}".split())
    assert all(char.isalnum() or char in "-." for char in told["file"])
    with Image.open(bad / told["file"]) as image:
        chunks = {str(key): str(value) for key, value in image.info.items() if isinstance(value, str)}
    assert not any(leaks(chunk.encode()) for chunk in chunks.values())
    assert chunks["parameters"].count("\n") == 2
    record = json.loads(chunks["cones"])
    assert (record["sent"], record["prompt"]) == (told["sent"], told["prompt"])
    again = cones("render", "--from", told["file"])
    assert again.code == 0 and not leaks(again.out) and not leaks(again.err.encode())
    assert cones("render", f"a dog {POISON}", "--compare", "-o", "sheet.png").code == 0


@pytest.mark.parametrize(
    "prompt", ["x" * 10_001, "caf\udce9", "dog " * 300], ids=["long", "not decoded", "long once rewritten"]
)
def test_prompts_that_cannot_be_used(prompt: str, bad: Path, cones: Cones) -> None:
    """Too long, or bytes that are no text in this locale: exit code 3, as prompt and as negative prompt."""
    done = cones("render", prompt)
    assert done.code == 3 and len(done.err) < 3000
    assert prompt.startswith("dog") or cones("render", "a dog", "--negative", prompt).code == 3


def test_a_hostile_base_model_in_a_hint(bad: Path, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id of the base model comes from the file; the command line that a hint suggests quotes it."""
    base = concept().base.model_copy(update={"id": "x/$(touch pwned)\x1b[2J"})
    save_cone(bad / "other.cone", replace(concept(), base=base))
    (bad / "forged.cone").write_bytes(forge())
    for name in ("other.cone", "forged.cone"):
        done = cones("render", "a dog", "-c", name)
        assert done.code == 5 and not leaks(done.err.encode()), done.err
        assert "--model $'" in done.err.splitlines()[-1]
    monkeypatch.delenv("CONES_MODEL")
    missing = cones("render", "a dog", "-c", "other.cone")
    assert missing.code == 7 and not leaks(missing.err.encode())


def test_a_patched_model_tells_hostile_words_as_text(bad: Path, cones: Cones) -> None:
    """The model card's table keeps its cells, without HTML, code spans left open or controls."""
    done = cones("apply", "dog.cone", "-o", NAME)
    assert done.code == 0 and not leaks(done.err.encode()), done.err
    card = (bad / NAME / "README.md").read_bytes()
    assert not leaks(card)
    (row,) = [line for line in card.decode().splitlines() if line.startswith("| dog")]
    assert row.replace("\\|", "").count("|") == 6
    assert "<" not in row and row.count("`") - row.count("\\`") == 2


def test_photos_and_folders_with_hostile_names(bad: Path, cones: Cones) -> None:
    """Skipped, broken and missing photos are named in clean lines; a concept's name is made of letters alone."""
    place = draw_photos(bad / NAME, "teal", 2)
    (place / f"{NAME}.txt").write_text("no picture")
    shutil.copyfile(place / "0.png", place / f"1{NAME}.png")
    (place / f"2{NAME}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    broken = cones("find", place, "-o", "x.cone", *FIND)
    missing = cones("find", f"{NAME}2", "-o", "x.cone")
    found = cones("find", place, "--skip-broken", "--notes", POISON, *FIND)
    assert (broken.code, missing.code, found.code) == (3, 3, 0), found.err
    assert not any(leaks(done.err.encode()) for done in (broken, missing, found))
    assert all(char.isalnum() or char in "-.\n" for char in found.out.decode())
    (made,) = cones_format.load(bad / found.lines[0]).concepts
    assert made.origin.notes == POISON


def stop(*_: object) -> None:
    """Instead of loading a base model."""
    raise UsageError("far enough")


@pytest.mark.parametrize(
    "option",
    [
        ("--notes", "caf\udce9"),
        ("--author", "x" * 100_001),
        ("--class-noun", "do\x1b[2Jg"),
        ("--class-noun", "d" * 65),
        ("--identifier", "s\udce9"),
        ("--name", "[red]"),
    ],
    ids=lambda option: option[0],
)
def test_words_that_no_file_can_hold_are_refused_before_the_search(
    option: tuple[str, str], bad: Path, cones: Cones, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after an hour of it."""
    monkeypatch.setattr(_options, "open_model", stop)
    draw_photos(bad / "cat", "teal", 1)
    done = cones("find", "cat", "-o", "cat.cone", *option)
    assert done.code == 2 and "far enough" not in done.err and not leaks(done.err.encode())


def test_a_list_of_photos_with_hostile_names(bad: Path, cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    """NUL separates them, so that no name is split; bytes that are no UTF-8 are names like others."""
    names = [os.fsencode(f"a\n{NAME}.png"), b"b\xff\x1b.png"]
    for name, photo in zip(names, sorted(draw_photos(bad / "cat", "teal", 2).iterdir()), strict=True):
        photo.rename(bad / os.fsdecode(name))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\0".join(names))))
    monkeypatch.setattr(_options, "open_model", stop)
    found = cones("find", "-", "-o", "cat.cone", *FIND)
    assert (found.code, found.err) == (2, "cat: 2 photos of 'cat'\nerror: far enough\n")
