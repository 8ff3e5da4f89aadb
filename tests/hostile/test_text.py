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
from conestool.cli import _output, _plot
from conestool.concept import Cone
from conestool.errors import UsageError
from tests.hostile.texts import MILLION, POISON, forge, forge_at, leaks, on_screen, places, plain
from tests.support import process
from tests.support.command_line import Cones, concept, save_cone
from tests.support.forging import join, parts

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks")
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
)
LIGHT += ("merge f.cone f.cone", "merge f.cone c.cone", "merge c.cone missing.cone")


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
    assert screen.code == done.code
    assert not on_screen(screen.out)


def test_json_tells_the_truth_without_showing_it(folder: Path) -> None:
    """The strings are those of the file, character by character, and none is raw; bytes are hex."""
    done = process.cones("inspect", "f.cone", "--json", "-q", cwd=folder)
    assert not leaks(done.out)
    (record,) = json.loads(done.out)
    assert record["base"]["id"] == record["concepts"][0]["origin"]["notes"] == POISON
    assert record["concepts"][0]["origin"][POISON][1] == (POISON.encode() + b"\xff").hex()
    other = process.cones("diff", "f.cone", "c.cone", "--json", "-q", cwd=folder)
    assert other.code == 1
    assert not leaks(other.out)
    assert json.loads(other.out)["metadata"][1]["a"]["origin"]["notes"] == POISON


def test_each_string_and_map_of_the_header_alone(tmp_path: Path, cones: Cones) -> None:
    """Whether it is accepted or refused, what is said of it is clean."""
    header, _ = parts(plain())
    ways = list(places(header))
    assert len(ways) > 35
    codes = set()
    for way in ways:
        path = forge_at(tmp_path, way, POISON)
        done = cones("inspect", path, "--json")
        codes.add(done.code)
        assert not leaks(done.out) and not leaks(done.err.encode()), way
        assert done.err.count("\n") < 60
    assert codes == {0, 4}


@pytest.mark.parametrize("line", ["inspect f.cone", "inspect f.cone --plot p.png", "diff f.cone c.cone"])
def test_a_million_characters_in_any_field_are_cut(line: str, tmp_path: Path) -> None:
    """Neither the screen nor the memory is flooded: each field in turn holds as much as a header takes."""
    save_cone(tmp_path / "c.cone", concept("cat", "vlk", seed=2))
    origin = ("concepts", 0, "origin")
    for way in ((), ("bases", 0, "id"), ("bases", 0, "digests"), origin, (*origin, "method"), ("concepts", 0, "name")):
        forge_at(tmp_path, way, MILLION[:300_000]).rename(tmp_path / "f.cone")
        (tmp_path / "p.png").unlink(missing_ok=True)
        done = process.cones(*line.split(), cwd=tmp_path)
        assert done.code in (0, 1, 4), done.err[-300:]
        assert len(done.err) < MOST
        assert not leaks(done.err)


def test_a_long_key_before_many_others_does_not_multiply(tmp_path: Path) -> None:
    """`diff` of 300 kB of key over 20,000 keys says little, in little memory; of 10,000 fields it says the first."""
    header, sections = parts(plain())
    header["concepts"][0]["origin"] |= {f"x{number}": 0 for number in range(10_000)}
    header["concepts"][0]["origin"]["k" * 300_000] = {f"{number:x}": 0 for number in range(20_000)}
    (tmp_path / "f.cone").write_bytes(join(header, sections, plain()))
    header["concepts"][0]["origin"] |= {f"x{number}": 1 for number in range(10_000)}
    header["concepts"][0]["origin"]["k" * 300_000] = {"": 0}
    (tmp_path / "g.cone").write_bytes(join(header, sections, plain()))
    done = process.cones("diff", "f.cone", "g.cone", cwd=tmp_path)
    assert done.code == 1
    assert len(done.err) < 300 * 300
    assert b"fields more" in done.err


def test_hostile_file_names_in_errors_and_tables(tmp_path: Path) -> None:
    """Missing, damaged, existing and written files: every message is one clean line, and its hint another."""
    save_cone(tmp_path / NAME, concept())
    (tmp_path / "bad.cone").write_bytes(b"\x1b[2J" * 9)
    other = f"x{NAME}"
    for line in (["inspect", NAME], ["inspect", other], ["merge", NAME, NAME, "-o", NAME], ["extract", NAME, NAME]):
        done = process.cones(*line, cwd=tmp_path)
        assert done.code in (0, 2), done.err
        assert not leaks(done.err)
        assert done.code == 0 or done.err.count(b"\n") <= 2
    assert process.cones("merge", NAME, NAME, "-o", other, cwd=tmp_path).out == other.encode() + b"\n"
    screen = process.on_terminal("merge", NAME, NAME, "-o", f"y{NAME}", cwd=tmp_path)
    assert screen.code == 0
    assert not on_screen(screen.out)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_suggested_commands_do_what_they_say(tmp_path: Path) -> None:
    """The hint for a missing folder, run by a shell, makes that folder and runs nothing that its name holds."""
    name = "it's $(touch pwned) `touch pwned`; touch pwned \x1b[2J\n\u202e\\ é"
    save_cone(tmp_path / "a.cone", concept())
    done = process.cones("merge", "a.cone", "a.cone", "-o", f"{name}/b.cone", cwd=tmp_path)
    hint = done.err.decode().splitlines()[-1]
    assert not leaks(hint.encode())
    subprocess.run(["bash", "-c", hint.removeprefix("  make it first: ")], cwd=tmp_path, check=True)
    assert (tmp_path / name).is_dir()
    assert not (tmp_path / "pwned").exists()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
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
    names = ["a b\x1b[2J.cone", *(f"photo {number}.jpg" for number in range(500))]
    _output.command("to go on:", "cones", "find", *names)
    err = capfd.readouterr().err
    assert err.startswith("to go on: cones find $'a b\\033[2J.cone' 'photo 0.jpg'")
    assert err.endswith("'photo 499.jpg'\n")


def test_a_traceback_is_clean_too(tmp_path: Path) -> None:
    """--traceback prints the error's text, which holds the file's name."""
    done = process.cones("inspect", f"no{NAME}", "--traceback", cwd=tmp_path)
    assert b"Traceback" in done.err
    assert not leaks(done.err)


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
    assert json.loads(escaped) == value
    assert not leaks(escaped.encode())


def test_a_spinner_takes_no_markup(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A model called [/nothing] is waited for like any other, and a bar shows a note in brackets as it is."""
    monkeypatch.setattr(_output, "plain", lambda: False)
    _output.configure(_output.NORMAL)
    with _output.waiting(f"loading {POISON}"):
        pass
    with _output.progress(POISON, 3) as tick:
        tick(1, POISON)
    err = capfd.readouterr().err
    assert not on_screen(err.encode())
    assert "[red]markup[/red]" in err


def test_a_card_holds_names_as_text() -> None:
    """No table cell ends early, no HTML and no link is made."""
    shown = _text.code("a|b](http://x) <script>`x` _y_ ![z](q)")
    assert shown == r"a\|b\](http://x) &lt;script&gt;\`x\` \_y\_ \!\[z\](q)"
    assert _text.code("sks dog") == "`sks dog`"
    assert _text.code(" ") == " "


def test_doctor_shows_hostile_variables(monkeypatch: pytest.MonkeyPatch, cones: Cones) -> None:
    """What the environment holds is cleaned on the screen and escaped in JSON."""
    from conestool.cli import doctor

    monkeypatch.setattr(doctor, "devices", list)
    monkeypatch.setenv("CONES_PATH", POISON)
    done = cones("doctor", "--json")
    assert done.code == 0
    assert not leaks(done.out) and not leaks(done.err.encode())
    assert done.json["environment"]["CONES_PATH"] == POISON


def test_maps_of_hostile_shapes_are_quick_or_refused(tmp_path: Path) -> None:
    """A matrix of 2^31 - 1 rows takes no memory, one without dimensions is drawn, and a giant picture is refused."""
    begin = time.process_time()
    for shape in ([2**31 - 1], [1, 2**31 - 1], []):
        share = _plot.heat(np.array([0], dtype=np.int64), shape)
        assert share[0, 0] > 0
    assert time.process_time() - begin < 1
    many = {f"l{number}.to_k.weight": [1] for number in range(4000)}
    one = concept()
    base = one.base.model_copy(update={"tensors": one.base.tensors | many})
    giant = Cone((replace(one, base=base), replace(concept("hat", "zwx"), base=base)))
    with pytest.raises(UsageError, match="million pixels"):
        _plot.map_png(giant)


def test_sheets_of_long_labels_are_quick() -> None:
    """A label of a million letters, in one word or many, is cut and not measured letter by letter."""
    from conestool.rendering.grid import grid

    begin = time.process_time()
    image = Image.new("RGB", (32, 32))
    sheet = grid([[image]], ["x" * 1_000_000], ["a " * 500_000])
    assert time.process_time() - begin < 3
    assert sheet.height < 3000


def test_a_png_holds_the_prompt_as_text(tmp_path: Path) -> None:
    """`parameters` is three clean lines whatever the prompt, and the JSON gives the prompt back."""
    from conestool.rendering.png import png_bytes, read_record
    from tests.rendering.test_png import RECORD

    told = RECORD | {"prompt": POISON, "sent": POISON, "negative": POISON}
    data = png_bytes(Image.new("RGB", (4, 4)), told)
    with Image.open(io.BytesIO(data)) as image:
        chunks = dict(image.text)  # type: ignore[attr-defined]
    assert chunks["parameters"].count("\n") == 2
    assert not leaks(chunks["parameters"].encode())
    assert not leaks(chunks["cones"].encode())
    assert json.loads(chunks["cones"])["prompt"] == POISON
    (tmp_path / "x.png").write_bytes(data)
    assert read_record(tmp_path / "x.png")["prompt"] == POISON
