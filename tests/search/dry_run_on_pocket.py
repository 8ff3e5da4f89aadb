"""A dry run on pocket and then the search itself, and what both took: `python -m tests.search.dry_run_on_pocket`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from conestool.images.photos import read_photos
from conestool.models.memory import peak_memory
from conestool.models.model import Model
from conestool.search.config import SearchConfig
from conestool.search.context import SearchContext
from conestool.search.find import find, resolve_names
from conestool.search.memory import dry_run

EXAMPLES = Path(__file__).parents[2] / "examples" / "rex"
PLAN = SearchConfig(
    method="mask,steps=6", batch_size=8, other_class_weight=0, num_crops=0, num_class_images=8, captions="none"
)


def main() -> None:
    """Print bytes beside those of the loaded model, and seconds, as estimated and as they were."""
    model, photos = Model.from_pretrained("pocket"), read_photos([EXAMPLES])[0]
    before = forget()
    told = dry_run(SearchContext(model=model, config=PLAN), photos, resolve_names(model, "dog", None, "sks"))
    forget()
    began = time.perf_counter()
    find(model, photos, "dog", config=PLAN)
    took, most = time.perf_counter() - began, peak_memory(torch.device("cpu"))
    found = {"told": (told.memory or 0) - before, "was": (most or 0) - before}
    print(json.dumps({**found, "seconds_told": told.seconds, "seconds_were": took}))


def forget() -> int:
    """Forget the peak of memory; returns the bytes in RAM now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory(torch.device("cpu")) or 0


if __name__ == "__main__":
    main()
