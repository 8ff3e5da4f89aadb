"""Plants faults into the reference reader, one at a time, and counts those that the test vectors see.

    python -m benchmarks.spec_faults [--count 100] [--seed 0]

A fault is one changed place of spec/reference: a check left out, a comparison or an arithmetic sign exchanged, `and`
for `or`, a number one higher. They are drawn from all such places, but for those of EQUIVALENT. A fault is seen if a
reader with it takes an invalid vector or names another rule, refuses a valid one, finds something else in it, fails or
never ends, on files or on model identity.
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
SECONDS = 6
"""Of CPU time for a vector; the longest takes a reader some 2."""
FILES = ("decoder", "header", "identity", "reader", "sections")
EXCHANGED: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.RShift: ast.LShift, ast.LShift: ast.RShift, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


LIBRARY = "zstandard refuses it too"
HUGE = "a file of 2^28 bytes is too large to keep"
PART = "how many are decoded at once decides nothing"
AGAIN = "a later check refuses it by the same rule"
EQUIVALENT = {
    "reader.py: @functools.lru_cache(maxsize=2)": "how many outcomes are kept decides nothing",
    'reader.py: need(5, size <= 2**20 and len(data) < 2 ** 28, "header or file too long")': HUGE,
    'reader.py: need(5, size <= 2**20 and len(data) <= 2**29, "header or file too long")': HUGE,
    'reader.py: need(5, size <= 2**20 and len(data) <= 3**28, "header or file too long")': HUGE,
    "identity.py: return rounded(bits, 7, -127, 127)": "no binary32 has an exponent below -126",
    "decoder.py: need(8, True, 'an array longer than the header')": AGAIN,
    'decoder.py: need(8, size <= len(self.data) + self.at, "an array longer than the header")': AGAIN,
    'decoder.py: need(10, number == 0 or key >= last, "keys out of order")': "equal keys are refused before",
    "sections.py: PORTION = 2**17": PART,
    "sections.py: PORTION = 3**16": PART,
    "sections.py: bits = np.unpackbits(plane[at // 8 : (at + len(gaps) + 8) // 8], count=len(gaps))": PART,
    'sections.py: need(31, frame[:4] == bytes.fromhex("28B52FFD") and len(frame) > 5, "no zstd frame")': AGAIN,
    'sections.py: need(31, at - 3 <= len(frame), "frame cut off")': AGAIN,
    'sections.py: need(31, not descriptor << 3 & 1 and (flag > 0 or single == 1), "descriptor")': LIBRARY,
    "sections.py: need(31, True, 'type of a block')": LIBRARY,
    'sections.py: need(31, kind != 4, "type of a block")': LIBRARY,
    "sections.py: need(31, True, 'size of the content')": LIBRARY,
    'sections.py: need(32, len(content) == size, "size of the content")': LIBRARY,
}
"""Changed lines that change nothing that a vector could show, each with the reason."""


def places(source: str) -> Iterator[tuple[int, str]]:
    """The nodes that a fault can be planted in: their numbers in the order of ast.walk, and the changed line."""
    tree = ast.parse(source)
    inside = {
        id(node) for part in tree.body if not isinstance(part, ast.Expr | ast.ImportFrom) for node in ast.walk(part)
    }
    for node in ast.walk(tree):  # types are not run
        for hint in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            inside -= {id(part) for part in ast.walk(hint)} if hint else set()
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in inside and planted(changed := copy.deepcopy(node)):
            yield number, changed_line(source, node, ast.unparse(ast.fix_missing_locations(changed)))


def changed_line(source: str, node: Any, after: str) -> str:
    """The line of a node, or the lines, with the node's text replaced."""
    lines = source.encode().split(b"\n")
    before, rest = lines[node.lineno - 1][: node.col_offset], lines[node.end_lineno - 1][node.end_col_offset :]
    changed: bytes = before + after.encode() + rest
    return changed.decode().strip()


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
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        if wrong_identity(modules["identity"], pairs):
            return "identity.json"
    except Exception:
        return "identity.json"
    for vector, data in files:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
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
    for found, row, expected in zip(cone.concepts, cone.header["concepts"], vector["concepts"], strict=True):
        words = [found.name, found.class_noun, found.identifier, cone.header["bases"][found.base]["id"]]
        if words != [expected[key] for key in ("name", "class_noun", "identifier", "base")]:
            return True
        if any(found.indices[param].tolist() != values for param, values in expected["indices"].items()):
            return True
        parameters = row.get("origin", {}).get("parameters")
        if json.dumps(parameters, sort_keys=True) != json.dumps(expected.get("parameters"), sort_keys=True):
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
        digests = {rounding: digest.hex() for rounding, digest in found["digests"].items()}
        if (found["structure"].hex(), digests) != (model["structure"], model["digests"]):
            return True
    for pair in record["pairs"]:
        x, y = ({**record["models"][pair[key]]} for key in ("x", "y"))
        y |= {key: record["models"][other][key] for key, other in pair["altered"].items()}
        for one in (x, y):
            one["tensors"] = {param: tensor["shape"] for param, tensor in one["tensors"].items()}
            one["digests"] = {
                rounding: each for rounding, each in one["digests"].items() if rounding not in pair["lacking"]
            }
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
    signal.signal(signal.SIGPROF, expire)
    assert not seen(load("", 0), files, record)
    every = [
        (name, number, f"{name}.py: {line}")
        for name in FILES
        for number, line in places((ROOT / f"spec/reference/{name}.py").read_text(encoding="utf-8"))
    ]
    assert EQUIVALENT.keys() <= {line for _, _, line in every}
    every = [place for place in every if place[2] not in EQUIVALENT]
    chosen = random.Random(options.seed).sample(every, min(options.count, len(every)))
    unseen = 0
    for name, number, line in chosen:
        try:
            file = seen(load(name, number), files, record)
        except Exception:
            file = "(it does not load)"
        signal.setitimer(signal.ITIMER_PROF, 0)
        if not file:
            unseen += 1
            print(f"unseen: {line}", flush=True)
    print(f"{len(chosen) - unseen} of {len(chosen)} faults are seen ({len(every)} places)")
    return 0 if unseen <= len(chosen) // 10 else 1


if __name__ == "__main__":
    sys.exit(main())
