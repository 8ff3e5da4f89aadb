"""What `import conestool` offers, used as a script or a notebook uses it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import conestool
from conestool.errors import PromptError
from conestool.models.model import Model
from conestool.search.events import LogEvent, Progress, shown
from tests.support.cones import concept
from tests.support.tiny_models import random_cone

README = Path(__file__).parents[1] / "README.md"


def test_no_public_name_is_hidden_by_a_module() -> None:
    """A submodule of a public name would take its place as soon as anything imports it."""
    modules = {found.name for found in pkgutil.iter_modules(conestool.__path__)}
    assert not modules & set(conestool.__all__)
    for name in modules - {"__main__", "ui"}:  # which needs an extra
        importlib.import_module(f"conestool.{name}")
    assert not [name for name in conestool.__all__ if isinstance(getattr(conestool, name), ModuleType)]


def test_a_pipeline_and_one_prompt_are_enough_to_render(epsilon_folder: Path) -> None:
    """Without a Model and without a list; the picture is that of the Model."""
    model = Model.from_pretrained(str(epsilon_folder))
    cone = random_cone(model, "dog")
    (one,) = conestool.render(model.pipe, "a dog", cone)
    (other,) = conestool.render(model, ["a dog"], cone)
    assert one.record["sent"] == "a sks dog"
    assert one.image.tobytes() == other.image.tobytes()


def test_the_readmes_lines_draw_the_same_picture_twice(
    epsilon_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `render`, and by a pipeline that is told the words of the files, whatever identifiers these have."""
    monkeypatch.chdir(tmp_path)
    model = Model.from_pretrained(str(epsilon_folder))
    both = random_cone(model, "dog", "hat", density=0.3)
    conestool.save(conestool.extract(both, "hat"), "hat.cone")
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    code = code.replace('find(pipe, images, class_noun="dog")', "dog")
    names = {"pipe": model.pipe, "dog": conestool.extract(both, "dog")}
    exec(code, names)  # noqa: S102
    sent = names["both"].prompt("a dog in a hat")
    assert sent == conestool.render(model.pipe, "a dog in a hat", both)[0].record["sent"] == "a sks dog in a zwx hat"
    assert code.count('"a dog in a hat"') == 2 and "images=" not in code


def test_a_prompt_that_names_no_concept_is_refused() -> None:
    """It would change a picture in which the subject is not asked for; an identifier that is typed counts."""
    cone = conestool.Cone((concept("dog", "pqf"), concept("hat", "ghz")))
    assert cone.prompt("two dogs") == "two pqf dogs"
    assert cone.prompt("a pqf toy") == "a pqf toy"
    with pytest.raises(PromptError, match="names no concept") as caught:
        cone.prompt("a dgo")
    assert caught.value.hint == "did you mean dog? it holds: dog, hat"


def test_what_is_shown_in_a_notebook_is_for_people(epsilon_folder: Path) -> None:
    """A line each, without digests, index sets and files."""
    cone = conestool.Cone((concept("dog", "pqf"), concept("hat", "ghz")))
    dog = cone["dog"]
    assert repr(cone) == "Cone(dog: 'pqf dog', 106 neurons; hat: 'ghz hat', 106 neurons; on 'tiny')"
    assert repr(dog) == f"Concept('dog': 'pqf dog', 106 neurons (5.02%) on 'tiny', id {dog.id[:10]})"
    assert repr(dog.info) == repr(dog).replace("Concept(", "ConceptInfo(")
    assert repr(dog.base) == "BaseModelInfo('tiny', stable-diffusion, float32, 2,112 K/V weights)"
    model = Model.from_pretrained(str(epsilon_folder))
    assert repr(model) == f"Model({str(epsilon_folder)!r}, stable-diffusion, float32 on cpu, 32 pixels)"
    assert repr(conestool.render(model, "a dog", steps=1)[0]) == "Rendering('a dog', seed 0, 32x32)"


def test_bars_are_shown_where_somebody_watches(
    epsilon_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a terminal, unless the program shows progress itself; nothing in a log."""
    model = Model.from_pretrained(str(epsilon_folder))
    conestool.render(model, "a dog", seeds=(0, 1), steps=1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    seen: list[tuple[int, int]] = []
    conestool.render(model, "a dog", seeds=(0, 1), steps=1, progress=lambda *pair: seen.append(pair))
    assert seen == [(1, 2), (2, 2)] and capsys.readouterr().err == ""
    conestool.render(model, "a dog", seeds=(0, 1), steps=1)
    assert "pictures: 100%" in capsys.readouterr().err
    show = shown()
    show(Progress("search", 1, 4, 0.25))
    show(LogEvent("careful", True))
    show(Progress("search", 4, 4))
    told = capsys.readouterr().err
    assert "search:  25%" in told and "loss 0.2500" in told and "warning: careful\n" in told and "100%" in told
