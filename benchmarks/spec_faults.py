"""Plants faults into the reference reader, one at a time, and counts those that the test vectors see.

    python -m benchmarks.spec_faults [--count 100] [--seed 0]

A fault is one changed place of spec/reference: a check left out, a comparison or an arithmetic sign exchanged, `and`
for `or`, a number one higher. They are drawn from all such places. A fault is seen if a reader with it takes an invalid
vector or names another rule, refuses a valid one, finds something else in it, fails or never ends, on
files or on model identity.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import json
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
VECTORS = ROOT / "spec/vectors"
SECONDS = 60
"""Of CPU time; all vectors take a reader some 5."""
FILES = ("decoder", "header", "identity", "reader", "sections")
EXCHANGED: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.RShift: ast.LShift, ast.LShift: ast.RShift, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def places(tree: ast.Module) -> Iterator[int]:
    """The numbers, in the order of ast.walk, of the nodes of functions that a fault can be planted in."""
    inside = {
        id(node) for part in tree.body if not isinstance(part, ast.Expr | ast.ImportFrom) for node in ast.walk(part)
    }
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in inside and planted(copy.deepcopy(node)):
            yield number


def planted(node: ast.AST) -> str:
    """What was changed in a node, nothing if it cannot hold a fault."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "need":
        node.args[1] = ast.Constant(True)
        return "check left out"
    if isinstance(node, ast.Compare) and type(node.ops[0]) in EXCHANGED:
        node.ops[0] = EXCHANGED[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in EXCHANGED:
        node.op = EXCHANGED[type(node.op)]()
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        node.value += 1
        return "number"
    else:
        return ""
    return "sign"


def load(name: str, number: int) -> dict[str, ModuleType]:
    """The modules of the reference with a fault at one place of one of them."""
    for known in [known for known in sys.modules if known.startswith("spec.reference")]:
        del sys.modules[known]
    found = {}
    for file in ("rules", "decoder", "sections", "header", "reader", "identity"):
        path = ROOT / f"spec/reference/{file}.py"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if file == name:
            planted(list(ast.walk(tree))[number])
        spec = importlib.machinery.ModuleSpec(f"spec.reference.{file}", None, origin=str(path))
        module = sys.modules[spec.name] = found[file] = importlib.util.module_from_spec(spec)
        exec(compile(ast.fix_missing_locations(tree), str(path), "exec"), module.__dict__)  # noqa: S102
    return found


def seen(modules: dict[str, ModuleType], files: list[tuple[dict[str, Any], bytes]], pairs: dict[str, Any]) -> str:
    """The first vector that a reader with a fault is wrong about."""
    try:
        if wrong_identity(modules["identity"], pairs):
            return "identity.json"
    except Exception:
        return "identity.json"
    for vector, data in files:
        try:
            cone = modules["reader"].read(data)
        except modules["rules"].RuleError as error:
            if error.rule != vector.get("rule"):
                return str(vector["file"])
            continue
        except Exception:
            return str(vector["file"])
        if "rule" in vector or wrong(cone, vector):
            return str(vector["file"])
    return ""


def wrong(cone: Any, vector: dict[str, Any]) -> bool:
    """Whether a reader finds something else than the manifest says."""
    if [cone.id.hex(), list(cone.version)] != [vector["id"], vector["version"]]:
        return True
    for found, expected in zip(cone.concepts, vector["concepts"], strict=True):
        words = [found.name, found.class_noun, found.identifier, cone.header["bases"][found.base]["id"]]
        if words != [expected[key] for key in ("name", "class_noun", "identifier", "base")]:
            return True
        if any(found.indices[param].tolist() != values for param, values in expected["indices"].items()):
            return True
    return False


def wrong_identity(identity: ModuleType, record: dict[str, Any]) -> bool:
    """Whether digests or verdicts are others than those of identity.json."""
    for model in record["models"].values():
        tensors = {
            param: (tensor["shape"], [int(bits, 16) for bits in tensor["bits"]])
            for param, tensor in model["tensors"].items()
        }
        found = identity.describe(tensors)
        digests = {rung: digest.hex() for rung, digest in found["digests"].items()}
        if (found["structure"].hex(), digests) != (model["structure"], model["digests"]):
            return True
    for pair in record["pairs"]:
        x, y = ({**record["models"][pair[key]]} for key in ("x", "y"))
        for one in (x, y):
            one["tensors"] = {param: tensor["shape"] for param, tensor in one["tensors"].items()}
            one["digests"] = {rung: each for rung, each in one["digests"].items() if rung not in pair["lacking"]}
        if {identity.verdict(x, y), identity.verdict(y, x)} != {pair["verdict"]}:
            return True
    return False


def expire(*_: object) -> None:
    """A reader that takes so long never ends."""
    raise TimeoutError


def main() -> int:
    """Plant, read, print what was not seen, and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    manifest = json.loads((VECTORS / "manifest.json").read_text(encoding="utf-8"))
    files = [(vector, (VECTORS / vector["file"]).read_bytes()) for vector in manifest["valid"] + manifest["invalid"]]
    files.sort(key=lambda item: item[0]["file"].startswith("valid/limit"))  # those that take long come last
    record = json.loads((VECTORS / "identity.json").read_text(encoding="utf-8"))
    sources = {name: ast.parse((ROOT / f"spec/reference/{name}.py").read_text(encoding="utf-8")) for name in FILES}
    assert not seen(load("", 0), files, record)
    signal.signal(signal.SIGPROF, expire)
    every = [(name, number) for name, tree in sources.items() for number in places(tree)]
    chosen = random.Random(options.seed).sample(every, min(options.count, len(every)))
    unseen = 0
    for name, number in chosen:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            file = seen(load(name, number), files, record)
        except Exception:
            file = "(it does not load)"
        signal.setitimer(signal.ITIMER_PROF, 0)
        if not file:
            unseen += 1
            node = list(ast.walk(sources[name]))[number]
            before = ast.unparse(node)
            planted(changed := copy.deepcopy(node))
            after = ast.unparse(ast.fix_missing_locations(changed))
            line = getattr(node, "lineno", 0)
            print(f"unseen: spec/reference/{name}.py:{line}: {before[:90]}  ->  {after[:90]}", flush=True)
    print(f"{len(chosen) - unseen} of {len(chosen)} faults are seen ({len(every)} places)")
    return 0 if unseen <= len(chosen) // 10 else 1


if __name__ == "__main__":
    sys.exit(main())
