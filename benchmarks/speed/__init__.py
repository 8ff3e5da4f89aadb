"""Time and memory of conestool beside what it is compared with: `python -m benchmarks.speed --out build/speed`.

Parts: `steps` (a step of every search method, of the bare forward and backward pass to the K/V weights, of LoRA and of
full fine-tuning), `memory` (peak of each, and the activations kept at full size), `render` (with concepts and bare),
`files` (encode, decode, merge, diff, inspect), `start` (every command), and on CUDA `find` (a whole search).

Models have the real configurations of Stable Diffusion 1.5 and XL and random weights; nothing is downloaded. On the CPU
all times are CPU seconds of the process, on one thread. What is compared is measured in turn within each round, and a
ratio is the median over rounds of each round's ratio, so that other work on the machine touches both sides. Rounds are
kept in `--out`, and a second run does only those that are missing. Writes `speed.md` there.
"""
