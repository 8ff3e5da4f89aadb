"""Random hostile strings in every field of a file, in file names and arguments, through every light command.

Each round forges one file with a random string at one to three places of its header (strings, and unknown keys in any
map), gives it a random name, runs one random command on it in a process of its own, with its outputs in pipes or on a
terminal of random width, and checks: no crash and no "bug"; nothing that a terminal acts on in any output but what rich
sends itself; JSON that parses; a bounded length of what people see; no file that a shell would have made. `pull` and
`push` talk to a stand-in of the Hub, whose repositories hold the forged files under their names; the model card must be
as clean as a screen.

    python -m benchmarks.reliability.text --count 2000 --seed 0
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from tests.hostile.texts import POISON, leaks, on_screen, places, plain, poisoned
from tests.support import process
from tests.support.command_line import concept, save_cone
from tests.support.forging import join, mend, parts
from tests.support.hub_server import WRITER, Hub, serving

LONGEST = 200_000
"""Bytes that a command may say to people."""
PIECES = [
    POISON,
    "\x1b[2J",
    "\x1b]52;c;AAAA\x07",
    "\x9b5n",
    "\u202e",
    "\u2066",
    "\u200b",
    "\u061c",
    "\U000e0041",
    "\r",
    "\n",
]
PIECES += [
    "[red]",
    "[/]",
    "[link=x]",
    "[/nope]",
    "{0}",
    "%s",
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "'",
    '"',
]
PIECES += [
    "\\",
    "|",
    "<b>",
    "&amp;",
    "²",
    "Ⅷ",
    "..",
    ".",
    "-",
    "--help",
    "~",
    "~x",
    "é",
    "e\u0301",
    "猫",
    "\U0001f415",
    "a",
    " ",
]
COMMANDS = (
    "inspect F",
    "inspect F -v",
    "inspect F --json",
    "inspect F --plot p.png --overwrite",
    "merge F c.cone",
    "merge F F -o m.cone --overwrite",
    "extract F N --overwrite",
    "extract F dog --overwrite --json",
    "diff F c.cone",
    "diff c.cone F --json",
    "inspect N --traceback",
    "merge c.cone c.cone -o N/x.cone",
    "render N -c F --size N",
    "render N --from F",
    "find N -o x.cone --notes N",
    "eval F --photos N",
    "eval F --photos dog=N --prompts N --json",
    "eval F --model N --offline --clip N",
    "tune F --photos N=N -o t.cone",
    "tune F c.cone --photos dog=N --photos cat=N --model N --offline",
    "apply F -o a.safetensors --model N --offline",
    "pull N",
    "pull there/cones N -o p.cone",
    "pull there/cones -o p.cone --json",
    "pull there/cones F -o p.cone --overwrite --json",
    "push F N",
    "push F there/made --message N --license N",
    "push N F there/cones --overwrite --json",
)


def text(rng: random.Random) -> str:
    """A random hostile string, at times as long as a header takes."""
    if rng.random() < 0.05:
        return (rng.choice(PIECES) + "x") * (200_000 // 40)
    found = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 8)))
    return found + "".join(
        chr(rng.choice((rng.randrange(0x20), rng.randrange(0x7F, 0x100), rng.randrange(0xD800)))) for _ in range(4)
    )


def forged(rng: random.Random) -> bytes:
    """A file with random strings at random places; checksums and content ids are right."""
    header, sections = parts(plain())
    for _ in range(rng.choice((1, 1, 2, 3))):
        header = poisoned(header, rng.choice(list(places(header))), text(rng))
    data = join(header, sections, plain())
    return mend(data) if rng.random() < 0.5 else data


def name(rng: random.Random, longest: int = 200) -> str:
    """A random file name or argument."""
    found = text(rng).replace("/", "").replace("\0", "").encode()[:longest].decode(errors="ignore").lstrip("-")
    return found if found.strip(". ") else "x"


def fill(word: str, file: str, rng: random.Random) -> str:
    """A word of a command line, with the file for F and a random name for N."""
    return {"F": file, "N": name(rng), "N/x.cone": f"{name(rng)}/x.cone"}.get(word, word)


def attack(folder: Path, hub: Hub, rng: random.Random) -> tuple[str, str, list[str]]:
    """One round: the command, how it ended, and what was wrong."""
    hub.repositories = {"there/cones": {"main": folder}}
    shutil.rmtree(hub.place, ignore_errors=True)
    file = folder / name(rng)
    file.write_bytes(forged(rng))
    line = rng.choice(COMMANDS)
    words = [fill(word, file.name, rng) for word in line.split()]
    if rng.random() < 0.5:
        done = process.on_terminal(*words, cwd=folder, columns=rng.choice((1, 20, 40, 80, 200)), HF_TOKEN=WRITER)
        found = [f"screen got {on_screen(done.out)!r}"] if on_screen(done.out) else []
    else:
        done = process.cones(*words, cwd=folder, HF_TOKEN=WRITER)
        bad = leaks(done.err) | (leaks(done.out) if "--json" in line else set())
        found = [f"pipe got {bad!r}"] if bad else []
        found += not_json(done.out) if "--json" in line and done.code in (0, 1) else []
    if done.code not in (0, 1, 2, 3, 4, 5, 7):
        found.append(f"exit code {done.code}: {(done.err or done.out)[-300:]!r}")
    if len(done.err if done.err else b"" if "--json" in line else done.out) > LONGEST:
        found.append(f"said {len(done.err or done.out)} bytes")
    if list(folder.rglob("pwned")):
        found.append("a shell ran")
    for card in (folder / "README.md", *hub.place.rglob("README.md")):
        if card.exists() and (bad := leaks(card.read_bytes())):
            found.append(f"the card has {bad!r}")
    for path in folder.iterdir():
        if path.name != "c.cone":
            path.unlink()
    return line, str(done.code), [f"{line} {words!r}: {each}" for each in found]


def not_json(data: bytes) -> list[str]:
    """What is wrong with a JSON output."""
    try:
        json.loads(data)
    except ValueError as error:
        return [f"no JSON: {error}"]
    return []


def main() -> None:
    """Run the rounds and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    begin, codes, wrong = time.monotonic(), collections.Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        folder, hub = Path(place) / "work", Hub({}, place=Path(place) / "served")
        folder.mkdir()
        save_cone(folder / "c.cone", concept("cat", "vlk", seed=2))
        with serving(hub, Path(place) / "hub", patch):
            for _ in range(options.count):
                _line, code, found = attack(folder, hub, rng)
                codes[code] += 1
                wrong += found
    for each in wrong[:20]:
        print(each[:1000])
    took = time.monotonic() - begin
    ends = ", ".join(f"{number} times {code}" for code, number in sorted(codes.items()))
    print(f"{options.count} hostile commands, {len(wrong)} faults, {took:.0f} s; exit codes: {ends}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
