#!/usr/bin/env bash
# Two subjects from photos to pictures, as a script would do it. Usage: examples/pipeline.sh [FOLDER]
# FIND holds more options for `cones find`, CONES_MODEL another base model than pocket.
set -euo pipefail

photos=$(cd "$(dirname "$0")" && pwd)
out=${1:-pipeline}
read -ra options <<< "${FIND:-}"
mkdir -p "$out"
cd "$out"

# One file per subject; a search that was interrupted goes on.
[[ -e dog.cone ]] || cones find "$photos/rex" -o dog.cone --resume "${options[@]}"
[[ -e hat.cone ]] || cones find "$photos/hat" -o hat.cone --resume "${options[@]}"

# Bytes from one command to the next.
cones merge dog.cone hat.cone -o - | cones extract - hat -o - | cmp - hat.cone
cones merge dog.cone hat.cone -o both.cone --overwrite

# JSON on stdout: loss on held-out photos, and on the control that zeroes random weights.
cones inspect both.cone --json --quiet | python -c '
import json, sys

for concept in json.load(sys.stdin)[0]["concepts"]:
    losses, density = concept["origin"]["losses"], concept["density"]
    found, random = (losses[key] / losses["held_out_before"] - 1 for key in ("held_out_after", "random_after"))
    print(concept["name"], f"{density:.2%}", f"{found:+.1%}", f"{random:+.1%}", sep="\t")
' > losses.tsv

# Prompts from stdin; stdout lists the pictures.
printf '%s\n' "a dog" "a dog in a hat" | cones render - -c both.cone -o pictures --overwrite > pictures.txt
