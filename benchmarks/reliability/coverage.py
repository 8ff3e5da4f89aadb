"""Coverage-guided fuzzing of the reader with atheris.

    python -m benchmarks.reliability.coverage --seconds 300 [--folder build/coverage]

libFuzzer chooses files by the lines of conestool.format and of the independent reader that they reach. What it makes of
them are the ways of tests/hostile/mutants.py where a file is valid, and its own changes with checksums put
right where it is not. The verdict is that of the campaigns (tests/hostile/compare_readers.py). Valid vectors are the
first corpus; the corpus stays in the folder, and the next run goes on with it. A file that is at fault stays there as
`crash-*`, and the exit code is 1. No file may take 2 GiB.

atheris is no dependency of the project, since there are no wheels of it for every system. To install it:
`python -m pip install atheris==3.0.0`.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import subprocess
import sys
from pathlib import Path

MISSING = (
    "atheris is not installed: python -m pip install atheris==3.0.0 (or into a folder on PYTHONPATH, with --target)"
)
LONGEST = 8192


def main() -> int:
    """Fuzz in a process of its own, since libFuzzer ends the one that it runs in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path("build/coverage"))
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print(MISSING, file=sys.stderr)
        return 2
    corpus = options.folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    arguments = [
        f"-max_total_time={options.seconds}",
        f"-artifact_prefix={options.folder}/",
        f"-max_len={LONGEST}",
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        str(corpus),
        str(Path(__file__).parents[2] / "spec/vectors/valid"),
    ]
    script = f"from benchmarks.reliability.coverage import fuzz; fuzz({arguments!r})"
    done = subprocess.run([sys.executable, "-c", script], check=False)
    crashes = sorted(path for path in options.folder.iterdir() if path.is_file())
    for path in crashes:
        print(path)
    print(f"{len(list(corpus.iterdir()))} files in the corpus, {len(crashes)} at fault")
    return 1 if crashes or done.returncode else 0


def fuzz(arguments: list[str]) -> None:
    """Run libFuzzer on the judge; this doesn't return."""
    import atheris

    with atheris.instrument_imports(include=["conestool", "spec.reference"]):
        from spec.reference.reader import outcome
        from spec.reference.rules import RuleError
        from tests.hostile.compare_readers import judge
        from tests.hostile.mutants import mutate
        from tests.support.forging import join, mend

    def changed(data: bytes, most: int, seed: int) -> bytes:
        """A file changed by one of the ways, or by libFuzzer with its checksums put right."""
        rng = random.Random(seed)
        if rng.random() < 0.7 and not isinstance(outcome(data), RuleError):
            found = mutate(data, rng)[1]
        else:
            found = sealed(atheris.Mutate(data, most))
        return found[:most]

    def sealed(data: bytes) -> bytes:
        """A file whose CRC, sums and ids are right where its lengths allow it."""
        size = int.from_bytes(data[12:16].ljust(4, b"\0"), "little")
        return mend(join(data[20 : 20 + size], [data[20 + size :]], data.ljust(20, b"\0"))) if len(data) > 20 else data

    def test(data: bytes) -> None:
        """Fail if the judge finds a fault."""
        if fault := judge(data).fault:
            raise AssertionError(fault)

    atheris.Setup([sys.argv[0], *arguments], test, custom_mutator=changed)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
