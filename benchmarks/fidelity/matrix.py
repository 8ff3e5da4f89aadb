"""The cross-subject matrix: every subject's set on every other's held-out photos, under that one's own prompt."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.fidelity.cells import Bench
from benchmarks.fidelity.plan import Search
from benchmarks.fidelity.store import Store
from conestool.search.parameters import trainable_kv_weights


def compare(store: Store, benches: Sequence[Bench], jobs: Sequence[Search], density: str) -> int:
    """Save the matrix of jobs that differ in their subject alone; returns 1 unless it was there.

    `losses[row][column]` is the change of the held-out loss of subject `column` under the set of `row`.
    """
    first, names = jobs[0], [job.subject for job in jobs]
    key = f"matrix/{first.seed}/{first.variant.name}/{density}"
    if len(jobs) < 2 or (store.has(key) and store.load(key)["subjects"] == names):
        return 0
    masks = {job.subject: store.load_mask(job.key(density)) for job in jobs}
    losses: dict[str, dict[str, float]] = {name: {} for name in names}
    for bench in benches:
        config = bench.config(first.variant, first.seed)
        with trainable_kv_weights(bench.model.denoiser) as params:
            probes = bench.probes(params, bench.split(config).validation, others=False)
            for name, mask in masks.items():
                weights = probes.objective.weights * ~mask
                losses[name][bench.subject.name] = probes.changes(weights)["held_out"]
    record = {"kind": "matrix", "subjects": names, "losses": losses, "variant": first.variant.name}
    store.save(key, record | {"density": density, "seed": first.seed})
    return 1
