"""Would you know this dog again? What pictures show of a subject, read attribute by attribute, beside every control.

`python -m benchmarks.identity --out build/identity` runs what is missing there and writes `identity.json` (rows of
`name`, `goal`, `value`, `met`) and the tables of docs/experiments/identity.md. `subjects` says who is shown and who
stands beside them in a line-up, `cells` draws and reads, `together` does so for several subjects in one picture
(`regions`: each in a part of it), `measures` turns readings into figures. Readings are kept, pictures as sheets; a
stopped run resumes.
"""
