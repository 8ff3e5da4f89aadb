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
from tests.support.command_line import Cones

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "conestool"
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "subprocess", "pty", "ctypes"}
"""Modules that the package never imports: they turn data into code, or start other programs."""
CALLS = {"eval", "exec", "compile", "__import__", "breakpoint"}
METHODS = {
    "os": {
        "system",
        "popen",
        "startfile",
        *(f"{kind}{end}" for kind in ("exec", "spawn") for end in ("l", "lp", "v", "vp")),
    },
    "numpy": {"load", "loadtxt", "fromfile"},
    "np": {"load", "loadtxt", "fromfile"},
    "yaml": {"load", "unsafe_load", "full_load"},
}
HARMLESS = re.compile(r"(import|from) (subprocess|pty)|np\.load|exec|compile")
"""What only the package itself may not do: numpy unpickles when it is told to, and examples are run."""
KEYWORDS = {"trust_remote_code", "shell", "allow_pickle", "custom_pipeline"}


def faults(tree: ast.AST) -> list[str]:
    """Every place that turns data into code, starts a program or could be told to."""
    out = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            out += [f"{node.lineno}: import {a.name}" for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            out.append(f"{node.lineno}: from {node.module}")
        elif isinstance(node, ast.keyword) and node.arg in KEYWORDS:
            out.append(f"{node.value.lineno}: {node.arg}=")
        elif isinstance(node, ast.Constant) and node.value in KEYWORDS - {"shell"}:
            out.append(f"{node.lineno}: {node.value!r}")
        elif isinstance(node, ast.Call) and (name := forbidden(node)):
            out.append(f"{node.lineno}: {name}")
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


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_package_runs_no_data_and_no_programs(path: Path) -> None:
    """No pickle, no eval, no shell, no remote code, and torch.load with weights alone."""
    assert faults(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_the_rest_of_the_repository_loads_no_code_either() -> None:
    """Tests, benchmarks, training and examples may start programs and read arrays, but unpickle and trust nothing."""
    found = []
    for folder in ("benchmarks", "examples", "scripts", "spec", "tests", "training"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = [fault.split(": ", 1)[1] for fault in faults(tree) if path != Path(__file__)]
            found += [f"{path}: {name}" for name in names if not HARMLESS.search(name)]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=flag)",
        "import pickle",
        "from marshal import loads",
        "import subprocess as s",
        "eval('1')",
        "exec(text)",
        "os.system('x')",
        "run('x', shell=True)",
        "load(x, trust_remote_code=True)",
        "load(x, **{'trust_remote_code': True})",
        "np.load(f, allow_pickle=True)",
        "__import__(name)",
    ],
)
def test_each_of_these_would_be_found(line: str) -> None:
    """The check above can fail."""
    assert faults(ast.parse(line))


def test_the_same_things_done_safely_are_not_found() -> None:
    """Weights alone, a module's eval mode, a pattern compiled."""
    assert not faults(ast.parse("torch.load(f, weights_only=True); model.eval(); re.compile('x')"))


@pytest.fixture
def model(epsilon_folder: Path, tmp_path: Path) -> Path:
    """A copy of the small base model, to be spoilt."""
    return shutil.copytree(epsilon_folder, tmp_path / "model")


def spoil(model: Path, **changes: object) -> None:
    """Change model_index.json, and leave code beside it that would show that it ran."""
    path = model / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    code = f"open({str(model / 'pwned')!r}, 'w')\n"
    for place in (model / "evil.py", model / "unet" / "evil.py", model / "pipeline.py"):
        place.write_text(code)


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
    spoil(model, **changes)
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
    done = cones("render", "a dog", "--no-cones", "--model", model)
    assert done.code == 7, done.err
    assert not (model / "pwned").exists()
    (work / "x.ckpt").write_bytes(pickle.dumps(Bomb(model / "pwned")))
    assert cones("render", "a dog", "--no-cones", "--model", work / "x.ckpt").code == 7
    assert not (model / "pwned").exists()


def pinned() -> dict[str, str]:
    """Versions by normalized name in constraints.txt."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pairs = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    assert all(pairs), "every line pins one version"
    return {normal(pair[1]): pair[2] for pair in pairs if pair}


def normal(name: str) -> str:
    """A package name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_everything_that_is_installed_is_pinned() -> None:
    """Every dependency, development tool and build backend of pyproject.toml, and what these bring along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["build-system"]["requires"]
    wanted += [each for group in project["project"]["optional-dependencies"].values() for each in group]
    assert closure(wanted) | BACKEND <= pinned().keys()


BACKEND = {"packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers"}
"""What hatchling needs, which pip installs apart from everything else."""


def closure(wanted: list[str]) -> set[str]:
    """The names of these requirements and, as far as they are installed, of all that they require here."""
    seen: set[tuple[str, ...]] = set()
    todo = [Requirement(each) for each in wanted]
    while todo:
        one = todo.pop()
        if one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
            continue
        if (key := (normal(one.name), *sorted(one.extras))) not in seen:
            seen.add(key)
            with contextlib.suppress(PackageNotFoundError):
                todo += map(Requirement, requires(key[0]) or ())
    return {name for name, *_ in seen}


def test_the_closure_follows_what_packages_require() -> None:
    """Torch is built upon sympy, and that upon mpmath; an extra that nobody asked for is not followed."""
    assert {"torch", "sympy", "mpmath"} <= closure(["torch"])
    assert "numpy" not in closure(["pytest"])


def test_the_security_rules_of_ruff_are_on() -> None:
    """The whole S family but seeded generators, and in the package itself without exceptions."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
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
