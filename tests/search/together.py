"""A process of test_distributed.py: `torchrun --nproc-per-node 2 -m tests.search.together MODEL FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState

from conestool import format as cones
from conestool.concept import Cone
from conestool.errors import UsageError
from conestool.models.model import Model
from conestool.search import loss_terms
from conestool.search.config import Resources, SearchConfig
from conestool.search.distributed import DistributedState, join
from conestool.search.events import Event, Progress, no_callback
from conestool.search.find import find
from conestool.search.methods import METHODS
from conestool.search.methods.joint_mask import JointMaskConfig
from conestool.search.tune import TuneConfig, tune
from tests.support.photos import noisy_photos as photos
from tests.support.searches import quick
from tests.support.tiny_models import random_cone


def shared(method: str) -> SearchConfig:
    """The search by a method; in one the first process asks the model what photos show, and draws other things."""
    return quick(method, captions="auto", other_class_weight=1.0) if method == "taylor" else quick(method)


def main() -> None:
    """Search by every method, stop and resume, and refuse different photos; the first process writes the files."""
    loss_terms.NUM_EVAL_SAMPLES = 8  # as the fixture few_probes has it
    processes, _ = join("cpu")
    model, folder = Model.from_pretrained(sys.argv[1]), Path(sys.argv[2])
    for method in METHODS:
        cone = find(model, photos(), "dog", config=shared(method), processes=processes)
        cones.save(cone, folder / f"{method}-{processes.process_index}.cone")
    cones.save(interrupted(model, folder, processes), folder / f"resumed-{processes.process_index}.cone")
    for name, stop in (("tuned", 0), ("tuned-resumed", 2)):
        cones.save(tuned_together(model, folder, processes, stop), folder / f"{name}-{processes.process_index}.cone")
    try:
        find(model, photos()[processes.process_index :], "dog", config=quick(), processes=processes)
    except UsageError as error:
        (folder / f"different-{processes.process_index}.txt").write_text(str(error))
    PartialState().destroy_process_group()


def last_of(processes: DistributedState) -> bool:
    """Whether this is the process in which Ctrl-C is pressed."""
    return processes.process_index == processes.num_processes - 1


def is_step(event: Event, number: int) -> bool:
    """Whether the event tells that this step of the search is done."""
    return isinstance(event, Progress) and (event.stage, event.done) == ("search", number)


def tuning() -> TuneConfig:
    """Three large steps of the mask."""
    return TuneConfig(mask=JointMaskConfig(steps=3, lr=0.2), search=quick(num_validation_images=0))


def tuned_together(model: Model, folder: Path, processes: DistributedState, last: int = 0) -> Cone:
    """Two concepts tuned together; stopped by the last process after step `last`, and resumed."""
    cone, state = random_cone(model, "dog", "hat", density=0.2), folder / "tune.checkpoint"
    given: dict[str, Any] = {
        "config": tuning(),
        "class_images": dict.fromkeys(cone.names, photos()),
        "processes": processes,
    }

    def stop(event: Event) -> None:
        if last_of(processes) and is_step(event, last):
            os.kill(os.getpid(), signal.SIGINT)

    try:
        return tune(model, cone, dict.fromkeys(cone.names, photos()), callback=stop, checkpoint_path=state, **given)
    except KeyboardInterrupt:
        (folder / f"tune-stopped-{processes.process_index}.txt").write_text("stopped")
    return tune(
        model, cone, dict.fromkeys(cone.names, photos()), checkpoint_path=state, resume_from_checkpoint=True, **given
    )


def interrupted(model: Model, folder: Path, processes: DistributedState) -> Cone:
    """Stop after the second step because the last process alone had a Ctrl-C, then go on, with less memory."""
    state = folder / "state.checkpoint"

    def stop(event: Event) -> None:
        if last_of(processes) and is_step(event, 2):
            os.kill(os.getpid(), signal.SIGINT)

    try:
        find(model, photos(), "dog", config=quick(), callback=stop, checkpoint_path=state, processes=processes)
    except KeyboardInterrupt:
        (folder / f"stopped-{processes.process_index}.txt").write_text("stopped")
    least = Resources(micro_batch=1)
    again: dict[str, Any] = {
        "checkpoint_path": state,
        "resume_from_checkpoint": True,
        "processes": processes,
        "resources": least,
    }
    return find(model, photos(), "dog", config=quick(), callback=no_callback, **again)


if __name__ == "__main__":
    main()
