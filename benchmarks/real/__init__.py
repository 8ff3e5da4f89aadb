"""The first thing to run with real weights: DreamBooth's or CustomConcept101's subjects on a Stable Diffusion.

`python -m benchmarks.real --model M --data D --clip C --dino N --out F` finds a concept for every subject, trains a
LoRA beside it, draws the data set's prompts and writes `real.json`, `real.md` and `sheet.png`. A stopped run resumes.
`dataset` reads both data sets, `plan` holds the settings and what they cost, `bench` does one subject with one seed,
`lora` trains, `report` writes. `python -m benchmarks.real.rehearse` does all of it on random weights of the real sizes.
docs/experiments/real.md says how to get what it needs.
"""

from conestool.models._logging import silence_import

silence_import()
