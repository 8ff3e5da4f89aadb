"""What the package may call, what a base model may bring along, and what the tests are run with."""

from __future__ import annotations

import ast
import contextlib
import json
import pickle
import re
import shutil
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from conestool.errors import ModelLoadError
from conestool.models.loading import folder_source
from tests.support.command_line import ROOT, Cones

PACKAGE = ROOT / "conestool"
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "subprocess", "pty", "ctypes"}
"""Modules that the package never imports: they turn data into code, or start other programs."""
CALLS = {"eval", "exec", "compile", "__import__", "breakpoint"}
STARTS = {f"{kind}{end}" for kind in ("exec", "spawn") for end in ("l", "lp", "v", "vp")}
METHODS = {
    "os": {"system", "popen", "startfile", *STARTS},
    "numpy": {"load", "loadtxt", "fromfile"},
    "np": {"load", "loadtxt", "fromfile"},
    "yaml": {"load", "unsafe_load", "full_load"},
}
HARMLESS = re.compile(r"(import|from) (subprocess|pty)|np\.load|exec|compile")
"""What only the package itself may not do: numpy unpickles when it is told to, and examples are run."""
KEYWORDS = {"trust_remote_code", "shell", "allow_pickle", "custom_pipeline"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def faults(code: str) -> list[str]:
    """Every place that turns data into code, starts a program or could be told to."""
    out = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            out += [f"import {a.name}" for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            out.append(f"from {node.module}")
        elif isinstance(node, ast.keyword) and node.arg in KEYWORDS:
            out.append(f"{node.arg}=")
        elif isinstance(node, ast.Constant) and node.value in KEYWORDS - {"shell"}:
            out.append(repr(node.value))
        elif isinstance(node, ast.Call) and (name := forbidden(node)):
            out.append(name)
    return out


def forbidden(call: ast.Call) -> str:
    """The name of a call that is not allowed, or nothing."""
    function = call.func
    if isinstance(function, ast.Name):
        return function.id if function.id in CALLS else ""
    if not isinstance(function, ast.Attribute) or not isinstance(function.value, ast.Name):
        return ""
    owner, name = function.value.id, function.attr
    if (owner, name) == ("torch", "load"):
        safe = {each.arg: each.value for each in call.keywords}.get("weights_only")
        return "" if isinstance(safe, ast.Constant) and safe.value is True else "torch.load without weights_only=True"
    return f"{owner}.{name}" if name in METHODS.get(owner, ()) else ""


def test_the_repository_runs_no_data_and_the_package_no_programs() -> None:
    """No pickle, no eval, no shell, no remote code, torch.load with weights alone.

    Tests, benchmarks, training and examples may start programs and read arrays.
    """
    found = []
    for folder in ("conestool", "benchmarks", "examples", "scripts", "spec", "tests", "training"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            names = [name for name in faults(path.read_text(encoding="utf-8")) if path != Path(__file__)]
            found += [f"{path}: {name}" for name in names if folder == "conestool" or not HARMLESS.search(name)]
    assert found == []


def test_each_of_these_would_be_found() -> None:
    """The check above can fail; the same things done safely are not found."""
    bad = """torch.load(f)
        torch.load(f, weights_only=False)
        torch.load(f, weights_only=flag)
        import pickle
        from marshal import loads
        import subprocess as s
        eval('1')
        exec(text)
        os.system('x')
        run('x', shell=True)
        load(x, trust_remote_code=True)
        load(x, **{'trust_remote_code': True})
        np.load(f, allow_pickle=True)
        __import__(name)"""
    assert [line for line in bad.splitlines() if not faults(line.strip())] == []
    assert not faults("torch.load(f, weights_only=True); model.eval(); re.compile('x')")


@pytest.fixture
def model(epsilon_folder: Path, tmp_path: Path) -> Path:
    """A copy of the small base model, to be spoilt."""
    return shutil.copytree(epsilon_folder, tmp_path / "model")


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": ["evil", "Pipeline"]},
        {"unet": ["evil", "UNet"]},
        {"scheduler": ["os", "system"]},
        {"vae": ["conestool.cli.main", "main"]},
        {"tokenizer": [["diffusers"], "x"]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_code_that_a_model_brings_is_never_run(changes: dict[str, object], model: Path) -> None:
    """A pipeline or part defined outside diffusers and transformers is refused before diffusers reads the folder."""
    index = model / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))
    for place in (model / "evil.py", model / "unet" / "evil.py", model / "pipeline.py"):
        place.write_text(f"open({str(model / 'pwned')!r}, 'w')\n")
    with pytest.raises(ModelLoadError, match="needs code"):
        folder_source("model", model)
    assert not (model / "pwned").exists()


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.target), "w")


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
def test_pickled_weights_are_never_read(part: str, model: Path, cones: Cones, work: Path) -> None:
    """A model that has weights as a pickle instead of safetensors is refused, and the pickle stays shut."""
    (model / f"{part}.safetensors").unlink()
    for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin", "model.ckpt"):
        (model / part).with_name(name).write_bytes(pickle.dumps(Bomb(model / "pwned")))
    (work / "x.ckpt").write_bytes(pickle.dumps(Bomb(model / "pwned")))
    for path in (model, work / "x.ckpt"):
        assert cones("render", "a dog", "--no-cones", "--model", path).code == 7
        assert not (model / "pwned").exists()


def pinned() -> set[str]:
    """Normalized names in constraints.txt, where every line pins one version."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pairs = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    assert all(pairs)
    return {normal(pair[1]) for pair in pairs if pair}


def normal(name: str) -> str:
    """A package name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(wanted: list[str]) -> set[str]:
    """The names of these requirements and, as far as they are installed, of all that they require here."""
    seen: set[tuple[str, ...]] = set()
    todo = [(Requirement(each), set[str]()) for each in wanted]
    while todo:
        one, extras = todo.pop()
        if one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        if (key := (normal(one.name), *sorted(one.extras))) not in seen:
            seen.add(key)
            with contextlib.suppress(PackageNotFoundError):
                todo += [(Requirement(each), one.extras) for each in requires(key[0]) or ()]
    return {name for name, *_ in seen}


def test_everything_that_is_installed_is_pinned() -> None:
    """Every dependency, development tool and build backend of pyproject.toml, and what these bring along."""
    wanted = PROJECT["project"]["dependencies"] + PROJECT["build-system"]["requires"]
    wanted += [each for group in PROJECT["project"]["optional-dependencies"].values() for each in group]
    backend = {"packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers"}  # what pip installs for hatchling
    assert closure(wanted) | backend <= pinned()
    assert {"torch", "sympy", "mpmath"} <= closure(["torch"])
    assert "numpy" not in closure(["pytest"])


def test_the_security_rules_of_ruff_are_on() -> None:
    """The whole S family but seeded generators, and in the package itself without exceptions."""
    lint = PROJECT["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert [rule for rule in lint["ignore"] if rule.startswith("S")] == ["S311"]
    assert not [pattern for pattern in lint.get("per-file-ignores", {}) if pattern.startswith("conestool")]
    silenced = [path for path in PACKAGE.rglob("*.py") if re.search(r"noqa: *S\d", path.read_text(encoding="utf-8"))]
    assert not silenced


def test_continuous_integration_needs_no_secrets() -> None:
    """.ci/run reads no variable of the outside, downloads by pip alone, and asks for no rights."""
    script = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in script
    assert not re.search(r"curl|wget|sudo|\$\{?[A-Z_]*(TOKEN|SECRET|KEY|PASSWORD)", script)
    assert "-c constraints.txt" in (ROOT / "Makefile").read_text()
