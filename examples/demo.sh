#!/bin/sh
# The main job on the base model that ships with conestool: two subjects, one picture. Usage: examples/demo.sh [FOLDER]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-demo}

mkdir -p "$out/photos" "$out/hats"
cp "$here"/rex/*.jpg "$out/photos/"
cp "$here"/hat/*.jpg "$out/hats/"
cd "$out"

run() {
    printf '\n$ %s\n' "$*" >&2
    "$@"
}

run cones find ./photos -o dog.cone --overwrite
run cones find ./hats -o hat.cone --overwrite
run cones merge dog.cone hat.cone --overwrite
run cones render "a dog in a hat" --regions --overwrite
run cones inspect dog+hat.cone
run python "$here/sheet.py"
printf '\nLook at %s/sheet.png\n' "$out" >&2
