"""What `import conestool` offers, used as a script or a notebook uses it."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import conestool
from conestool.models.model import Model
from tests.support.tiny_models import random_cone


def test_no_public_name_is_hidden_by_a_module() -> None:
    """A submodule of a public name would take its place as soon as anything imports it."""
    modules = {found.name for found in pkgutil.iter_modules(conestool.__path__)}
    assert not modules & set(conestool.__all__)
    for name in modules - {"__main__"}:
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
