"""A process that predicts a search on pocket, then does it, and tells both: `python -m tests.search.forecasting`."""

from __future__ import annotations

import json
import time
from pathlib import Path

from PIL import Image

from conestool.diffusion.models import load_model
from conestool.search import Settings, find
from conestool.search.forecast import Job, forecast, resident
from conestool.search.resources import Resources

EXAMPLES = Path(__file__).parents[2] / "examples" / "dog"
PLAN = Settings(
    batch=16, prior_weight=0, contrast=0, others=0, crops=0, class_images=4, captions="none", options={"steps": 4}
)


def peak() -> int:
    """The most bytes in RAM since `forget`, by /proc."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def main() -> None:
    """Print bytes and seconds as predicted and as they were."""
    model = load_model("pocket")
    photos = [Image.open(EXAMPLES / f"{number}.jpg") for number in range(1, 4)]
    told = forecast(model, Job(len(photos), 0, PLAN, Resources()))
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")
    began = time.perf_counter()
    find(model, photos, "dog", settings=PLAN, class_pictures=[*photos, photos[0]])
    took = time.perf_counter() - began
    print(
        json.dumps(
            {"told": told.memory - before, "was": peak() - before, "seconds_told": told.seconds, "seconds_were": took}
        )
    )


if __name__ == "__main__":
    main()
