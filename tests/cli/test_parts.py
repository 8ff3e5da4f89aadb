"""The small parts of the command line: file names, strengths, layer names, heat maps, names, verdicts."""

from __future__ import annotations

import inspect
import io
import os
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest

from conestool import _layers
from conestool._names import guess_noun
from conestool._text import check_name
from conestool.cli import _plot, _streams
from conestool.cli._format import verdict
from conestool.cli._options import Options, Wanted, command, parse_wanted
from conestool.cli._pictures import free, settle, slug
from conestool.cli._plot import heat
from conestool.cli._prompts import Asked, parse_line, read_lines, read_prompts
from conestool.cli._search import checkpoint_path_of, name_from_path, resolve_names
from conestool.cli._streams import default_output
from conestool.cli.find import output_path
from conestool.cli.render import parse_size
from conestool.concept import Losses
from conestool.errors import PromptError, UsageError
from conestool.format import limits
from conestool.search.config import Resources, SearchConfig
from tests.support.command_line import Cones, concept


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a dog in a hat", "a-dog-in-a-hat"),
        ("Größe, 2×!", "grösse-2"),
        ("../../etc", "etc"),
        ("🐶", "picture"),
        ("word " * 30, "-".join(["word"] * 12)),
    ],
)
def test_slug_is_a_safe_file_name(prompt: str, name: str) -> None:
    """Words joined by hyphens, cut between them: no path, no punctuation, never empty."""
    assert slug(prompt) == name


def test_names_of_wide_letters_fit_the_file_system() -> None:
    """Names count in bytes: long ones of three or four bytes a letter are cut."""
    assert len(os.fsencode(default_output(["ねこ" * 16, "いぬ" * 16, "𠮷" * 60]))) <= 255
    assert len(os.fsencode(slug("𠮷" * 60) + "-12-345.png")) <= 255


def test_names_of_pictures(tmp_path: Path) -> None:
    """Numbered by prompt, and by seed where a prompt has several; the first free one; PNG and nothing else."""
    targets = settle("out/", [("a dog", (3, 4)), ("a hat", (3, 4))], sheet=False, overwrite=False)
    assert [path.name for path in targets.paths] == ["1-a-dog-3.png", "1-a-dog-4.png", "2-a-hat-3.png", "2-a-hat-4.png"]
    for name in ("x.png", "x-2.png"):
        (tmp_path / name).touch()
    assert free(tmp_path / "x.png") == tmp_path / "x-3.png"
    with pytest.raises(UsageError, match="PNG"):
        settle("x.jpg", [("a dog", [0])], sheet=False, overwrite=False)


def test_a_numbered_name_taken_meanwhile_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commands that draw the same prompt at once both keep their pictures; a name that was given is refused."""
    monkeypatch.chdir(tmp_path)
    ours = settle(None, [("a dog", [0])], sheet=False, overwrite=False)
    named = settle("a-dog.png", [("a dog", [0])], sheet=False, overwrite=False)
    Path("a-dog.png").write_bytes(b"another's")
    assert ours.write(0, b"mine") == Path("a-dog-2.png")
    assert Path("a-dog-2.png").read_bytes() == b"mine"
    with pytest.raises(UsageError, match="exists already"):
        named.write(0, b"mine")
    assert Path("a-dog.png").read_bytes() == b"another's"


def test_strength_follows_the_last_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dog.cone:0.5, 0 to 1, unless a file has that very name."""
    monkeypatch.chdir(tmp_path)
    rows = {"dog.cone": None, "dog.cone:0.5": 0.5, "-:0.5": 0.5, "C:dog.cone": None}
    for text, strength in rows.items():
        path = Path(text.removesuffix(":0.5"))
        assert parse_wanted(text) == (Wanted(path) if strength is None else Wanted(path, strength))
    for text in ("dog.cone:1.5", "dog.cone:-1", "dog.cone:nan"):
        with pytest.raises(UsageError, match="out of range"):
            parse_wanted(text)
    Path("dog:0.5").touch()
    assert parse_wanted("dog:0.5") == Wanted(Path("dog:0.5"))


def test_size() -> None:
    """One number for a square, two for width and height."""
    assert (parse_size("512"), parse_size("512x768"), parse_size(None)) == ((512, 512), (512, 768), None)
    for text in ("0", "x", "512x", "1x2x3", "-4", "9" * 5000):
        with pytest.raises(UsageError):
            parse_size(text)


def test_find_writes_into_a_folder_and_saves_beside_the_output(tmp_path: Path) -> None:
    """A folder as output takes NAME.cone; the state of a search lies beside its output, of stdout nowhere."""
    assert output_path(tmp_path, "top hat") == tmp_path / "top-hat.cone"
    assert output_path(None, "dog") == Path("dog.cone")
    assert checkpoint_path_of(Path("a/dog.cone")) == Path("a/dog.cone.checkpoint")
    assert checkpoint_path_of(Path("-")) is None


@pytest.mark.parametrize(
    ("text", "noun", "name"),
    [
        ("dog", "dog", "dog"),
        ("my-dog", "dog", "my-dog"),
        ("dog2", "dog", "dog2"),
        ("Dog_v3", "dog", "Dog-v3"),
        ("teddy-bear", "teddy bear", "teddy-bear"),
        ("köder", "köder", "köder"),
        ("my dog (2)", "dog", "my-dog-2"),
    ],
)
def test_names_and_nouns_that_nobody_typed(text: str, noun: str, name: str) -> None:
    """Owners, numbers and capitals say nothing of the class; the name keeps every word and can be a concept's."""
    assert (guess_noun(text), name_from_path(Path(text))) == (noun, name)
    check_name(name)


@pytest.mark.parametrize(
    ("photos", "output", "given", "found"),
    [
        ("photos", "dog.cone", (None, None), ("dog", "dog")),
        ("hat", None, (None, None), ("hat", "hat")),
        ("hat/.", "-", (None, None), ("hat", "hat")),
        ("hat", "out.cone", (None, None), ("hat", "hat")),
        ("x", "dog.cone", ("rex", None), ("rex", "dog")),
        ("x", "rex.cone", (None, "dog"), ("rex", "dog")),
        ("photos", None, (None, "top hat"), ("top-hat", "top hat")),
        ("photos", None, (None, None), None),
    ],
)
def test_output_names_the_concept_before_the_folder_does(
    photos: str,
    output: str | None,
    given: tuple[str | None, str | None],
    found: tuple[str, str] | None,
    tmp_path: Path,
) -> None:
    """What is given is taken; nobody wants a concept of the class "photos", and the hint shows the way."""
    (tmp_path / photos).mkdir()
    ask = [tmp_path / photos], Path(output) if output else None, *given
    if found:
        assert resolve_names(*ask) == found
        return
    with pytest.raises(UsageError, match="cannot tell") as caught:
        resolve_names(*ask)
    assert "-o dog.cone" in str(caught.value.hint)


def test_options_become_a_checked_configuration(cones: Cones) -> None:
    """One for each field but those skipped, which keep their defaults; each is an option of `find`."""

    def searched(name: str, search_config: SearchConfig) -> tuple[str, SearchConfig]:
        return name, search_config

    searched.__annotations__["search_config"] = Annotated[SearchConfig, Options("Search", skip=("density",))]
    run = command(searched)
    parameters = inspect.signature(run).parameters
    shown = [each for each in (*fields(SearchConfig), *fields(Resources)) if "help" in each.metadata]
    common = {"name", "quiet", "verbose", "traceback"}
    assert set(parameters) == common | {each.name for each in shown} - {"density", *vars(Resources())}
    given = {name: each.default for name, each in parameters.items() if name != "name"}
    assert run(name="x", **(given | {"seed": 3})) == ("x", SearchConfig(seed=3))
    with pytest.raises(UsageError, match="batch_size is 0, but must be from 1 to 10,000"):
        run(name="x", **(given | {"batch_size": 0}))
    text = cones("find", "--help").out.decode()
    for each in shown:
        assert f"--{each.name.replace('_', '-')} " in text


@pytest.mark.parametrize(
    ("layer", "shown", "block"),
    [
        ("down_blocks.0.attentions.1.transformer_blocks.0.attn2", "down.0.1.0 cross", "down.0"),
        ("mid_block.attentions.0.transformer_blocks.0.attn1", "mid.0.0 self", "mid"),
        ("transformer_blocks.10.attn", "block.10 joint", "block.10"),
        ("single_transformer_blocks.3.attn", "single.3 joint", "single.3"),
    ],
)
def test_layer_names(layer: str, shown: str, block: str) -> None:
    """Short, and still unambiguous."""
    assert (_layers.label(layer), _layers.block_of(layer)) == (shown, block)


def test_joint_attention_tells_picture_text_and_both_apart() -> None:
    """The second attention of SD3.5 is of the picture alone, although cross-attention has its name elsewhere."""
    params = [
        "single_transformer_blocks.0.attn.to_k.weight",
        "transformer_blocks.0.attn.add_k_proj.weight",
        "transformer_blocks.0.attn.to_v.weight",
        "transformer_blocks.0.attn2.to_v.weight",
    ]
    counts = _layers.by_layer(dict.fromkeys(params, 1), _layers.Detail.PARAM)
    assert list(counts) == ["block.0 joint V", "block.0 joint added K", "block.0 self V", "single.0 joint K"]
    shares = _layers.kinds(dict.fromkeys(params, 1), {param: [2, 2] for param in params})
    assert {kind: each["share"] for kind, each in shares.items()} == {"both K": 0.25, "image V": 0.5, "text K": 0.25}


def test_layers_are_in_the_order_of_the_network() -> None:
    """down, mid, up, and block 2 before block 10; K and V add up."""
    block = "transformer_blocks.0.attn2"
    counts = {
        f"up_blocks.1.attentions.0.{block}.to_k.weight": 1,
        f"mid_block.attentions.0.{block}.to_v.weight": 2,
        f"down_blocks.10.attentions.0.{block}.to_k.weight": 4,
        f"down_blocks.2.attentions.0.{block}.to_k.weight": 8,
        f"down_blocks.2.attentions.0.{block}.to_v.weight": 16,
    }
    names = {"down.2.0.0 cross": 24, "down.10.0.0 cross": 4, "mid.0.0 cross": 2, "up.1.0.0 cross": 1}
    assert list(_layers.by_layer(counts).items()) == list(names.items())


def test_kinds_count_where_neurons_lie() -> None:
    """Three of four neurons in self-attention's V; densities by hand."""
    tensors = {"a.attn1.to_k.weight": [2, 2], "a.attn1.to_v.weight": [3, 2], "a.attn2.to_k.weight": [2, 5]}
    kinds = _layers.kinds({"a.attn1.to_v.weight": 3, "a.attn2.to_k.weight": 1}, tensors)
    assert {kind: each["share"] for kind, each in kinds.items()} == {"self K": 0, "self V": 0.75, "cross K": 0.25}
    assert {kind: each["density"] for kind, each in kinds.items()} == {"self K": 0, "self V": 0.5, "cross K": 0.1}


def test_heat_is_the_share_of_weights_in_a_cell() -> None:
    """A 60 x 400 matrix in 30 x 200 cells of 2 x 2 weights: three of the first four zeroed are 0.75.

    A matrix smaller than the grid keeps its own cells.
    """
    share = heat(np.array([0, 1, 400, 60 * 400 - 1], dtype=np.int32), [60, 400])
    assert share.shape == (30, 200)
    assert (share[0, 0], share[29, 199], share.sum()) == pytest.approx((0.75, 0.25, 1.0))
    assert heat(np.array([5], dtype=np.int32), [2, 4]).tolist() == [[0, 0, 0, 0], [0, 1, 0, 0]]


def test_crowding_tells_a_full_row_from_scattered_neurons() -> None:
    """One whole row of 32: all neurons are in the fullest tenth of rows (3 of 32), 3 of 32 in that of columns."""
    row = np.arange(5 * 32, 6 * 32, dtype=np.int32)
    one = concept()
    found = _plot.crowding(replace(one, indices={next(iter(one.base.tensors)): row}))
    assert (found["rows"], found["columns"]) == pytest.approx((1, 3 / 32))
    assert 3 / 32 < found["random rows"] < 0.5


def test_endless_stdin_is_read_only_up_to_the_limit_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list longer than that is refused, and the cap is that of the format, which the streams must not import."""
    assert limits.MAX_FILE_BYTES == _streams.MOST
    monkeypatch.setattr(_streams, "MOST", 10)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a dog\n" * 100)))
    with pytest.raises(PromptError, match="more than"):
        read_lines("-")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a dog\n" * 100)))
    assert len(_streams.read_bytes("a .cone file")) == 11


def test_a_prompt_line_has_options_of_its_own() -> None:
    """As typed on the command line, quoted or not."""
    line = "a dog in a hat --seed 5 --negative=grass, mud --strength 0.5 --cone dog.cone --cone 'my hat.cone:0.2'"
    assert parse_line(line) == Asked("a dog in a hat", 5, "grass, mud", 0.5, ("dog.cone", "my hat.cone:0.2"))
    assert parse_line('"a dog" --negative "a -- b"') == Asked("a dog", negative="a -- b")
    assert parse_line("a well-known dog -- asleep") == Asked("a well-known dog -- asleep")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a dog --sede 5", "--sede is no option"),
        ("a dog --seed", "--seed : expected"),
        ("a dog --seed -1", "--seed -1: expected"),
        (f"a dog --seed {1 << 63}", f"--seed {1 << 63}: expected"),
        ("a dog --strength 2", "--strength 2: expected"),
        ("a dog --strength nan", "--strength nan: expected"),
        ("a dog --seed 1 --seed 2", "--seed is there twice"),
        ("--seed 1", "prompt is empty"),
    ],
)
def test_a_prompt_line_that_cannot_be_read_is_named(line: str, message: str, tmp_path: Path) -> None:
    """With the file and the number of the line."""
    file = tmp_path / "prompts.txt"
    file.write_text(f"# one\n\na cat\n{line}\n")
    with pytest.raises(PromptError, match=re.escape(message)) as caught:
        read_prompts([], str(file))
    assert str(caught.value).startswith(f"{file}: line 4: ")


def test_comments_and_empty_lines_are_no_prompts(tmp_path: Path) -> None:
    """Windows' byte order mark and line ends are none either; a file that is not there is named."""
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"\xef\xbb\xbf# a comment\r\n\r\n  a dog  \r\n#a cat\r\na hat")
    assert [each.prompt for each in read_prompts(["a cup"], str(file))] == ["a cup", "a dog", "a hat"]
    assert read_lines(str(file)) == [(3, "a dog"), (5, "a hat")]
    with pytest.raises(UsageError, match=r"nowhere\.txt: No such file"):
        read_lines("nowhere.txt")


@pytest.mark.parametrize(
    ("name", "typed", "option"),
    [
        ("prompts.txt", "prompts.txt", "--prompts prompts.txt"),
        ("prompts.txt", "@prompts.txt", "--prompts prompts.txt"),
        ("dog", "@dog", "--prompts dog"),
        ("dog.cone", "dog.cone", "-c dog.cone"),
        ("a.png", "a.png", "--from a.png"),
        ("dog", "dog", None),
        ("x", "a dog.", None),
    ],
)
def test_the_name_of_a_file_is_no_prompt(
    name: str, typed: str, option: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be drawn as text; the option that takes the file is named. A word is a prompt all the same."""
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    if option is None:
        assert read_prompts([typed]) == [Asked(typed)]
        return
    with pytest.raises(UsageError, match="expected a prompt") as caught:
        read_prompts([typed])
    assert caught.value.hint == f"use {option}"


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (
            {"held_out_after": 0.4, "random_after": 0.498, "no_identifier_after": 0.496, "class_after": 0.2},
            "clear: the photos' loss falls by 20.0 %, with random weights by 0.40 %; 96.0 % of it needs the word pqf; "
            "any other dog stays as it was",
        ),
        (
            {"held_out_after": 0.4875, "random_after": 0.51, "no_identifier_after": 0.49, "class_after": 0.23},
            "weak: the photos' loss falls by 2.50 %, with random weights by 0 %; only 20.0 % of it needs the word pqf; "
            "any other dog changes as well",
        ),
        ({"held_out_after": 0.47, "random_after": 0.475}, "none, by the photos' loss"),
        ({"held_out_after": 0.6, "random_after": 0.5}, "none, by the photos' loss"),
        ({"held_out_after": 0.4}, None),
    ],
)
def test_the_verdict_follows_from_the_controls(losses: dict[str, float], words: str | None) -> None:
    """Random weights, the same without the identifier, and the class."""
    before = {"held_out_before": 0.5, "no_identifier_before": 0.5, "class_before": 0.2}
    found = verdict(concept(identifier="pqf", losses=Losses(**before, **losses)).info)
    assert found == words if words is None or ";" in words else str(found).startswith(words)
