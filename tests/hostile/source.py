"""Numbered mutants: any one can be made again from its number and the seed alone."""

from __future__ import annotations

import random

from tests.hostile.mutants import mutate
from tests.hostile.systematic import FILES, sweep
from tests.hostile.writer import random_file

FRESH = 0.05
"""How often a mutant is made of a random file instead of a vector (making one takes longer than reading it)."""


class Source:
    """First the sweeps, one file each; then random mutants without end."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.swept = sweep()

    def mutant(self, number: int) -> tuple[str, bytes]:
        """Kind and bytes of a mutant."""
        if number < len(self.swept):
            kind, make = self.swept[number]
            return kind, make()
        rng = random.Random(f"{self.seed}/{number}")
        return mutate(random_file(rng)[0] if rng.random() < FRESH else rng.choice(FILES), rng)
