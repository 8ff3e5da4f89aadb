"""How faithful concepts are: every search method beside its controls and float ceilings, on subjects of unseen design.

`python -m benchmarks.fidelity --out build/fidelity` runs what is missing there, `python -m benchmarks.fidelity.report`
makes docs/experiments/results.md of it. `subjects` holds the split into halves, `plan` says what is run, `cells` runs
one search or one ceiling, `matrix` compares subjects, `store` keeps results.
"""
